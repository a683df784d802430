"""What connections of every protocol do: let senders wait for the client, and wait for one deadline at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn_worker.clock import Deadlines
from uvicorn_worker.service import Service


class FlowControl:
    """A protocol's share in flow control and deadlines."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The protocol has the attributes among its own: only one base of a class may have slots.

    service: Service
    write_paused: bool
    _owed: int
    _room: asyncio.Future[None] | None
    _transport: asyncio.Transport | None
    _waiting: Deadlines | None

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._owed = 0
        self._let_writers_go()

    def backlog(self) -> int:
        """Of messages to groups, the bytes that still wait for the client."""
        return 0 if self._transport is None else min(self._owed, self._transport.get_write_buffer_size())

    def owe(self, size: int) -> None:
        """So many of the bytes that wait, or all if there are fewer, are of messages to groups."""
        self._owed = size

    def write_pieces(self, pieces: tuple[bytes, ...]) -> None:
        """Write what is too long to be copied into one piece."""
        if self._transport is None:
            return
        if self.service.has_writev:
            self._transport.writelines(pieces)
        else:
            for piece in pieces:
                self._transport.write(piece)

    async def room_to_write(self) -> None:
        """Return when the client has read enough, or has gone."""
        if self._room is None:
            self._room = self.service.loop.create_future()
        await asyncio.shield(self._room)

    def _let_writers_go(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _wait(self, deadlines: Deadlines | None) -> None:
        """Wait in ``deadlines`` from now on, and in no other queue."""
        if self._waiting is not None:
            self._waiting.pop(self, None)
        self._waiting = deadlines
        if deadlines is not None:
            deadlines[self] = deadlines.due

    def deadline_passed(self, deadlines: Deadlines) -> None:
        """The wait in ``deadlines`` is over, because its time was up."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close now, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()


class Unread:
    """What waits for a client to read some of what it is sent, and cuts it off where it reads nothing of it."""

    __slots__ = ("_transport", "_unsent")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unsent = transport.get_write_buffer_size()

    def deadline_passed(self, deadlines: Deadlines) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            deadlines[self] = deadlines.due
        else:
            self._transport.abort()
