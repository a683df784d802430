"""The connection from which a worker gets the messages of its groups."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast import resp
from uvicorn_worker.broadcast.groups import Gap, Sink
from uvicorn_worker.broadcast.redis_link import Link
from uvicorn_worker.broadcast.redis_url import Target
from uvicorn_worker.broadcast.redis_wire import Moved, Refused, Wire
from uvicorn_worker.broadcast.subscriptions import ON, Subscription, Subscriptions
from uvicorn_worker.config import REDIS_CHANNELS, REDIS_JOIN_TIME
from uvicorn_worker.errors import GroupsUnavailable


class Words(NamedTuple):
    """What is said of channels: of classic ones, or of those that a cluster shards."""

    join: bytes
    leave: bytes
    joined: bytes
    left: bytes
    message: bytes
    #: Channels of one command: those that are sharded have to be of one slot.
    at_once: int


CLASSIC = Words(b"SUBSCRIBE", b"UNSUBSCRIBE", b"subscribe", b"unsubscribe", b"message", REDIS_CHANNELS)
SHARDED = Words(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"ssubscribe", b"sunsubscribe", b"smessage", 1)


class _Question:
    """A command whose answers have not all come: one for each channel, or an error for all of them."""

    __slots__ = ("answer", "channels", "missing")

    def __init__(self, answer: bytes, channels: list[bytes]) -> None:
        #: What the answers begin with.
        self.answer = answer
        self.channels = channels
        self.missing = set(channels)


class Subscriber(Link):
    PURPOSE = "receiving"

    def __init__(
        self,
        open_wire: Callable[[], Awaitable[Wire]],
        where: str,
        target: Target,
        log: Log,
        sink: Sink,
        words: Words = CLASSIC,
    ) -> None:
        super().__init__(open_wire, where, target, log)
        self._sink = sink
        self._words = words
        self.subscriptions = Subscriptions()
        self._questions: deque[_Question] = deque()
        #: Channels that are to be asked for once more, each alone.
        self._again: list[bytes] = []
        self._is_pinged = False
        self._giving_up: asyncio.TimerHandle | None = None
        self._lost_at = 0.0
        self._lost_by = ""
        #: Called with a channel that another node of a cluster has.
        self.on_moved: Callable[[bytes], None] | None = None

    # What groups ask for.

    async def add(self, channel: bytes, group: str) -> None:
        """Return when the server has said that all comes that is sent to the channel; raises
        :class:`GroupsUnavailable`."""
        subscription = self.subscriptions.want(channel, group)
        if subscription.state is ON:
            return
        self._write_soon()
        waiter = self._loop.create_future()
        subscription.waiters.append(waiter)
        try:
            async with asyncio.timeout(REDIS_JOIN_TIME):
                await waiter
        except TimeoutError:
            reason = "no answer" if self.is_up else self.reason
            raise GroupsUnavailable(f"Redis has not let the worker join {group!r:.100}: {reason}") from None
        finally:
            if waiter in subscription.waiters:
                subscription.waiters.remove(waiter)

    def discard(self, channel: bytes) -> None:
        self.subscriptions.unwant(channel, self._loop.time())
        if self._giving_up is None:
            self._give_up()

    def _give_up(self) -> None:
        again = self.subscriptions.give_up(self._loop.time())
        self._giving_up = None if again is None else self._loop.call_at(again, self._give_up)
        self._write_soon()

    async def stop(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        await super().stop()

    def release(self, channel: bytes) -> Subscription:
        """Listen to a channel no more that another connection is to have, and give what is known of it."""
        self._write_soon()
        return self.subscriptions.release(channel)

    def adopt(self, subscription: Subscription, reason: str) -> None:
        """Listen to a channel that another connection had."""
        self._lost_at, self._lost_by = self._loop.time(), reason
        self.subscriptions.adopt(subscription)
        self._write_soon()

    def load(self) -> tuple[str, int]:
        return "subscriptions", len(self.subscriptions)

    # The connection.

    def _begin(self) -> None:
        self._questions.clear()
        self._again.clear()
        self.subscriptions.begin()
        self._write_soon()

    def _end(self, reason: str) -> None:
        if self.subscriptions.lose() and not self._lost_at:
            self._lost_at, self._lost_by = self.down_since, reason

    def _ping(self) -> None:
        self._is_pinged = True
        self._write_soon()

    def _take(self) -> bytes:
        subscriptions, words = self.subscriptions, self._words
        data: list[bytes] = []
        for channel in self._again:
            self._ask(data, words.join, words.joined, [channel])
        for word, answer, channels in (
            (words.leave, words.left, subscriptions.leaves),
            (words.join, words.joined, subscriptions.joins),
        ):
            for at in range(0, len(channels), words.at_once):
                self._ask(data, word, answer, channels[at : at + words.at_once])
        if self._is_pinged:
            self._ask(data, b"PING", b"pong", [])
        subscriptions.joins, subscriptions.leaves, self._again, self._is_pinged = [], [], [], False
        return b"".join(data)

    def _ask(self, data: list[bytes], word: bytes, answer: bytes, channels: list[bytes]) -> None:
        data.append(resp.pack(word, *channels))
        self._questions.append(_Question(answer, channels))

    def _is_answered(self, answer: Any) -> None:
        kind = answer[0] if isinstance(answer, list) else None
        if kind == self._words.message:
            subscription = self.subscriptions.get(answer[1])
            if subscription is not None:
                self._sink.receive(subscription.group, answer[2])
        elif isinstance(answer, Refused):
            self._is_refused(answer)
        elif kind == self._words.joined:
            self._count_answer(answer)
            self.subscriptions.joined(answer[1])
            self._write_soon()
            self._tell_restored()
        elif kind == self._words.left:
            self._count_answer(answer)
            if self.subscriptions.left(answer[1]):
                self._is_moved(answer[1])
            self._write_soon()
        elif self._questions and not self._questions[0].channels:
            self._questions.popleft()

    def _count_answer(self, answer: Any) -> None:
        """It is to the first question, or to none: a node of a cluster also tells of channels that it has given up."""
        if self._questions and self._questions[0].answer == answer[0]:
            question = self._questions[0]
            question.missing.discard(answer[1])
            if not question.missing:
                self._questions.popleft()

    def _is_refused(self, error: Refused) -> None:
        question = self._questions.popleft()
        if question.answer != self._words.joined:
            return
        if len(question.channels) > 1:  # One that isn't allowed has all others fail.
            self._again += question.channels
            self._write_soon()
        elif isinstance(error, Moved):
            self._is_moved(question.channels[0])
        else:
            self._give_notice(question.channels[0], error)

    def _is_moved(self, channel: bytes) -> None:
        if self.on_moved is None:
            self.rejoin(channel)
        else:
            self.on_moved(channel)

    def rejoin(self, channel: bytes) -> None:
        """Ask once more for a channel that was lost."""
        self._again.append(channel)
        self._write_soon()

    def _give_notice(self, channel: bytes, error: Refused) -> None:
        unavailable = GroupsUnavailable(f"Redis does not let the worker join: {error}")
        if self.subscriptions.refused(channel, unavailable):
            self._log.error("Groups: Redis lets the worker join %r no more: %s", channel, error)
            self._tell_restored()

    def _tell_restored(self) -> None:
        groups = self.subscriptions.take_restored()
        if groups:
            reason = f"Redis at {self.where} was lost for {self._loop.time() - self._lost_at:.1f} s: {self._lost_by}"
            self._lost_at = 0.0
            self._sink.has_missed(Gap(reason, groups, time.time()))
