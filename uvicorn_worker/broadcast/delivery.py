"""Messages on their way to members, and what of them leaves together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

from uvicorn_worker._types import Log, Message
from uvicorn_worker.errors import ClientDisconnected

#: Has something called when the loop has done what is ready to be done.
CallSoon = Callable[[Callable[[], None]], object]


class Delivery:
    """A message on its way to members, with what is made of it once for all of them."""

    __slots__ = ("body", "frame", "message")

    def __init__(self, message: Message, body: bytes) -> None:
        self.message = message
        #: The message as an engine carries it.
        self.body = body
        #: The message as a frame of a WebSocket, as soon as one has made it; empty where it is more than that.
        self.frame: bytes | None = None


class Gathered:
    """Frames that are to be written together: one more than ``before``. Members that have gathered the same refer to
    the same, so that it is joined once."""

    __slots__ = ("_data", "before", "count", "frame")

    def __init__(self, before: Gathered | None, frame: bytes) -> None:
        self.before = before
        self.frame = frame
        #: How many frames these are.
        self.count: int = 0 if before is None else before.count + 1
        self._data: bytes | None = None

    @property
    def data(self) -> bytes:
        """The frames as one."""
        if self._data is None:
            frames, part = [], self
            while part.before is not None:
                frames.append(part.frame)
                part = part.before
            self._data = b"".join(reversed(frames))
        return self._data


#: What a member has gathered when it has written everything.
NOTHING = Gathered(None, b"")


class Member(Protocol):
    """A channel that can be a member of groups; it is the same as no other one, and hashed as such."""

    #: What leaves at the end of the loop's turn. ``None`` where nothing can be gathered now, or ever; a member that can
    #: is a :class:`Gatherer`.
    gathered: Gathered | None

    def deliver(self, delivery: Delivery) -> None:
        """Send what was delivered, waiting for nothing, or gather it.

        Raises :class:`ClientDisconnected` where there is nobody to send it to, and the errors of a ``send``.
        """
        ...

    def shed(self) -> None:
        """End, in a way that has the client come back: it has missed something."""
        ...


class Gatherer(Protocol):
    """A member that can gather what it is to write."""

    gathered: Gathered | None

    def write_gathered(self, data: bytes, is_due: bool) -> None:
        """Write what was gathered: because that ``is_due``, or because something is to be written behind it.

        Raises :class:`ClientDisconnected` where there is nobody to write to; only where it is due, that may be so
        because the client reads too slowly.
        """
        ...


class Turn:
    """One turn of the loop, in which frames are gathered: writing costs more than everything else, so each member is
    written to once."""

    __slots__ = ("_call_soon", "_counts", "_frame", "_log", "_members", "_most", "_size", "_with_frame")

    def __init__(self, most: int, counts: dict[str, int], log: Log, call_soon: CallSoon) -> None:
        """Past ``most`` bytes of messages nothing more is gathered, so that large ones are not copied; ``counts`` has
        those that were ``delivered`` and those that have ``failed``."""
        self._most = most
        self._counts = counts
        self._log = log
        self._call_soon = call_soon
        #: Among them all that have gathered something.
        self._members: list[Sequence[Member]] = []
        self._size = 0
        #: The latest frame, and what has become with it of what was gathered before.
        self._frame = b""
        self._with_frame: dict[Gathered, Gathered] = {}

    def make_room(self, size: int) -> None:
        """A message of so many bytes is to be delivered."""
        self._size += size
        if self._size > self._most:
            self.end()
            self._size = size

    def gather(self, before: Gathered, frame: bytes) -> Gathered:
        """What was gathered ``before``, and the frame."""
        if frame is not self._frame:
            self._frame, self._with_frame = frame, {}
        gathered = self._with_frame.get(before)
        if gathered is None:
            gathered = self._with_frame[before] = Gathered(before, frame)
        return gathered

    def add(self, members: Sequence[Member]) -> None:
        """Some of these have gathered something, and had not in this turn."""
        if not self._members:
            self._call_soon(self.end)
        self._members.append(members)

    def end(self) -> None:
        """Write what was gathered."""
        members, self._members = self._members, []
        self._size = 0
        self._frame, self._with_frame = b"", {}
        self.write(chain.from_iterable(members), True)

    def write(self, members: Iterable[Any], is_due: bool) -> None:
        """Write what these have gathered; as :meth:`Gatherer.write_gathered`, but it raises nothing."""
        written: object = self
        delivered = failed = 0
        for member in members:
            gathered = member.gathered
            if gathered is not written:
                if gathered is None or gathered is NOTHING:
                    continue
                written, data, count = gathered, gathered.data, gathered.count
            member.gathered = NOTHING
            try:
                member.write_gathered(data, is_due)
                delivered += count
            except ClientDisconnected:
                failed += count
            except Exception:
                self._log.error("Groups: messages could not be written: %s", member, exc_info=True)
                failed += count
        self._counts["delivered"] += delivered
        self._counts["failed"] += failed
