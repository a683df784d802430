"""The least that uvloop and httptools cost: a parser's callbacks, and canned bytes for a reply.

``python -m apps.floor PORT APPLICATION [CERTFILE KEYFILE]``
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import httptools
import uvloop

from .payloads import CHUNK, CHUNKS, DOCUMENT, DOWNLOAD, HELLO

HEAD = b"HTTP/1.1 200 OK\r\nserver: floor\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-type: text/plain\r\n"


def whole(content: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(content) + content


def chunked(chunk: bytes, times: int) -> bytes:
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"%x\r\n%b\r\n" % (len(chunk), chunk)) * times + b"0\r\n\r\n"


CANNED = {
    "hello": whole(HELLO),
    "document": whole(DOCUMENT),
    "download": whole(DOWNLOAD),
    "stream": chunked(CHUNK, CHUNKS),
    "upload": whole(b"%d" % 65536),
}


class Floor(asyncio.Protocol):
    """Every callback that a server needs is there: one that is not there costs nothing."""

    def __init__(self, reply: bytes) -> None:
        self.reply, self.last_reply = reply, reply.replace(HEAD, HEAD + b"connection: close\r\n")
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        if self.parser.should_keep_alive():
            self.transport.write(self.reply)
        else:
            self.transport.write(self.last_reply)
            self.transport.close()


async def main(port: str, application: str, *certificate: str) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    reply = CANNED[application]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Floor(reply), "127.0.0.1", int(port), backlog=2048, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
