"""With every tick: the time, the ``date`` field, and the deadlines that have passed.

Nothing here asks the system for the time except through the reading that :meth:`Clock.tick` is given, so that a test
can drive it by hand.
"""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import Protocol

#: Seconds between two ticks, unless the master wants to hear of the worker more often.
TICK = 1.0


def tick_under(timeout: float) -> float:
    """The seconds between two ticks where the master kills a worker that is silent for ``timeout``; 0 is for ever."""
    return min(TICK, timeout / 2) if timeout else TICK


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
        queue = Deadlines(seconds, self.now)
        self._queues.append(queue)
        return queue

    def tick(self, now: float, wall: float) -> None:
        """Move on to ``now`` (seconds of a monotonic clock) and ``wall`` (seconds since the epoch)."""
        self.now = now
        #: The value of the ``date`` field, an IMF-fixdate (RFC 9110 section 5.6.7).
        self.date = formatdate(wall, usegmt=True).encode("ascii")
        for queue in self._queues:
            queue.tick(now)


class Deadlines(dict[Waiting, float]):
    """Members that wait equally long, with the time at which each is due, in the order in which they began.

    A member joins by ``deadlines[member] = deadlines.due``, and leaves by ``deadlines.pop(member, None)``: connections
    do both with every request, and an operation of a dictionary costs half of a call. A tick looks at those that are
    due and at one more, however many wait. A deadline is never early and at most two ticks late, as the time is only
    known to a tick.
    """

    __slots__ = ("due", "seconds")

    def __init__(self, seconds: float, now: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.tick(now)

    def tick(self, now: float) -> None:
        """Take out the members that are due and tell each."""
        #: When a member that joins now is due.
        self.due = now + self.seconds + TICK if self.seconds else math.inf
        due = []
        for member, end in self.items():
            if end > now:
                break
            due.append(member)
        for member in due:
            if self.pop(member, None) is not None:
                member.deadline_passed(self)
