"""The engine ``local://``: each worker of a machine writes to each other one, on Unix sockets in a common directory.

A worker listens under a name of its own, and then connects to every other name that is there, and begins with HELLO.
Whoever gets a HELLO from a worker that it does not know connects to that one in turn, so that two workers have two
connections, each for one direction. A worker that has the HELLO of all others is sent whatever anybody sends from then
on. The names of those that have ended without a word refuse connections, and are removed by who finds that out.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast import mesh
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.directory import check_owner, keep
from uvicorn_worker.broadcast.forks import close_in_forks
from uvicorn_worker.broadcast.groups import Engine, Gap, Sink
from uvicorn_worker.broadcast.peers import Inbound, Peer
from uvicorn_worker.config import (
    DELIVERY_BYTES,
    GROUPS_JOIN_TIME,
    MESH_LOOK,
    PEER_BATCH,
    PEER_FLUSH_TIME,
    PEER_FLUSHES,
    PEER_PACE,
    PEER_RETRY,
    TURN_BYTES,
)

#: Connections that wait to be accepted: all that there may be workers.
_PENDING = 1024

_NAME = re.compile(r"[0-9]+\.[0-9a-f]+")


class LocalEngine(Engine):
    """One worker's part of the mesh; without a directory, it is the only worker."""

    def __init__(self, directory: str | None, log: Log) -> None:
        self.log = log
        self._directory = directory
        self._name = f"{os.getpid()}.{time.monotonic_ns():x}"
        self._server: asyncio.Server | None = None
        self._looking: asyncio.TimerHandle | None = None
        #: Whether others can't find this worker, who know nothing of it by now.
        self._is_hidden = False
        #: The other workers, by name; those that are being connected to included.
        self._peers: dict[str, Peer] = {}
        self._inbound: set[Inbound] = set()
        self._reaching: set[asyncio.Task[None]] = set()
        #: Those that have not answered yet, and what waits for them.
        self._unanswered: set[str] = set()
        self._joined: asyncio.Future[None] | None = None
        #: Frames that leave together, with their groups.
        self._batch: list[bytes] = []
        self._batch_groups: list[str] = []
        self._batch_size = 0
        self._flushing: asyncio.Handle | None = None
        #: Times that it was written to others, within the last moment.
        self._flushes = 0
        self._paced_from = 0.0
        #: The workers that senders wait for, and the senders in order.
        self._full: set[Peer] = set()
        self._line: deque[asyncio.Future[None]] = deque()
        #: What was sent since a sender has let the loop turn, in bytes.
        self._work = 0
        self._stopping = False
        self.dropped = 0
        self._reconnects = 0

    # Sending.

    async def send(self, group: str, delivery: Delivery) -> None:
        if self._peers:
            self._flush_soon()  # Ahead of the members here, to all of whom it takes long to write.
        members = self.sink.deliver(group, delivery)
        body = delivery.body
        if self._peers:
            if self._full or self._line:
                await self._wait_in_line()
            frame = mesh.frame(mesh.MESSAGE, group, body)
            self._batch.append(frame)
            self._batch_groups.append(group)
            self._batch_size += len(frame)
            self._flush_soon()
            if self._batch_size > PEER_BATCH:
                self._flush()
        self._work += len(body) + members * DELIVERY_BYTES
        if self._work > TURN_BYTES:
            # A sender that never waits would fill the memory, and keep members from being written to.
            self._work = 0
            await asyncio.sleep(0)

    def _flush_soon(self) -> None:
        """At the end of the loop's turn or, where that was done often lately, a moment later, so that more leave
        together."""
        if self._flushing is not None:
            return
        now = time.monotonic()
        if now - self._paced_from > PEER_PACE:
            self._paced_from, self._flushes = now, 0
        self._flushes += 1
        if self._flushes > PEER_FLUSHES:
            self._flushing = self._loop.call_later(PEER_PACE, self._flush)
        else:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._batch:
            return
        batch, groups = self._batch, self._batch_groups
        self._batch, self._batch_groups, self._batch_size = [], [], 0
        data = b"".join(batch) if len(batch) > 1 else batch[0]
        for peer in self._peers.values():
            peer.write(data, groups)

    async def _wait_in_line(self) -> None:
        """Return when no worker is full, in the order in which senders have come."""
        waiter = self._loop.create_future()
        self._line.append(waiter)
        try:
            await waiter
        finally:
            self._line.remove(waiter)
            self._advance()

    def _advance(self) -> None:
        if self._line and not self._full and not self._line[0].done():
            self._line[0].set_result(None)

    def is_full(self, peer: Peer) -> None:
        """More waits for the worker than should: senders wait, too."""
        self._full.add(peer)

    def is_not_full(self, peer: Peer) -> None:
        """Nobody needs to wait for the worker, or it is not worth it."""
        self._full.discard(peer)
        self._advance()

    # Joining.

    async def start(self, sink: Sink) -> None:
        await super().start(sink)
        self._loop = asyncio.get_running_loop()
        if self._directory is None:
            return
        try:
            await self._listen(self._directory)
        except OSError as error:
            self.has_missed(f"this worker can't be reached by others: {error}", None)
            return
        self._looking = self._loop.call_later(MESH_LOOK, self._look, self._directory)
        self._unanswered = self._names_in(self._directory)
        if not self._unanswered:
            return
        self._joined = self._loop.create_future()
        for name in tuple(self._unanswered):
            self._reach(name)
        try:
            await asyncio.wait_for(self._joined, GROUPS_JOIN_TIME)
        except TimeoutError:
            names = ", ".join(sorted(self._unanswered))
            self.has_missed(f"no answer from the workers {names} within {GROUPS_JOIN_TIME:g} s", frozenset())
        self._joined = None
        self.log.debug("Groups: connected with other workers: %d", len(self._peers))

    async def _listen(self, directory: str) -> None:
        check_owner(directory, os.geteuid())
        path = os.path.join(directory, self._name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        close_in_forks(listener.fileno())
        try:
            listener.bind(f"{path}.tmp")
            os.chmod(f"{path}.tmp", 0o600)
            listener.listen(_PENDING)
            os.rename(f"{path}.tmp", path)  # Who finds a name finds somebody who listens.
        except OSError:
            listener.close()
            raise
        self._server = await self._loop.create_unix_server(lambda: Inbound(self), sock=listener)

    def _names_in(self, directory: str) -> set[str]:
        """Those of other workers."""
        return {name for name in os.listdir(directory) if _NAME.fullmatch(name)} - {self._name}

    def _look(self, directory: str) -> None:
        """See that others find this worker, whatever cleans up there."""
        self._looking = self._loop.call_later(MESH_LOOK, self._look, directory)
        if not keep(directory, self._name):
            self._begin(self._listen_again(directory))

    async def _listen_again(self, directory: str) -> None:
        former = self._server
        try:
            await self._listen(directory)
            newcomers = self._names_in(directory) - self._peers.keys()
        except OSError as error:
            if not self._is_hidden:
                self.log.warning("Groups: new workers can't find this one, whose socket was removed: %s", error)
            self._is_hidden = True
            return
        if former is not None:
            former.close()
        self._is_hidden = False
        self.log.warning("Groups: new workers find this one again, whose socket in %s was removed", directory)
        if newcomers:
            self.has_missed(f"workers have begun that could not find this one: {', '.join(sorted(newcomers))}", None)
        for name in newcomers:
            self._reach(name, again=True)

    def _path(self, name: str) -> str:
        assert self._directory is not None
        return os.path.join(self._directory, name)

    def _reach(self, name: str, *, again: bool = False) -> None:
        """Connect to the worker of this name, where that has not been done."""
        if name not in self._peers and not self._stopping:
            self._peers[name] = peer = Peer(self, name)
            self._begin(self._connect(peer, again))

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(what)
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)

    async def _connect(self, peer: Peer, again: bool) -> None:
        try:
            await self._loop.create_unix_connection(lambda: peer, self._path(peer.name))
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                self._forget_name(peer.name)
            elif not again and not isinstance(error, FileNotFoundError):
                self.log.warning("Groups: worker %s can't be reached: %s", peer.name, error)
            self.is_lost(peer)
        else:
            self.log.debug("Groups: worker %s is there", peer.name)
            if again:
                self._reconnects += 1
                peer.has_missed(None)
                self.log.warning("Groups: worker %s was lost, and is there again", peer.name)

    def _forget_name(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except OSError:
            pass  # Another worker was faster.

    def hello(self) -> bytes:
        """What a connection to another worker begins with."""
        return mesh.frame(mesh.HELLO, self._name)

    def is_met(self, name: str) -> None:
        """A worker of this name has connected. Raises :class:`mesh.MeshError`."""
        if not _NAME.fullmatch(name):
            raise mesh.MeshError(f"no name of a worker: {name!r:.100}")
        self._reach(name)
        is_late = self._joined is None and name in self._unanswered
        self._is_answered(name)
        if is_late:  # Who has joined since has heard nothing of it.
            self.has_missed(f"worker {name} has answered only now", None)

    def _is_answered(self, name: str) -> None:
        self._unanswered.discard(name)
        if self._joined is not None and not self._unanswered and not self._joined.done():
            self._joined.set_result(None)

    # Leaving.

    def is_lost(self, peer: Peer) -> None:
        """The connection to a worker has ended, or there is none."""
        if self._peers.get(peer.name) is peer:
            del self._peers[peer.name]
        self.is_not_full(peer)
        if not self._stopping and os.path.exists(self._path(peer.name)):
            self._loop.call_later(PEER_RETRY, lambda: self._reach(peer.name, again=True))
        else:
            self.log.debug("Groups: worker %s has left", peer.name)
            self._is_answered(peer.name)

    async def stop(self, within: float = PEER_FLUSH_TIME) -> None:
        self._stopping = True
        if self._server is None:
            return
        if self._looking is not None:
            self._looking.cancel()
        self._forget_name(self._name)
        self._server.close()
        self._flush()
        for task in self._reaching:
            task.cancel()
        peers = list(self._peers.values())
        if peers:
            await asyncio.wait([peer.close() for peer in peers], timeout=within)
        for peer in peers:
            peer.abort()
        for inbound in tuple(self._inbound):
            inbound.abort()

    # What comes.

    def has_come(self, inbound: Inbound) -> None:
        self._inbound.add(inbound)

    def has_gone(self, inbound: Inbound) -> None:
        self._inbound.discard(inbound)

    def has_missed(self, reason: str, groups: frozenset[str] | None) -> None:
        if not self._stopping:
            self.sink.has_missed(Gap(reason, groups, time.time()))

    def stats(self) -> dict[str, Any]:
        """``workers``: the others; ``dropped``: messages not sent to one that did not read; ``reconnects``."""
        return {"workers": len(self._peers), "dropped": self.dropped, "reconnects": self._reconnects}
