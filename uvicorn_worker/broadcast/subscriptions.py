"""Which channels of Redis this worker listens to: one state for each, and what is to be asked because of it.

A channel is asked for when the first member comes, and given up a while after the last has left, in which others may
come. Between a question and its answer nothing else is asked for the same channel, so that an answer is never taken for
that of another question. Without a connection all states are as if nothing had been asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol

from uvicorn_worker.config import GROUP_LINGER


class State(IntEnum):
    #: It is to be asked for, or was; the answer is not there yet.
    JOINING = 1
    ON = 2
    #: It has been given up; the answer is not there yet.
    LEAVING = 3
    #: The server doesn't allow it.
    REFUSED = 4


JOINING, ON, LEAVING, REFUSED = State


class Waiter(Protocol):
    """One who waits until a channel is on: a future."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...

    def set_exception(self, exception: Exception, /) -> None: ...


class Subscription:
    """A channel that this worker listens to, or wants to, or did."""

    __slots__ = ("channel", "group", "missed", "state", "waiters", "wanted")

    def __init__(self, channel: bytes, group: str) -> None:
        self.channel = channel
        self.group = group
        self.state = JOINING
        #: Whether the group has members here.
        self.wanted = True
        #: Whether it was on, and has been lost since.
        self.missed = False
        self.waiters: list[Waiter] = []

    def wake(self, error: Exception | None = None) -> None:
        """Let those go on who wait."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None) if error is None else waiter.set_exception(error)


class Subscriptions:
    """All channels of one connection."""

    def __init__(self) -> None:
        self._all: dict[bytes, Subscription] = {}
        #: When nobody wanted a channel any more, in this order.
        self._idle: dict[bytes, float] = {}
        #: Those that were lost, and are not there again.
        self._lost: set[bytes] = set()
        self._restored: list[str] = []
        self._is_connected = False
        #: What is to be asked for, and to be given up.
        self.joins: list[bytes] = []
        self.leaves: list[bytes] = []

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._all.values()))

    def get(self, channel: bytes) -> Subscription | None:
        return self._all.get(channel)

    # What members want.

    def want(self, channel: bytes, group: str) -> Subscription:
        """The group has a member."""
        subscription = self._all.get(channel)
        if subscription is None:
            subscription = self._all[channel] = Subscription(channel, group)
            self._ask(channel)
        elif subscription.state is REFUSED:
            subscription.state = JOINING
            self._ask(channel)
        subscription.wanted = True
        self._idle.pop(channel, None)
        return subscription

    def _ask(self, channel: bytes) -> None:
        if self._is_connected:  # Otherwise all are asked for as soon as it is.
            self.joins.append(channel)

    def unwant(self, channel: bytes, now: float) -> None:
        """The group has no member any more."""
        subscription = self._all.get(channel)
        if subscription is not None:
            subscription.wanted = subscription.missed = False
            self._idle[channel] = now

    def give_up(self, now: float) -> float | None:
        """Give up what nobody has wanted for a while; when to ask again, if ever."""
        for channel, since in list(self._idle.items()):
            if since + GROUP_LINGER > now:
                return since + GROUP_LINGER
            subscription = self._all[channel]
            if subscription.state is ON:
                del self._idle[channel]
                subscription.state = LEAVING
                self.leaves.append(channel)
            elif subscription.state is REFUSED or not self._is_connected:
                self._forget(channel)
            else:
                return now + GROUP_LINGER  # There is an answer to come.
        return None

    # What the server answers.

    def joined(self, channel: bytes) -> None:
        """It is on: what is sent from now on comes."""
        subscription = self._all.get(channel)
        if subscription is None:  # It is another connection's by now.
            self.leaves.append(channel)
        elif subscription.state is JOINING:
            subscription.state = ON
            self._is_settled(subscription)
            subscription.wake()

    def left(self, channel: bytes) -> bool:
        """It is off; whether nobody had asked for that."""
        subscription = self._all.get(channel)
        if subscription is None:
            return False
        if subscription.state is not LEAVING:
            self._lose(subscription)
            return True
        if subscription.wanted:
            subscription.state = JOINING
            self._ask(channel)
        else:
            self._forget(channel)
        return False

    def refused(self, channel: bytes, error: Exception) -> bool:
        """It can't be had, until it is wanted once more or there is a new connection; whether it was on before."""
        subscription = self._all.get(channel)
        if subscription is None:
            return False
        was_on = subscription.missed
        subscription.state = REFUSED
        self._is_settled(subscription)
        subscription.wake(error)
        return was_on

    def _is_settled(self, subscription: Subscription) -> None:
        if subscription.missed:
            self._restored.append(subscription.group)
            subscription.missed = False
        self._lost.discard(subscription.channel)

    def take_restored(self) -> frozenset[str]:
        """The groups that have missed something, as soon as all of them are on again: once."""
        if self._lost or not self._restored:
            return frozenset()
        restored, self._restored = self._restored, []
        return frozenset(restored)

    # Connections that end and begin.

    def lose(self) -> int:
        """The connection has ended; how many groups miss something."""
        self._is_connected = False
        for subscription in self._all.values():
            self._lose(subscription)
        return len(self._lost)

    def _lose(self, subscription: Subscription) -> None:
        if subscription.state is ON and subscription.wanted:
            subscription.missed = True
            self._lost.add(subscription.channel)
        subscription.state = JOINING

    def begin(self) -> None:
        """There is a new connection: all that is wanted is to be asked for."""
        for channel, subscription in list(self._all.items()):
            if not subscription.wanted:
                self._forget(channel)
            subscription.state = JOINING
        self._is_connected = True
        self.joins, self.leaves = list(self._all), []

    def _forget(self, channel: bytes) -> Subscription:
        self._idle.pop(channel, None)
        self._lost.discard(channel)
        return self._all.pop(channel)

    # Channels that move between the nodes of a cluster.

    def release(self, channel: bytes) -> Subscription:
        """It is another connection's from now on, as it is."""
        subscription = self._forget(channel)
        if subscription.state is ON:
            self.leaves.append(channel)
        self._lose(subscription)
        self._lost.discard(channel)
        return subscription

    def adopt(self, subscription: Subscription) -> None:
        """It was another connection's until now."""
        own = self._all.setdefault(subscription.channel, subscription)
        if own is subscription:
            self._ask(own.channel)
        else:  # Somebody has come for it here meanwhile.
            own.waiters += subscription.waiters
            own.missed |= subscription.missed
        if own.missed:
            self._lost.add(own.channel)
        if own.state is ON:
            self._is_settled(own)
            own.wake()
