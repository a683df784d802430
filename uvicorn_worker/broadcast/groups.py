"""Named sets of the channels of this worker, and what is sent to them.

A channel has a name from the moment when somebody asks for that, and may be a member of groups until its connection
ends. What is sent to a group goes to the engine, which brings it to every worker, this one included; there it is
delivered to the members that this worker has. A worker that has none looks up the group, and no more.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from uvicorn_worker._types import Log, Message
from uvicorn_worker.broadcast.codec import decode, encode
from uvicorn_worker.broadcast.delivery import NOTHING, CallSoon, Delivery, Member, Turn
from uvicorn_worker.broadcast.membership import Membership
from uvicorn_worker.config import GATHERED_BYTES, GROUP_NAME_BYTES, PEER_FLUSH_TIME, Settings
from uvicorn_worker.errors import ClientDisconnected, GroupsUnavailable, InvalidGroupMessage, UvicornWorkerError


class Gap(NamedTuple):
    """Messages may have been missed in this worker."""

    #: What has happened.
    reason: str
    #: The groups concerned; ``None`` means all of them.
    groups: frozenset[str] | None
    #: When, in seconds since the epoch.
    at: float


class Sink(Protocol):
    """What an engine brings messages to."""

    def deliver(self, group: str, delivery: Delivery) -> int:
        """Deliver to the members of the group in this worker; how many there are."""
        ...

    def receive(self, group: str, body: bytes) -> None:
        """The same with what has come from elsewhere, which may be anything."""
        ...

    def has_missed(self, gap: Gap) -> None:
        """Messages may have been missed."""
        ...


class Engine:
    """Brings what is sent to a group to the sinks of all workers. This one knows of a single worker, its own.

    An engine keeps the order of what one worker sends to one group, brings nothing twice, and tells the sink of each
    gap. It logs each change of its state, once.
    """

    sink: Sink

    async def start(self, sink: Sink) -> None:
        """Begin: when this returns, what is sent elsewhere from then on comes to ``sink``, for groups that were added.

        It returns within a bounded time, and goes on trying where that was not enough.
        """
        self.sink = sink

    async def stop(self, within: float = PEER_FLUSH_TIME) -> None:
        """End, once what was sent has left, or after so many seconds."""

    async def add(self, group: str) -> None:
        """The group has a member here: return when each later send, wherever, will come. Called for every member.

        Raises :class:`GroupsUnavailable`.
        """

    def discard(self, group: str) -> None:
        """The group has no member here any more: what is sent to it need not come."""

    async def send(self, group: str, delivery: Delivery) -> None:
        """Bring ``delivery.body`` to the ``receive`` of every worker's sink, this one's included, which may be given
        the delivery itself instead, by its ``deliver``.

        Returns when it is on its way, and raises :class:`GroupsUnavailable` where it can't be within a bounded time.
        """
        self.sink.deliver(group, delivery)

    def stats(self) -> dict[str, Any]:
        """Numbers that are of use to know."""
        return {}


class Early(Engine):
    """Keeps what is sent before there is an engine: while the application starts."""

    def __init__(self, bound: int) -> None:
        self._room = bound
        self.kept: deque[tuple[str, Delivery]] = deque()

    async def send(self, group: str, delivery: Delivery) -> None:
        self._room -= len(delivery.body)
        if self._room < 0:
            raise GroupsUnavailable("more was sent than can be kept until the worker has started")
        self.kept.append((group, delivery))


class Groups:
    """The groups of one worker: the channel ``groups`` of its applications, and the sink of its engine."""

    def __init__(self, settings: Settings, log: Log, call_soon: CallSoon) -> None:
        self.engine: Engine = Early(settings.groups_max_size)
        #: That of the engine.
        self.url = settings.groups
        self.log = log
        self._settings = settings
        #: Unique among the workers of all machines.
        self._prefix = f"reply:{secrets.token_hex(8)}."
        self._names = 0
        self._named: dict[str, Member] = {}
        self._members: dict[str, dict[Member, None]] = {}
        #: The groups of each channel that has a name, with that.
        self.memberships: dict[object, tuple[str, dict[str, Membership]]] = {}
        #: Replies that the application has left to be answered through a group.
        self.held: set[Member] = set()
        #: Called with each gap.
        self.hooks: list[Callable[[Gap], object]] = []
        self._counts = dict.fromkeys(("sent", "received", "delivered", "failed", "undecodable", "slow", "gaps"), 0)
        #: What is delivered and has not left yet.
        self.turn = Turn(GATHERED_BYTES, self._counts, log, call_soon)
        self._last_gap: Gap | None = None

    async def start(self, engine: Engine) -> None:
        """Have ``engine`` start, bring what was sent early if it can, and be what brings messages from then on."""
        await engine.start(self)
        early = self.engine
        while isinstance(early, Early) and early.kept:
            group, delivery = early.kept.popleft()
            try:
                await engine.send(group, delivery)
            except GroupsUnavailable as error:  # Whoever sent it has long been told that it is on its way.
                self.log.error("Groups: what was sent to %r before the worker had started is lost: %s", group, error)
        self.engine = engine

    # What an application asks for.

    async def send(self, message: Message) -> None:
        """Do what ``message`` says with its ``group``: ``add`` a channel by its name, ``discard`` one, ``send`` a
        message to all members; in this order, where it says several of these.

        Raises ``InvalidGroupMessage`` (a ``ValueError``), and ``GroupsUnavailable`` (a ``ConnectionError``) where the
        engine is out of reach.
        """
        if not isinstance(message, dict) or "group" not in message or not message.keys() & {"add", "discard", "send"}:
            raise InvalidGroupMessage(f"expected a dict of a group, and of add, discard or send, not {message!r:.100}")
        group = message["group"]
        _check_name(group)
        if "add" in message:
            await self.add(group, message["add"])
        if "discard" in message:
            self.discard(group, message["discard"])
        if "send" in message:
            await self.send_to(group, message["send"])

    async def send_to(self, group: str, message: Message) -> None:
        """Send ``message`` to all members of ``group``; raises as :meth:`send`."""
        _check_name(group)
        delivery = self.prepare(message)
        await self.engine.send(group, delivery)
        self._counts["sent"] += 1

    def prepare(self, message: Message) -> Delivery:
        """What can be sent; raises :class:`InvalidGroupMessage`."""
        body = encode(message)
        if len(body) > self._settings.groups_max_size:
            raise InvalidGroupMessage(
                f"the message has {len(body)} bytes, and {self._settings.groups_max_size} at most (groups_max_size)"
            )
        return Delivery(message, body)

    async def add(self, group: str, name: str) -> None:
        """Make the channel of this name a member; nothing, where that has just ended. Raises as :meth:`send`."""
        _check_name(group)
        member = self._named.get(name) if isinstance(name, str) else None
        if member is None:
            if not isinstance(name, str) or not name.startswith(self._prefix):
                raise InvalidGroupMessage(f"this worker has no channel {name!r:.100}: each is added where it lives")
            self.log.debug("Groups: a channel that has ended is not added: %s", name)
            return
        groups = self.memberships[member][1]
        membership = groups.setdefault(group, Membership())
        self._members.setdefault(group, {})[member] = None
        try:
            await membership.confirm(self.engine.add(group))
        except BaseException:
            if membership.is_void and groups.get(group) is membership:
                self.discard(group, name)
            raise

    def discard(self, group: str, name: str) -> None:
        """Make the channel no member any more, if it is one."""
        _check_name(group)
        member = self._named.get(name) if isinstance(name, str) else None
        if member is not None and group in self.memberships[member][1]:
            del self.memberships[member][1][group]
            self._remove(group, member)

    def _remove(self, group: str, member: Member) -> None:
        members = self._members[group]
        del members[member]
        if not members:
            del self._members[group]
            self.engine.discard(group)

    # What channels ask for.

    def new_name(self) -> str:
        """A name that no channel has."""
        self._names += 1
        return f"{self._prefix}{self._names}"

    def name(self, member: Member) -> str:
        """A name for a channel that has none, by which it is known until it leaves."""
        name = self.new_name()
        self._named[name] = member
        self.memberships[member] = name, {}
        return name

    def leave(self, channel: object) -> None:
        """The channel has ended: if it had a name, that is nobody's any more."""
        left = self.memberships.pop(channel, None)
        if left is not None:
            name, groups = left
            member = self._named.pop(name)
            self.held.discard(member)
            for group in groups:
                self._remove(group, member)

    def has_member(self, channel: object) -> bool:
        """Whether the channel is a member of any group."""
        return channel in self.memberships and bool(self.memberships[channel][1])

    def shed_held(self) -> None:
        """Nothing will come for the replies that are held."""
        for member in tuple(self.held):
            member.shed()

    # What the engine asks for.

    def deliver(self, group: str, delivery: Delivery) -> int:
        members = self._members.get(group)
        if members is None:
            return 0
        turn = self.turn
        turn.make_room(len(delivery.body))
        failure, delivered, failed = None, 0, 0
        frame = before = after = None
        are_new = False
        # A copy: who can't be sent to leaves, and so does who needs no more than this.
        present = tuple(members)
        for member in present:
            gathered = member.gathered
            if frame and gathered is not None:
                if gathered is not before:
                    before, after = gathered, turn.gather(gathered, frame)
                    are_new = are_new or gathered is NOTHING
                member.gathered = after
                continue
            try:
                member.deliver(delivery)
                if member.gathered is None or member.gathered is NOTHING:
                    delivered += 1
            except ClientDisconnected:
                self.leave(member)
                failed += 1
            except Exception as error:
                failure = error
                failed += 1
            frame = delivery.frame
        if are_new:
            turn.add(present)
        if failure is not None:
            unexpected = None if isinstance(failure, UvicornWorkerError) else failure
            self.log.error("Groups: a message to %r failed: %s", group, failure, exc_info=unexpected)
        self._counts["failed"] += failed
        self._counts["delivered"] += delivered
        return len(present)

    def receive(self, group: str, body: bytes) -> None:
        if group not in self._members:
            return
        self._counts["received"] += 1
        try:
            message = decode(body)
        except InvalidGroupMessage as error:
            self._counts["undecodable"] += 1
            self.log.warning("Groups: what has come for %r is dropped: %s", group, error)
            return
        self.deliver(group, Delivery(message, body))

    def has_missed(self, gap: Gap) -> None:
        self._counts["gaps"] += 1
        self._last_gap = gap
        self.log.warning("Groups: messages may have been missed: %s", gap.reason)
        for hook in self.hooks:
            try:
                hook(gap)
            except Exception:
                self.log.error("Groups: the hook %r failed", hook, exc_info=True)
        if self._settings.groups_gap == "close":
            self._shed(self._members if gap.groups is None else gap.groups)

    def _shed(self, groups: Iterable[str]) -> None:
        members: dict[Member, None] = {}
        for group in groups:
            members |= self._members.get(group, {})
        for member in members:
            member.shed()

    # What is of use to know.

    def closed_slow(self, member: object, waiting: int) -> None:
        """A member is being closed for which so many bytes still wait."""
        self._counts["slow"] += 1
        self.log.warning("Groups: closed, because it reads too slowly (%d bytes wait): %s", waiting, member)

    def stats(self) -> dict[str, Any]:
        """Numbers of this worker: what there is now (``groups``, ``members``), what there was since the start, and what
        the engine adds."""
        gap = self._last_gap
        return {
            "groups": len(self._members),
            "members": sum(map(len, self._members.values())),
            "held": len(self.held),
            **self._counts,
            "last_gap": None if gap is None else {"reason": gap.reason, "at": gap.at},
            **self.engine.stats(),
        }


def _check_name(group: object) -> None:
    if not isinstance(group, str):
        raise InvalidGroupMessage(f"the name of a group is a str, not {group!r:.100}")
    try:
        if len(group.encode()) <= GROUP_NAME_BYTES:
            return
    except UnicodeEncodeError:
        pass
    raise InvalidGroupMessage(f"the name of a group has {GROUP_NAME_BYTES} bytes of UTF-8 at most: {group!r:.100}")
