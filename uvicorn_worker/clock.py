"""Once a second: the time, the ``date`` field, and the deadlines that have passed.

Nothing here asks the system for the time except through the reading that :meth:`Clock.tick` is given, so that a test
can drive it by hand.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Protocol

#: Seconds between two ticks.
TICK = 1.0


class Waiting(Protocol):
    """Anything that can stand in a queue of deadlines."""

    def deadline_passed(self, deadlines: Deadlines) -> None:
        """The member has left ``deadlines`` because its time was up."""


class Clock:
    """The time as of the last tick, and everything that is due by it."""

    __slots__ = ("now", "date", "_queues")

    def __init__(self, now: float, wall: float) -> None:
        self._queues: list[Deadlines] = []
        self.tick(now, wall)

    def deadlines(self, seconds: float) -> Deadlines:
        """A new queue whose members wait ``seconds`` each; 0 means that they wait for ever."""
        queue = Deadlines(self, seconds)
        self._queues.append(queue)
        return queue

    def tick(self, now: float, wall: float) -> None:
        """Move on to ``now`` (seconds of a monotonic clock) and ``wall`` (seconds since the epoch)."""
        self.now = now
        #: The value of the ``date`` field, an IMF-fixdate (RFC 9110 section 5.6.7).
        self.date = formatdate(wall, usegmt=True).encode("ascii")
        for queue in self._queues:
            queue.expire()


class Deadlines:
    """Members that wait equally long, in the order in which they began.

    A tick looks at those that are due and at one more, however many wait. A deadline is never early and at most two
    ticks late: its start is only known to a tick.
    """

    __slots__ = ("seconds", "_clock", "_ends")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._ends: dict[Waiting, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def start(self, member: Waiting) -> None:
        """Let ``member`` wait from now on; one that waits already goes to the end of the queue."""
        if self.seconds:
            self._ends.pop(member, None)
            self._ends[member] = self._clock.now + self.seconds + TICK

    def stop(self, member: Waiting) -> None:
        """Let ``member`` wait no more, if it did."""
        self._ends.pop(member, None)

    def expire(self) -> None:
        """Take out the members that are due and tell each."""
        now = self._clock.now
        due = []
        for member, end in self._ends.items():
            if end > now:
                break
            due.append(member)
        for member in due:
            if self._ends.pop(member, None) is not None:
                member.deadline_passed(self)
