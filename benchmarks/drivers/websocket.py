"""WebSockets by picows, a client in Cython."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from picows import WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.drivers import Load, Target, Wrong, together
from benchmarks.drivers.deflate import OFFER, Deflate

#: How many handshakes are under way at a time.
AT_ONCE = 50

#: Text that compresses as messages of applications do.
PROSE = b'{"type": "message", "room": "lobby", "from": "somebody", "text": "What did they say about it?"} '


@dataclass(frozen=True)
class Echoes:
    """A text message that comes back, again and again, on each connection."""

    #: Bytes of the message.
    size: int
    connections: int = 32
    #: Whether compression is offered to the server, and used by the client.
    deflate: bool = False

    async def check(self, target: Target) -> None:
        """Have one message come back.

        :raises Unable: if compression is offered, and the server does not take it.
        :raises Wrong: if something else comes.
        :raises OSError: if there is nobody to ask.
        """
        await replace(self, connections=1).drive(target, 0)

    async def drive(self, target: Target, seconds: float) -> Load:
        """Send for so long; the next message of a connection goes when the one before is back.

        :raises Unable, Wrong, OSError: as :meth:`check`.
        """
        async with opened(target, self.connections, deflate=self.deflate) as members:
            began, latencies = time.perf_counter(), list[float]()
            rounds = [Rounds([member], self.size, began + seconds, latencies) for member in members]
            await together(each.go() for each in rounds)
            return Load.of(latencies, time.perf_counter() - began)

    @asynccontextmanager
    async def held(self, target: Target) -> AsyncIterator[None]:
        """All connections are open, and idle after an echo each."""
        async with opened(target, self.connections, deflate=self.deflate) as members:
            for member in members:
                await Rounds([member], self.size, 0, []).go()
            yield


@dataclass(frozen=True)
class Broadcasts:
    """A message of one member that is sent to all members, again and again. One request is one broadcast."""

    members: int
    #: Bytes of the message.
    size: int = 64

    async def check(self, target: Target) -> None:
        """Have two members get one message.

        :raises Wrong: if something else comes.
        :raises OSError: if there is nobody to ask.
        """
        await replace(self, members=2).drive(target, 0)

    async def drive(self, target: Target, seconds: float) -> Load:
        """Broadcast for so long; the next message goes when all members have the one before.

        :raises Wrong, OSError: as :meth:`check`.
        """
        async with opened(target, self.members) as members:
            began, latencies = time.perf_counter(), list[float]()
            await Rounds(members, self.size, began + seconds, latencies).go()
            return Load.of(latencies, time.perf_counter() - began)


class Rounds:
    """The first of the members sends, all get it, and so on, until a time (of ``time.perf_counter()``)."""

    def __init__(self, members: list[Member], size: int, end: float, latencies: list[float]) -> None:
        self._members, self._end, self._latencies = members, end, latencies
        self._payload = (PROSE * (size // len(PROSE) + 1))[:size]
        self._sent = members[0].packed(self._payload)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def go(self) -> None:
        """:raises Wrong: if something else comes, or a connection ends."""
        for member in self._members:
            member.attend(self._came, self._failed)
        self._begin()
        await self._ended

    def _begin(self) -> None:
        self._awaited, self._began = len(self._members), time.perf_counter()
        self._members[0].send(self._sent)

    def _came(self, content: bytes) -> None:
        if content != self._payload:
            return self._failed(Wrong(f"{len(content)} bytes came, not the {len(self._payload)} that were sent"))
        self._awaited -= 1
        if not self._awaited:
            now = time.perf_counter()
            self._latencies.append(now - self._began)
            if now < self._end:
                self._begin()
            elif not self._ended.done():
                self._ended.set_result(None)

    def _failed(self, error: Wrong) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


class Member(WSListener):
    """One connection; what comes on it goes to whoever attends to it."""

    transport: WSTransport
    deflate: Deflate | None = None

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._is_compressed = False
        self.attend(lambda content: None, lambda error: None)

    def attend(self, came: Callable[[bytes], None], failed: Callable[[Wrong], None]) -> None:
        """From now on, ``came`` is called with each message, and ``failed`` with what goes wrong."""
        self._came, self._failed = came, failed

    def packed(self, payload: bytes) -> bytes:
        """What :meth:`send` takes."""
        return self.deflate.deflated(payload) if self.deflate else payload

    def send(self, packed: bytes) -> None:
        self.transport.send(WSMsgType.TEXT, packed, rsv1=self.deflate is not None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._take(frame)
        elif frame.msg_type == WSMsgType.CLOSE:
            self._failed(Wrong(f"closed by the server with {frame.get_close_code()}"))

    def _take(self, frame: WSFrame) -> None:
        self._is_compressed |= frame.rsv1
        content = frame.get_payload_as_bytes()
        if self._parts or not frame.fin:
            self._parts.append(content)
            content = b"".join(self._parts) if frame.fin else b""
        if frame.fin:
            self._parts.clear()
            if self._is_compressed and self.deflate:
                self._is_compressed, content = False, self.deflate.inflated(content)
            self._came(content)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._failed(Wrong("the server has gone"))


@asynccontextmanager
async def opened(target: Target, count: int, *, deflate: bool = False) -> AsyncIterator[list[Member]]:
    """So many WebSockets.

    :raises Unable: if compression is offered, and the server does not take it.
    :raises Wrong: if a handshake fails.
    :raises OSError: if there is nobody to ask.
    """
    members: list[Member] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            members.append(await connect(target, deflate))

    try:
        await together(one() for _ in range(count))
        yield members
    finally:
        for member in members:
            member.attend(lambda content: None, lambda error: None)
            member.transport.disconnect(graceful=False)


async def connect(target: Target, deflate: bool) -> Member:
    """One WebSocket; raises as :func:`opened`."""
    offer = {"Sec-WebSocket-Extensions": OFFER} if deflate else None
    url = target.url.replace("http", "ws", 1)
    try:
        transport, member = await ws_connect(Member, url, extra_headers=offer, websocket_handshake_timeout=None)
    except WSHandshakeError as error:
        raise Wrong(f"no WebSocket: {error}") from None
    assert isinstance(member, Member)
    member.transport = transport
    if deflate:
        try:
            member.deflate = Deflate(transport.response.headers.get("Sec-WebSocket-Extensions", ""))
        except Exception:
            transport.disconnect(graceful=False)
            raise
    return member
