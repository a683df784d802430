"""The connection through which a worker sends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast import resp
from uvicorn_worker.broadcast.redis_link import Link
from uvicorn_worker.broadcast.redis_url import Target
from uvicorn_worker.broadcast.redis_wire import Moved, Refused, Wire
from uvicorn_worker.config import REDIS_BATCH
from uvicorn_worker.errors import GroupsUnavailable

#: Seconds by which a look at what waits may be late until the loop is thought to have hung: then answers may wait to be
#: read.
_LATE = 0.25

_Future = asyncio.Future[None]


class Publisher(Link):
    """Writes all messages of a turn of the loop at once, and reads the answers in their order.

    A message that was not written in time is not sent at all; one that was, and had no answer, may have reached all, or
    nobody. It is never sent again.
    """

    PURPOSE = "sending"

    def __init__(
        self,
        open_wire: Callable[[], Awaitable[Wire]],
        where: str,
        target: Target,
        log: Log,
        *,
        word: bytes = b"PUBLISH",
    ) -> None:
        super().__init__(open_wire, where, target, log)
        self._word = word
        #: What is to be written, and what was and has no answer; ``None`` stands for a sign of life.
        self._unwritten: deque[tuple[bytes, bytes, _Future]] = deque()
        self._unanswered: deque[_Future | None] = deque()
        self._is_pinged = False
        #: All who wait, in the order in which their time is up.
        self._waiting: deque[tuple[float, _Future]] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._look_due = 0.0
        #: Called when the server is found to be a master no more.
        self.on_demoted: Callable[[], None] = _nothing

    def load(self) -> tuple[str, int]:
        return "waiting", sum(not future.done() for _, future in self._waiting)

    async def send(self, channel: bytes, body: bytes) -> None:
        """Return when the server has the message; raises :class:`GroupsUnavailable`, and :class:`Moved`."""
        now = self._loop.time()
        if not self.is_up and now - self.down_since > self._target.send_timeout:
            raise GroupsUnavailable(f"Redis is out of reach: {self.reason}")
        future: _Future = self._loop.create_future()
        self._unwritten.append((channel, body, future))
        due = now + self._target.send_timeout
        self._waiting.append((due, future))
        if self._looking is None:
            self._look_at(due)
        self._write_soon()
        await future

    def _look(self) -> None:
        """Tell those whose time is up."""
        now, waiting, unwritten = self._loop.time(), self._waiting, self._unwritten
        if now - self._look_due > _LATE:
            self._look_at(now + _LATE / 2)
            return
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(self._unavailable())
        while unwritten and unwritten[0][2].done():
            unwritten.popleft()
        self._looking = None
        if waiting:
            self._look_at(waiting[0][0])

    def _look_at(self, when: float) -> None:
        self._look_due = when
        self._looking = self._loop.call_at(when, self._look)

    def _unavailable(self) -> GroupsUnavailable:
        if self.is_up:
            return GroupsUnavailable(f"Redis has not answered for {self._target.send_timeout:g} s")
        return GroupsUnavailable(f"Redis is out of reach: {self.reason}")

    async def flush(self) -> None:
        while self._waiting:
            await asyncio.wait((self._waiting.popleft()[1],))

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        await super().stop()
        self._give_up("the worker has stopped")
        self._waiting.clear()

    # The connection.

    def _begin(self) -> None:
        self._write_soon()

    def _end(self, reason: str) -> None:
        self._give_up(f"Redis was lost, and has brought the message to all or to nobody: {reason}")

    def _give_up(self, reason: str) -> None:
        unanswered, self._unanswered = self._unanswered, deque()
        for future in unanswered:
            if future is not None and not future.done():
                future.set_exception(GroupsUnavailable(reason))

    def _ping(self) -> None:
        self._is_pinged = True
        self._write_soon()

    def _take(self) -> bytes:
        unwritten, data, size = self._unwritten, [], 0
        if self._is_pinged:
            self._is_pinged = False
            data.append(resp.pack(b"ROLE"))
            self._unanswered.append(None)
        while unwritten and size < REDIS_BATCH:
            channel, body, future = unwritten.popleft()
            if not future.done():  # Otherwise its time is up.
                data.append(resp.pack(self._word, channel, body))
                size += len(body)
                self._unanswered.append(future)
        return b"".join(data)

    def _is_answered(self, answer: Any) -> None:
        future, waiting = self._unanswered.popleft(), self._waiting
        if future is None:
            self._check_role(answer)
        elif future.done():
            pass  # Its time was up.
        elif isinstance(answer, Refused):
            future.set_exception(_of_refusal(answer))
        else:
            future.set_result(None)
        while waiting and waiting[0][1].done():
            waiting.popleft()

    def _check_role(self, role: Any) -> None:
        if resp.is_replica(role) and self._target.kind != "cluster":
            self.on_demoted()
            self.fail("it is a replica now, from where messages reach nobody else")


def _of_refusal(refusal: Refused) -> Exception:
    return refusal if isinstance(refusal, Moved) else GroupsUnavailable(f"Redis has refused the message: {refusal}")


def _nothing() -> None:
    """For a hook that nobody has taken."""
