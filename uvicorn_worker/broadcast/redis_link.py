"""A connection to Redis that is made again for as long as it takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast.redis_url import Target
from uvicorn_worker.broadcast.redis_wire import Denied, Lost, Wire
from uvicorn_worker.config import REDIS_LONGEST_PAUSE, REDIS_PAUSE
from uvicorn_worker.errors import InvalidOption


class Link:
    """What the two connections of a worker have in common: each one's part is in a subclass.

    A server that says nothing for the target's ``dead`` seconds, though it is asked to every ``ping`` seconds, is as
    good as gone. It is reached for again and again, with pauses that differ between workers.
    """

    #: What it is for, in logs.
    PURPOSE: str

    def __init__(self, open_wire: Callable[[], Awaitable[Wire]], where: str, target: Target, log: Log) -> None:
        self._open_wire = open_wire
        self.where = where
        self._target = target
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[str] | None = None
        self._wire: Wire | None = None
        self._is_writing = False
        self.is_up = False
        #: Since when it is not, and why.
        self.down_since = self._loop.time()
        self.reason = "not connected yet"
        #: How many connections there have been.
        self.connections = 0
        #: Done when it has first been reached for; the result says why that failed, if it did.
        self.tried: asyncio.Future[Lost | None] = self._loop.create_future()
        self.on_lost: Callable[[], None] = _nothing

    # What a subclass has to do.

    def _begin(self) -> None:
        """There is a new connection."""

    def _end(self, reason: str) -> None:
        """It has been lost."""

    def _take(self) -> bytes:
        """What is to be written, or a part of it; nothing where there is nothing."""
        raise NotImplementedError

    def _is_answered(self, answer: Any) -> None:
        """The next answer, or message, has come."""
        raise NotImplementedError

    def _ping(self) -> None:
        """Ask for a sign of life."""
        raise NotImplementedError

    def load(self) -> tuple[str, int]:
        """How much it has to do, and the name of that."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Return when what there was to send has left."""

    # Its life.

    def start(self) -> None:
        self._task = self._loop.create_task(self._live())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def fail(self, reason: str) -> None:
        """End the connection, if there is one, to make another."""
        if self._failed is not None:
            _settle(self._failed, reason)

    def _write_soon(self) -> None:
        """Write all there is at the end of the loop's turn."""
        if not self._is_writing and self._wire is not None:
            self._is_writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_writing = False
        wire = self._wire
        while wire is not None and not wire.is_full and (data := self._take()):
            wire.write(data)

    def _receive(self, answer: Any) -> None:
        if self._failed is not None and self._failed.done():
            return
        try:
            self._is_answered(answer)
        except Exception as error:  # Whatever it is: the state is not known any more.
            self._log.error("Groups: %s failed", self.PURPOSE, exc_info=True)
            self.fail(repr(error))

    async def _live(self) -> None:
        pause = REDIS_PAUSE
        while True:
            try:
                wire = await self._open_wire()
            except Exception as error:  # Whatever it is: nobody else would try again.
                self._is_out_of_reach(error if isinstance(error, Lost) else Lost(repr(error)))
            else:
                self._is_reached()
                await self._use(wire)
                if wire.heard:  # It was of some use.
                    pause = REDIS_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, REDIS_LONGEST_PAUSE)

    async def _use(self, wire: Wire) -> None:
        """Read and write until that fails."""
        failed = self._failed = self._loop.create_future()
        wire.listen(self._receive, self._write_soon, partial(_settle, failed))
        self._wire = wire
        try:
            self._begin()
            self.reason = await self._watch(wire, failed)
        finally:
            self._wire = None
            self.is_up = False
            self.down_since = self._loop.time()
            await wire.end()
        self._log.warning("Groups: lost Redis (%s) at %s: %s", self.PURPOSE, self.where, self.reason)
        self._end(self.reason)
        self.on_lost()

    async def _watch(self, wire: Wire, failed: asyncio.Future[str]) -> str:
        """Return why the connection is of no use any more: because the server is silent for too long, or what has
        been found out otherwise.

        Turns are counted, and not time: where the worker itself has hung, what has come in the meantime waits to be
        read.
        """
        ping, dead = self._target.ping, self._target.dead
        silence = 0.0
        while silence + ping < dead or not silence:
            heard = wire.heard
            self._ping()
            await asyncio.wait((failed,), timeout=ping)
            if failed.done():
                return failed.result()
            silence = silence + ping if heard == wire.heard else 0.0
        return f"silent for {dead:g} s"

    # What is said of it.

    def _is_out_of_reach(self, error: Lost) -> None:
        if not self.tried.done() or str(error) != self.reason:
            self._log.warning(
                "Groups: Redis (%s) is out of reach at %s, and is tried again and again: %s",
                self.PURPOSE,
                self.where,
                error,
            )
        self.reason = str(error)
        self._is_tried(error)
        self.on_lost()

    def _is_reached(self) -> None:
        self.is_up = True
        self.connections += 1
        again = f" again after {self._loop.time() - self.down_since:.1f} s" if self.tried.done() else ""
        self._log.info("Groups: connected to Redis (%s) at %s%s", self.PURPOSE, self.where, again)
        self._is_tried(None)

    def _is_tried(self, error: Lost | None) -> None:
        if not self.tried.done():
            self.tried.set_result(error)


async def is_let_in(*links: Link) -> None:
    """Return when each has been tried, whether it could be reached or not; raises :class:`InvalidOption` where the
    server does not let the user in."""
    for link in links:
        error = await asyncio.shield(link.tried)
        if isinstance(error, Denied):
            raise not_let_in(link.where, error)


def not_let_in(where: object, error: Denied) -> InvalidOption:
    return InvalidOption(f"groups: Redis at {where} does not let the worker in: {error}")


async def stop(*links: Link, within: float) -> None:
    """Stop all, when what was sent has left, or after so many seconds."""
    flushes = [asyncio.create_task(link.flush()) for link in links if link.is_up]
    if flushes:
        await asyncio.wait(flushes, timeout=within)
    for flush in flushes:
        flush.cancel()
    for link in links:
        await link.stop()


def stats_of(*links: Link) -> dict[str, Any]:
    """Whether all are ``connected``, ``reconnects``, and what each has to do."""
    stats: dict[str, Any] = {
        "connected": all(link.is_up for link in links),
        "reconnects": sum(max(link.connections - 1, 0) for link in links),
    }
    for link in links:
        name, count = link.load()
        stats[name] = stats.get(name, 0) + count
    return stats


def _settle(failed: asyncio.Future[str], reason: str) -> None:
    if not failed.done():
        failed.set_result(reason)


def _nothing() -> None:
    """For a hook that nobody has taken."""
