"""The client's side of a WebSocket, which the tests write out byte by byte, and little applications of such."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any

from .harness import Client, Worker, get, turn

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

#: What RFC 6455 section 1.3 has as the answer to that key.
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n" + ACCEPT + b"Connection: Upgrade\r\n\r\n"

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

#: The first byte of a frame: FIN (or not), a reserved bit that says "compressed" (or not), and the opcode.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A
FIN = 0x80
COMPRESSED = 0x40

Frame = tuple[int, bytes]


def handshake(path: str = "/", *fields: str, key: str = KEY, version: str = "13") -> bytes:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    return get(path, *upgrade, f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Version: {version}", *fields)


def head(kind: int, size: int, *, encoding: int = 0, masked: bool = True) -> bytes:
    """The head of a frame up to its mask, with the length in 7, 16 or 64 bits, or in as few as it needs for 0."""
    bit = 0x80 if masked else 0
    if encoding == 7 or (not encoding and size < 126):
        return bytes((kind, bit | size))
    if encoding == 16 or (not encoding and size < 1 << 16):
        return struct.pack("!BBH", kind, bit | 126, size)
    return struct.pack("!BBQ", kind, bit | 127, size)


def frame(kind: int, payload: bytes = b"", *, mask: bytes = b"\x37\xfa\x21\x3d", encoding: int = 0) -> bytes:
    """A frame of a client; an empty ``mask`` stands for none."""
    begin = head(kind, len(payload), encoding=encoding, masked=bool(mask)) + mask
    if mask and payload:
        repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
    return begin + payload


def text(content: str) -> bytes:
    return frame(TEXT, content.encode())


def binary(content: bytes) -> bytes:
    return frame(BINARY, content)


def close_payload(code: int | None, reason: str = "") -> bytes:
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


def close(code: int | None = 1000, reason: str = "") -> bytes:
    return frame(CLOSE, close_payload(code, reason))


def fragments(kind: int, *parts: bytes) -> bytes:
    """A message in as many frames as there are parts."""
    kinds = [kind & ~FIN, *[0] * (len(parts) - 1)]
    kinds[-1] |= FIN
    return b"".join(map(frame, kinds, parts))


def read_frame(data: bytes, begin: int = 0) -> tuple[Frame, int] | None:
    """The first byte and the payload of the server's frame that begins here, and where it ends; none if that has not
    come."""
    if len(data) < begin + 2:
        return None
    size, payload = data[begin + 1], begin + 2
    assert size < 0x80, "a server masks no frame"
    if size > 125:
        payload += 2 if size == 126 else 8
        size = int.from_bytes(data[begin + 2 : payload], "big")
        assert head(data[begin], size, masked=False) == data[begin:payload], "a length takes few bytes"
    if len(data) < payload + size:
        return None
    return (data[begin], data[payload : payload + size]), payload + size


def read_frames(data: bytes) -> list[Frame]:
    """All of the server's frames; nothing may be behind the last."""
    frames, end = [], 0
    while end < len(data):
        read = read_frame(data, end)
        assert read is not None, f"a frame of the server's is not whole: {data[end:]!r:.100}"
        frames.append(read[0])
        end = read[1]
    return frames


class WebSocket:
    """A WebSocket that is open."""

    def __init__(self, client: Client, answer: bytes) -> None:
        self.client = client
        #: The head of the answer to the handshake.
        self.answer = answer
        self._unread = b""

    def send(self, *frames: bytes) -> None:
        self.client.send(*frames)

    async def ask(self, *frames: bytes) -> list[Frame]:
        """Send, and take what comes in answer."""
        self.send(*frames)
        await turn()
        return self.take()

    def take(self) -> list[Frame]:
        """The frames that have come since the last call."""
        frames, end = [], 0
        self._unread += self.client.take()
        while (read := read_frame(self._unread, end)) is not None:
            frames.append(read[0])
            end = read[1]
        self._unread = self._unread[end:]
        return frames

    @property
    def state(self) -> str:
        return self.client.state


async def connect(worker: Worker, path: str = "/", *fields: str) -> WebSocket:
    """A WebSocket of this worker's, as soon as it is accepted."""
    client = worker.connect()
    answer = await client.ask(handshake(path, *fields))
    opening, end, frames = answer.partition(b"\r\n\r\n")
    assert opening.startswith(b"HTTP/1.1 101 "), answer
    socket = WebSocket(client, opening + end)
    socket._unread = frames
    return socket


# Little applications.


class Talk:
    """Accepts, and remembers its calls: ``'connect'``, each message, and the code and the reason of the end.

    ``answers`` are sent in the call for the handshake, instead of what accepts.
    """

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = answers or ({"accept": True},)
        self.calls: list[Any] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        kind = message["channel"]
        if kind == "websocket.connect":
            self.calls.append("connect")
            for answer in self.answers:
                await channels["reply"].send(answer)
        elif kind == "websocket.receive":
            self.calls.append(message["text"] if message["bytes"] is None else message["bytes"])
            await self.received(message, channels["reply"])
        else:
            self.calls.append((message["code"], message["reason"]))

    async def received(self, message: dict[str, Any], reply: Any) -> None:
        """For a subclass."""


class TalkBack(Talk):
    """Sends each message back."""

    async def received(self, message: dict[str, Any], reply: Any) -> None:
        if message["bytes"] is None:
            await reply.send({"text": message["text"]})
        else:
            await reply.send({"bytes": message["bytes"]})


class Hold(Talk):
    """Calls for messages are held until a test lets them go, one by one or all together."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__(*answers)
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def received(self, message: dict[str, Any], reply: Any) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    @property
    def held(self) -> int:
        return len(self._waiters)

    async def let_go(self) -> None:
        self._waiters.popleft().set_result(None)
        await turn()

    async def let_all_go(self) -> None:
        while self._waiters:
            await self.let_go()


class Sends(Talk):
    """Sends these messages when a message comes; an error out of ``send`` is kept in ``error`` and ends that."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__()
        self.messages = messages
        self.sent = 0
        self.error: Exception | None = None

    async def received(self, message: dict[str, Any], reply: Any) -> None:
        try:
            for answer in self.messages:
                await reply.send(answer)
                self.sent += 1
        except Exception as error:
            self.error = error.with_traceback(None)  # Its frames would keep the conversation.
