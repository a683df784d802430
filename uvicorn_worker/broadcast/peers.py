"""The connections of a worker with the others of its machine: one to each, and one from each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast import mesh
from uvicorn_worker.broadcast.forks import close_in_forks
from uvicorn_worker.broadcast.groups import Sink
from uvicorn_worker.config import PEER_BACKLOG, PEER_BOUND, PEER_MISSED_GROUPS, PEER_PATIENCE, TURN_BYTES


class Mesh(Protocol):
    """The engine, as its connections see it."""

    log: Log
    sink: Sink
    #: Messages that were not sent to a worker that did not read.
    dropped: int

    def hello(self) -> bytes:
        """What a connection to another worker begins with."""
        ...

    def is_full(self, peer: Peer) -> None:
        """More waits for the worker than should: senders wait, too."""
        ...

    def is_not_full(self, peer: Peer) -> None:
        """Nobody needs to wait for the worker, or it is not worth it."""
        ...

    def is_lost(self, peer: Peer) -> None:
        """The connection to a worker has ended."""
        ...

    def is_met(self, name: str) -> None:
        """A worker of this name has connected. Raises :class:`mesh.MeshError`."""
        ...

    def has_come(self, inbound: Inbound) -> None: ...

    def has_gone(self, inbound: Inbound) -> None: ...

    def has_missed(self, reason: str, groups: frozenset[str] | None) -> None:
        """Messages to the groups, or to all, may have been missed."""
        ...


class Peer(asyncio.Protocol):
    """The connection to another worker, which is only written to.

    Past PEER_BACKLOG bytes that it has not read, senders wait for it, for PEER_PATIENCE seconds; past PEER_BOUND
    messages are dropped for it, and it is told so as soon as it reads again.
    """

    def __init__(self, engine: Mesh, name: str) -> None:
        self.name = name
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._ended = self._loop.create_future()
        self._patience: asyncio.TimerHandle | None = None
        self._is_stalled = False
        #: The groups of which messages were dropped, since it was told so; ``None`` means all.
        self._missed: set[str] | None = set()
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        close_in_forks(transport.get_extra_info("socket").fileno())
        transport.set_write_buffer_limits(high=PEER_BACKLOG)
        transport.write(self._engine.hello())

    def write(self, data: bytes, groups: Sequence[str]) -> None:
        """Write frames, which are messages to these groups, or drop them."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > PEER_BOUND:
            self._drop(groups)
            return
        if self._missed != set():
            self._tell_missed()
        self._transport.write(data)

    def _drop(self, groups: Sequence[str]) -> None:
        if not self._dropped:
            self._engine.log.warning("Groups: worker %s does not read: messages are dropped for it", self.name)
        self._dropped += len(groups)
        self._engine.dropped += len(groups)
        if self._missed is not None:
            self._missed.update(groups)
            if len(self._missed) > PEER_MISSED_GROUPS:
                self._missed = None

    def has_missed(self, groups: frozenset[str] | None) -> None:
        """Tell the worker that it has missed messages to these groups, or to all."""
        if self._transport is not None:
            self._transport.write(mesh.missed_frame(groups))

    def _tell_missed(self) -> None:
        self.has_missed(None if self._missed is None else frozenset(self._missed))
        self._missed = set()
        self._engine.log.warning("Groups: worker %s reads again, and has missed %d messages", self.name, self._dropped)
        self._dropped = 0

    # Flow control.

    def pause_writing(self) -> None:
        self._engine.is_full(self)
        self._patience = self._loop.call_later(PEER_PATIENCE, self._wait_no_more)

    def _wait_no_more(self) -> None:
        self._is_stalled = True
        self._engine.log.warning("Groups: worker %s has not read for %g s, nobody waits", self.name, PEER_PATIENCE)
        self._engine.is_not_full(self)

    def resume_writing(self) -> None:
        self._stop_waiting()
        if self._missed != set():
            self._tell_missed()
        elif self._is_stalled:
            self._engine.log.info("Groups: worker %s reads again", self.name)
        self._is_stalled = False
        self._engine.is_not_full(self)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # The end.

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._transport = None
        if not self._ended.done():
            self._ended.set_result(None)
        self._engine.is_lost(self)

    def close(self) -> asyncio.Future[None]:
        """Close when everything that was written has left; done then."""
        if self._transport is None:
            self._ended.cancel()
        else:
            self._transport.close()
        return self._ended

    def abort(self) -> None:
        """End at once; what the other has not read by now is lost."""
        if self._transport is not None:
            if size := self._transport.get_write_buffer_size():
                self._engine.log.warning("Groups: worker %s has not read the last %d bytes: lost", self.name, size)
            self._transport.abort()


class Inbound(asyncio.Protocol):
    """The connection from another worker, which is only read from. What is no worker's ends it."""

    def __init__(self, engine: Mesh) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._reader = mesh.FrameReader()
        self._name: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        close_in_forks(transport.get_extra_info("socket").fileno())
        self._engine.has_come(self)

    def data_received(self, data: bytes) -> None:
        receive: Callable[[str, bytes], None] = self._engine.sink.receive
        try:
            for kind, name, body in self._reader.feed(data):
                if kind == mesh.MESSAGE and self._name is not None:
                    receive(name, body)
                elif kind == mesh.MISSED and self._name is not None:
                    reason = f"worker {self._name} has dropped messages, because this one did not read"
                    self._engine.has_missed(reason, mesh.read_missed(body))
                elif kind == mesh.HELLO and self._name is None:
                    self._engine.is_met(name)
                    self._name = name
                else:
                    raise mesh.MeshError("it has no name, or two")
        except mesh.MeshError as error:
            self._engine.log.warning("Groups: a connection that is no worker's is ended: %s", error)
            self._transport.abort()
        if len(data) >= TURN_BYTES:
            # A loop can call this many times in one turn, and members are written to at the end of each.
            self._transport.pause_reading()
            self._loop.call_soon(self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.has_gone(self)
        if self._name is not None and self._reader.is_amid_frame:
            self._engine.has_missed(f"worker {self._name} has ended amid a message, or was not waited for", None)

    def abort(self) -> None:
        self._transport.abort()
