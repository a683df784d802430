"""Messages on their way to members, and what of them leaves together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from uvicorn_worker._types import Log, Message
from uvicorn_worker.errors import ClientDisconnected


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

    __slots__ = ("_counts", "_frame", "_log", "_most", "_size", "_with_frame", "gatherers")

    def __init__(self, most: int, counts: dict[str, int], log: Log) -> None:
        """Past ``most`` bytes of messages nothing more is gathered, so that large ones are not copied; ``counts`` has
        those that were ``delivered`` and those that have ``failed``."""
        self._most = most
        self._counts = counts
        self._log = log
        #: Members that have gathered something; who is the first has :meth:`end` called when the turn ends.
        self.gatherers: list[Any] = []
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

    def end(self) -> None:
        """Write what was gathered."""
        gatherers, self.gatherers = self.gatherers, []
        self._size = 0
        self._frame, self._with_frame = b"", {}
        self.write(gatherers, True)

    def write(self, gatherers: Iterable[Any], is_due: bool) -> None:
        """Write what these have gathered; as :meth:`Gatherer.write_gathered`, but it raises nothing."""
        written, data, count = NOTHING, b"", 0
        delivered = failed = 0
        for gatherer in gatherers:
            gathered = gatherer.gathered
            if gathered is NOTHING or gathered is None:
                continue
            if gathered is not written:
                written, data, count = gathered, gathered.data, gathered.count
            gatherer.gathered = NOTHING
            try:
                gatherer.write_gathered(data, is_due)
                delivered += count
            except ClientDisconnected:
                failed += count
            except Exception:
                self._log.error("Groups: messages could not be written: %s", gatherer, exc_info=True)
                failed += count
        self._counts["delivered"] += delivered
        self._counts["failed"] += failed
