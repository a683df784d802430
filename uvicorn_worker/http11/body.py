"""The body of one request, as it arrives and as it is received.

Everything that moves its state is in this file. Where there is a body (it is not ABSENT) it is READING until all of it
came (COMPLETE) or can't come any more (BROKEN). Before that it is EXPECTED where the client waits to be asked for it;
DROPPING is a body that nobody will read.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Protocol

from uvicorn_worker.errors import ClientDisconnected
from uvicorn_worker.service import Service


class Body(IntEnum):
    ABSENT = 0
    COMPLETE = 1
    EXPECTED = 2
    READING = 3
    BROKEN = 4
    DROPPING = 5


# A global is looked up in a fraction of the time of an attribute of the enumeration, which is tested all the time.
ABSENT, COMPLETE, EXPECTED, READING, BROKEN, DROPPING = Body


class BodyWire(Protocol):
    """The connection, as the body of a request sees it."""

    __slots__ = ()

    service: Service

    def body_filled(self) -> None:
        """As much of the body waits to be received as may."""
        ...

    def body_emptied(self) -> None:
        """All that came of the body has been received."""
        ...

    def body_awaited(self) -> None:
        """The application waits for the body."""
        ...

    def body_arrived(self) -> None:
        """The application waits no more."""
        ...


class RequestBody:
    """What an exchange knows of its request's body."""

    __slots__ = ("_buffered", "_chunks", "_failure", "_waiters", "body", "body_length")

    # Set when a body is expected: most requests have none.
    connection: BodyWire
    body: Body
    #: Bytes still to come; ``None`` where only the end will tell.
    body_length: int | None
    _buffered: int
    _chunks: list[bytes]
    #: Kept apart: an error that was raised refers to the frames that it went through, and so to this.
    _failure: tuple[type[ClientDisconnected], str]
    #: One for each task that receives; whoever is told first gets what has come.
    _waiters: list[asyncio.Future[None]]

    def _ask_for_body(self) -> None:
        """The client waits for 100 (Continue)."""
        raise NotImplementedError

    def _give_body_up(self) -> None:
        """More came of the body than is worth dropping."""
        raise NotImplementedError

    async def receive_body(self) -> tuple[bytes, bool]:
        """What has come of the body since the last call, and whether more is to come; waits for the first byte.

        Raises :class:`ClientDisconnected` where the rest won't come.
        """
        if self.body is ABSENT:
            return b"", False
        while not self._buffered and (self.body is READING or self.body is EXPECTED):
            await self._wait_for_body()
        if self._buffered:
            content = b"".join(self._chunks)
            self._chunks.clear()
            self._buffered = 0
            self.connection.body_emptied()
            return content, self.body is not COMPLETE
        if self.body is BROKEN or self.body is DROPPING:
            failure, reason = self._failure
            raise failure(reason)
        return b"", False

    async def _wait_for_body(self) -> None:
        connection = self.connection
        if self.body is EXPECTED:
            self.body = READING
            self._ask_for_body()
        waiter = connection.service.loop.create_future()
        self._waiters.append(waiter)
        connection.body_awaited()
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
            if not self._waiters:
                connection.body_arrived()

    def expect_body(self, length: int | None, *, when_asked: bool) -> None:
        """A body of ``length`` bytes follows the head, or one that tells its end itself; the client may wait with it
        until it is asked (RFC 9110 section 10.1.1)."""
        self.body = EXPECTED if when_asked else READING
        self.body_length = length
        self._chunks = []
        self._buffered = 0
        self._waiters = []

    def take_body(self, content: bytes) -> None:
        """All of the body has come with the head."""
        self.body = COMPLETE
        self.body_length = 0
        self._chunks = [content]
        self._buffered = len(content)
        self._waiters = []

    @property
    def room(self) -> int:
        """How many of the next bytes are known to be of the body and may wait to be received."""
        return min(self.body_length or 0, self.connection.service.settings.request_body_buffer - self._buffered)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        size = len(data)
        if self.body_length is not None:
            self.body_length -= size
        self._buffered += size
        settings = self.connection.service.settings
        if self.body is DROPPING:
            if self._buffered > settings.unread_body_limit:
                self._give_body_up()
        elif self.body is not BROKEN:
            self.body = READING  # whatever was EXPECTED, it comes
            self._chunks.append(data)
            self._wake()
            if self._buffered > settings.request_body_buffer:
                self.connection.body_filled()

    def body_complete(self) -> None:
        """The last byte of the body has been fed."""
        if self.body is not BROKEN:
            self.body = COMPLETE
            self._wake()

    def drop_body(self) -> None:
        """Nobody will read the rest of the body."""
        self.body = DROPPING
        self._failure = ClientDisconnected, "the body of a finished exchange is not read"
        self._wake()
        self._buffered = 0
        self._chunks.clear()
        self.connection.body_emptied()

    def break_body(self, failure: type[ClientDisconnected], reason: str) -> None:
        """The rest of the body won't come: whoever receives it gets a ``failure``."""
        if self.body is READING or self.body is EXPECTED:
            self.body = BROKEN
            self._failure = failure, reason
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
