"""A bare client: bytes out, whole responses and WebSocket frames in; and a real client of WebSockets."""

import os
import select
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h11
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

DEADLINE = 15.0  # seconds; how long a test waits for what must happen


def request(
    path: str = "/hello",
    *headers: str,
    method: str = "GET",
    version: str = "1.1",
    host: str | None = "localhost",
    body: bytes = b"",
) -> bytes:
    """The bytes of one request; a body gets its Content-Length."""
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += headers
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*parts: bytes) -> bytes:
    """A whole chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3


def handshake(
    path: str = "/echo", *headers: str, version: str | None = "13", key: str | None = KEY, **more: Any
) -> bytes:
    """The bytes of a request for a WebSocket."""
    fields = ["Connection: Upgrade", "Upgrade: websocket"]
    fields += [f"Sec-WebSocket-Version: {version}"] if version is not None else []
    fields += [f"Sec-WebSocket-Key: {key}"] if key is not None else []
    return request(path, *fields, *headers, **more)


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(payload: bytes | str, opcode: int = TEXT, *, more: bool = False, rsv: int = 0) -> bytes:
    """The bytes of a client's frame; `more` fragments follow it, `rsv` is the reserved bits (4 means compressed)."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    first = (0 if more else 0x80) | rsv << 4 | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    key = os.urandom(4)
    mask = (key * (size // 4 + 1))[:size]
    masked = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
    return head + key + masked.to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(struct.pack("!H", code) + reason.encode(), CLOSE)


@dataclass
class Reply:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes = b""
    interim: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.body.decode()


class Wire:
    """A client's end of one connection, byte for byte."""

    def __init__(self, address: Any, family: int | None = None, receive_buffer: int = 0, send_buffer: int = 0) -> None:
        if family is None:
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.socket.connect(address)
        self._unparsed = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str = "/hello", *headers: str, **options: Any) -> Reply:
        """A request and its reply."""
        self.send(request(path, *headers, **options))
        return self.reply(options.get("method", "GET"))

    def reply(self, method: str = "GET") -> Reply:
        """Read one whole response, interim ones before it; h11.RemoteProtocolError if it is cut short."""
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "localhost")]))
        parser.send(h11.EndOfMessage())
        if self._unparsed:  # b"" would mean the end
            parser.receive_data(self._unparsed)
        interim: list[int] = []
        reply: Reply | None = None
        body: list[bytes] = []
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                reply = Reply(event.status_code, event.http_version.decode(), headers, interim=interim)
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise ConnectionError(f"no reply, but {event!r}")
        assert reply is not None
        reply.body = b"".join(body)
        self._unparsed = parser.trailing_data[0]
        return reply

    def until(self, end: bytes) -> bytes:
        """Read up to and with `end`."""
        while end not in self._unparsed:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError(f"the connection ended after {self._unparsed!r}")
            self._unparsed += data
        found, _, self._unparsed = self._unparsed.partition(end)
        return found + end

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self._unparsed) < size:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError(f"the connection ended after {self._unparsed!r}")
            self._unparsed += data
        found, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        return found

    def frame(self) -> tuple[int, bytes]:
        """Read one frame of the server: its first byte (0x80, the reserved bits and the opcode) and its payload."""
        first, size = self.exactly(2)
        if size > 125:  # A server's frames are not masked, or this is too much.
            assert size in (126, 127)
            size = int.from_bytes(self.exactly(2 if size == 126 else 8), "big")
        return first, self.exactly(size)

    def closing(self) -> tuple[int, str]:
        """The code and the reason of the server's close frame, which is what comes next."""
        first, payload = self.frame()
        assert first == 0x80 | CLOSE, (first, payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def reset(self) -> None:
        """End the connection by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def rest(self) -> bytes:
        """Read until the server closes; a reset is an error."""
        parts = [self._unparsed]
        self._unparsed = b""
        while data := self.socket.recv(65536):
            parts.append(data)
        return b"".join(parts)

    def count(self) -> int:
        """How many bytes come until the server closes; nothing is kept."""
        total = len(self._unparsed)
        self._unparsed = b""
        while data := self.socket.recv(1 << 20):
            total += len(data)
        return total

    def is_silent(self) -> bool:
        """Nothing has come, not even an end."""
        return self.stays_silent(0)

    def stays_silent(self, seconds: float) -> bool:
        """Nothing comes for so long, not even an end."""
        return not self._unparsed and not select.select([self.socket], [], [], seconds)[0]

    def say_no_more(self) -> None:
        """Close for writing only."""
        self.socket.shutdown(socket.SHUT_WR)


def refuses_connections(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE)
        # Where nobody listens, a client that was given the same port by chance is connected to itself.
        return sock.connect_ex((host, port)) != 0 or sock.getsockname() == sock.getpeername()


# -- a real client of WebSockets ----------------------------------------------------------------------


class WebSocket(ClientConnection):
    """The client of websockets, which waits for no message longer than a test does."""

    def recv(self, timeout: float | None = DEADLINE, decode: bool | None = None) -> Any:
        return super().recv(timeout, decode)

    def ask(self, message: str | bytes | Iterable[str] | Iterable[bytes]) -> Any:
        """Send a message, and receive one."""
        self.send(message)
        return self.recv()

    def closing(self) -> tuple[int, str]:
        """The code and the reason that the server closes with, without another message."""
        try:
            message = self.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd, "the connection ended without a close frame"
            return closed.rcvd.code, closed.rcvd.reason
        raise AssertionError(f"not closed, but a message: {message!r:.100}")


def websocket(uri: str, **options: Any) -> ClientConnection:
    """A WebSocket that is open, for a `with`, whose end closes it."""
    defaults = {"create_connection": WebSocket, "proxy": None, "ping_interval": None, "max_size": None}
    return connect(uri, **{**defaults, "open_timeout": DEADLINE, **options})  # type: ignore[arg-type]
