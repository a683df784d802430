"""What is asked of the servers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.apps.payloads import CHUNK, CHUNKS, DOCUMENT, DOWNLOAD, HELLO
from benchmarks.drivers.http import Requests
from benchmarks.drivers.websocket import Broadcasts, Echoes

#: What a browser sends with each request.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: http://localhost/somewhere/else",
    "Connection: keep-alive",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Priority: u=0, i",
)


def request(path: str = "/", *fields: str, body: bytes = b"") -> bytes:
    """A request as it is sent; it has one field, ``Host``, beside those given."""
    if body:
        fields = (*fields, f"Content-Length: {len(body)}")
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Workload:
    """One thing that servers do."""

    name: str
    title: str
    #: The name of the application in the modules of ``apps``.
    application: str
    traffic: Requests | Echoes | Broadcasts
    #: Whether the server writes an access log, and whether it speaks TLS.
    access_log: bool = False
    tls: bool = False
    #: Whether the connections are idle, so that what counts is their memory.
    idle: bool = False


_HELLO = Requests(request(), len(HELLO))
_ITEM = b'{"number":7,"name":"thing","tags":["a","b","c"],"prices":{"net":1.5,"gross":1.785}}'
_UPLOAD = request(body=bytes(65536))
_PIPELINED = replace(_HELLO, sent=request() * 16, pipelined=16)
_ONCE = replace(_HELLO, sent=request("/", "Connection: close"), closes=True)


def _echo(name: str, title: str, size: int, connections: int = 32) -> list[Workload]:
    """An echo's two workloads."""
    plain = Echoes(size, connections)
    return [
        Workload(f"websocket-{name}", f"WebSocket, echo of {title}", "echo", plain),
        Workload(
            f"websocket-{name}-deflate",
            f"WebSocket, echo of {title}, compression offered",
            "echo",
            replace(plain, deflate=True),
        ),
    ]


#: All workloads by name, in the order of reports.
WORKLOADS = {
    workload.name: workload
    for workload in [
        Workload("hello", "20 bytes, 1 request header", "hello", _HELLO),
        Workload("hello-14", "20 bytes, 14 request headers", "hello", replace(_HELLO, sent=request("/", *BROWSER))),
        Workload("json-10k", "JSON of 10 KiB", "document", replace(_HELLO, expects=len(DOCUMENT))),
        Workload("download-1m", "download of 1 MiB", "download", Requests(request(), len(DOWNLOAD), connections=16)),
        Workload("stream-100", "streamed response of 100 chunks", "stream", Requests(request(), CHUNKS * len(CHUNK))),
        Workload("upload-64k", "upload of 64 KiB", "upload", Requests(_UPLOAD, len("65536"))),
        Workload("pipelined", "20 bytes, 16 requests pipelined", "hello", _PIPELINED),
        Workload("fastapi", "FastAPI endpoint, JSON", "fastapi", Requests(request("/items/7?name=thing"), len(_ITEM))),
        Workload("access-log", "20 bytes, with the access log on", "hello", _HELLO, access_log=True),
        Workload("connect", "20 bytes, a connection each", "hello", _ONCE),
        Workload("connect-tls", "20 bytes, a TLS connection each", "hello", _ONCE, tls=True),
        Workload("idle", "1,000 idle connections", "hello", replace(_HELLO, connections=1000), idle=True),
        *_echo("64", "64 bytes", 64),
        *_echo("4k", "4 KiB", 4096),
        *_echo("1m", "1 MiB", 1 << 20, connections=4),
        Workload("websocket-idle", "1,000 idle WebSockets", "echo", Echoes(64, connections=1000), idle=True),
        Workload("broadcast", "WebSocket, broadcast to 1,000 members", "broadcast", Broadcasts(1000)),
    ]
}
