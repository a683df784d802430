"""Messages that wait for who receives from a channel, and those who wait for messages.

A channel has a mailbox while there is something to know about it. Its messages are bytes, each in a queue of so many,
until they expire.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from uvicorn_worker._types import Log

#: When a message expires, and the message.
_Item = tuple[float, bytes]


class Full(Exception):
    """As many messages wait as the channel may have."""


class _Mailbox:
    """One channel's."""

    __slots__ = ("capacity", "idle_since", "is_full", "items", "waiters")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[_Item] = deque()
        #: Those who wait, in order; there are none while there are items.
        self.waiters: deque[asyncio.Future[_Item]] = deque()
        self.is_full = False
        self.idle_since = 0.0

    def give(self, item: _Item) -> bool:
        """Give it to the first who waits, if anybody does."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return True
        return False

    def drop_expired(self, now: float) -> None:
        while self.items and self.items[0][0] <= now:
            self.items.popleft()


class Mailboxes:
    """Those of all channels, by name."""

    def __init__(
        self,
        capacity_of: Callable[[str], int],
        expiry: float,
        patience: float,
        log: Log,
        *,
        is_needed: Callable[[str], bool],
        forget: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Messages are kept for ``expiry`` seconds. A channel that nobody has received from for ``patience`` seconds is
        taken for gone, though it be needed.

        ``is_needed`` says whether a mailbox is kept at which nobody waits and that is empty; ``forget`` is called
        when it is kept no more.
        """
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._patience = patience
        self._log = log
        self._is_needed = is_needed
        self._forget = forget
        self._clock = clock
        self._boxes: dict[str, _Mailbox] = {}
        #: When those are to be looked at that nobody waits at, in this order.
        self._checks: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    def open(self, name: str) -> _Mailbox:
        """The mailbox of a channel, which is there from then on."""
        box = self._boxes.get(name)
        if box is None:
            box = self._boxes[name] = _Mailbox(self._capacity_of(name))
            box.idle_since = self._clock()
            self._checks[name] = box.idle_since + self._expiry
        return box

    def put(self, name: str, body: bytes) -> int:
        """Give a message to who waits, or keep it; how many are kept by now. Raises :class:`Full`."""
        box = self.open(name)
        now = self._clock()
        item = now + self._expiry, body
        if box.give(item):
            return 0
        box.drop_expired(now)
        if len(box.items) >= box.capacity:
            if not box.is_full:
                self._log.warning("Groups: messages to %s are dropped: %d wait there (capacity)", name, box.capacity)
            box.is_full = True
            raise Full(name)
        box.items.append(item)
        return len(box.items)

    def pop(self, name: str) -> bytes | None:
        """The first message that is kept, if any."""
        box = self._boxes.get(name)
        if box is None:
            return None
        box.drop_expired(self._clock())
        if not box.items:
            return None
        box.is_full = False
        return box.items.popleft()[1]

    async def take(self, name: str, announce: Callable[[], Awaitable[None]] | None = None) -> bytes:
        """The next message; ``announce`` is awaited before it is waited for. Of several who wait, the first gets it."""
        box = self.open(name)
        body = self.pop(name)
        if body is not None:
            self.rest(name)
            return body
        waiter: asyncio.Future[_Item] = asyncio.get_running_loop().create_future()
        box.waiters.append(waiter)
        self._checks.pop(name, None)
        try:
            if announce is not None:
                await announce()
            return (await waiter)[1]
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                box = self.open(name)  # Another one, where nobody has needed that one since.
                if not box.give(waiter.result()):
                    box.items.appendleft(waiter.result())
            raise
        finally:
            if waiter in box.waiters:
                box.waiters.remove(waiter)
            self.rest(name)

    def waiting(self, name: str) -> int:
        """How many wait for a message."""
        box = self._boxes.get(name)
        return 0 if box is None else len(box.waiters)

    def kept(self, name: str) -> int:
        """How many messages wait."""
        box = self._boxes.get(name)
        if box is None:
            return 0
        box.drop_expired(self._clock())
        return len(box.items)

    # What is over.

    def rest(self, name: str) -> None:
        """Nobody receives any more, unless others do, or nothing needs the channel."""
        box = self._boxes.get(name)
        if box is None or box.waiters:
            return
        if box.items or self._is_needed(name):
            box.idle_since = self._clock()
            self._checks.pop(name, None)
            self._checks[name] = box.idle_since + self._expiry
        else:
            self._remove(name)

    def sweep(self) -> None:
        """Drop what has expired, and forget channels from which nobody receives any more."""
        now = self._clock()
        while self._checks:
            name = next(iter(self._checks))
            if self._checks[name] > now:
                return
            del self._checks[name]
            box = self._boxes[name]
            box.drop_expired(now)
            if self._is_needed(name):
                is_over = now - box.idle_since >= self._patience
            else:
                is_over = not box.items
            if is_over:
                self._remove(name)
            else:
                self._checks[name] = now + self._expiry

    def _remove(self, name: str) -> None:
        del self._boxes[name]
        self._checks.pop(name, None)
        self._forget(name)

    def clear(self) -> None:
        """Drop all messages, and forget all channels at which nobody waits."""
        for name, box in list(self._boxes.items()):
            box.items.clear()
            if not box.waiters:
                self._remove(name)
