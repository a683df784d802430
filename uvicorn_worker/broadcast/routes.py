"""The ways of messages to the channels of a channel layer, over the groups of an engine.

An engine brings each message to all who are members of a group. What a channel layer has more is made of three kinds of
groups, which begin with a prefix:

* ``group:NAME``: each process that has channels in the group NAME is a member once, whatever their number.
* ``process:ID``: a channel that is named ``...ID!...`` lives in the process ID, which alone is a member.
* ``channel:NAME``: of any other channel, a message stays where it was sent until a process asks for it. Those that have
  messages, or want one, are members. Who has one says so (an offer), and who wants one does, too (an ask); an ask is
  answered with a message to the process that asks, which has it alone from then on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from uvicorn_worker._types import Message
from uvicorn_worker.broadcast.codec import decode
from uvicorn_worker.broadcast.delivery import Delivery, Gathered
from uvicorn_worker.broadcast.groups import Early, Gap, Groups
from uvicorn_worker.broadcast.mailboxes import Full, Mailboxes
from uvicorn_worker.broadcast.membership import Membership
from uvicorn_worker.broadcast.once import Once
from uvicorn_worker.errors import GroupsUnavailable, InvalidGroupMessage, UvicornWorkerError

#: What messages between processes have more: the channel that one is for, or that is asked for; who has one; who asks,
#: and for how many.
CHANNEL, _ASK, _OFFER, _FROM, _COUNT = "__asgi_channel__", "__asgi_ask__", "__asgi_offer__", "from", "count"

#: Turns of the loop that a sender leaves to receivers of this process, at most.
_MOST_TURNS = 10

#: Seconds that a process which ends waits for others to ask for what it has.
_SETTLE_TIME = 1.0


class _Listener:
    """A member of one group of the engine."""

    __slots__ = ("_deliver", "_group", "_groups", "_name", "_once")

    gathered: Gathered | None = None

    def __init__(self, groups: Groups, group: str, deliver: Callable[[Delivery], None]) -> None:
        self._groups = groups
        self._group = group
        self._deliver = deliver
        self._name = groups.name(self)
        self._once = Once(lambda: groups.add(self._group, self._name))

    async def join(self) -> None:
        """Return when whatever is sent from then on comes; raises :class:`GroupsUnavailable`."""
        if isinstance(self._groups.engine, Early):  # It would be told of nobody who has joined by then.
            raise GroupsUnavailable("no channel can be received from before the worker has started")
        await self._once()  # Groups take one back that could not join; nobody else must depend on that.
        await self._groups.add(self._group, self._name)

    def leave(self) -> None:
        self._groups.leave(self)

    def deliver(self, delivery: Delivery) -> None:
        self._deliver(delivery)

    def shed(self) -> None:
        """What has been missed is told to the functions of ``on_gap``: no connection is known here."""


class _Group(_Listener):
    """The channels of this process that are in a group."""

    __slots__ = ("channels",)

    def __init__(self, groups: Groups, group: str, put_to_all: Callable[[Iterable[str], Delivery], None]) -> None:
        self.channels: dict[str, Membership] = {}
        super().__init__(groups, group, partial(put_to_all, self.channels))


def _process_of(channel: str) -> str | None:
    """The process that a channel lives in, where its name has that."""
    remote, mark, _ = channel.partition("!")
    return remote.rpartition(".")[2] if mark else None


class Routes:
    """The channels of one channel layer in one process. All is done in the loop of its groups."""

    def __init__(
        self, groups: Groups, prefix: str, capacity_of: Callable[[str], int], expiry: float, patience: float
    ) -> None:
        """``prefix`` tells channel layers apart that share an engine; the others are as in :class:`Mailboxes`."""
        self._groups = groups
        self._prefix = prefix
        self.id = secrets.token_hex(8)
        self._boxes = Mailboxes(
            capacity_of,
            expiry,
            patience,
            groups.log,
            is_needed=lambda channel: channel in self._groups_of,
            forget=self._forget,
        )
        self._process = _Listener(groups, f"{prefix}:process:{self.id}", self._directed)
        self._members: dict[str, _Group] = {}
        self._groups_of: dict[str, set[str]] = {}
        self._channels: dict[str, _Listener] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: The most messages that wait at one of the channels that were put to since a sender asked.
        self._pressure = 0
        #: Set when another process has asked.
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        groups.hooks.append(self._has_missed)

    # What the application asks for.

    async def new_channel(self, prefix: str) -> str:
        """A channel that lives in this process; raises :class:`GroupsUnavailable` where no other could reach it."""
        await self._process.join()
        return f"{prefix}.{self.id}!{secrets.token_hex(8)}"

    async def send(self, channel: str, message: Message) -> None:
        """Raises :class:`Full` where the channel, or its part that is in this process, is; ``InvalidGroupMessage`` and
        :class:`GroupsUnavailable`."""
        body = self._prepare(message)
        self._boxes.sweep()
        process = _process_of(channel)
        if process is not None and process != self.id:
            await self._tell(process, message | {CHANNEL: channel})
            return
        if process is None and not self._boxes.waiting(channel):
            await self._listen(channel)
        self._pressure = self._boxes.put(channel, body)
        if process is None and self._pressure:
            await self._offer(channel)
        await self._let_receive()

    async def receive(self, channel: str) -> bytes:
        """The next message, as bytes; raises as :meth:`send`, and for a channel that lives in another process."""
        process = _process_of(channel)
        if process is None:
            return await self._receive_from_anywhere(channel)
        self._require_own(channel)
        self._boxes.sweep()
        return await self._boxes.take(channel)

    async def _receive_from_anywhere(self, channel: str) -> bytes:
        self._boxes.sweep()
        try:
            return await self._boxes.take(channel, lambda: self._ask(channel))
        except BaseException:
            if self._boxes.kept(channel):  # It came at the same moment, and is another's.
                self._begin(self._offer(channel))
            raise

    async def join(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; raises as :meth:`send`."""
        self._require_own(channel)
        self._boxes.sweep()
        self._boxes.open(channel)
        members = self._members.get(group)
        if members is None:
            members = self._members[group] = _Group(self._groups, self._name_of(group), self._put_to_all)
        membership = members.channels.setdefault(channel, Membership())
        self._groups_of.setdefault(channel, set()).add(group)
        try:
            await membership.confirm(members.join())
        except BaseException:
            is_latest = self._members.get(group) is members and members.channels.get(channel) is membership
            if membership.is_void and is_latest:
                self._leave(group, channel)
            raise

    async def leave(self, group: str, channel: str) -> None:
        """Remove a channel of this process from a group, if it is in it; raises ``InvalidGroupMessage``."""
        self._require_own(channel)
        self._leave(group, channel)

    def _leave(self, group: str, channel: str) -> None:
        members = self._members.get(group)
        if members is None or channel not in members.channels:
            return
        del members.channels[channel]
        if not members.channels:
            del self._members[group]
            members.leave()
        groups = self._groups_of[channel]
        groups.remove(group)
        if not groups:
            del self._groups_of[channel]
            self._boxes.rest(channel)

    async def send_to_group(self, group: str, message: Message) -> None:
        """Raises ``InvalidGroupMessage`` and :class:`GroupsUnavailable`; channels that are full are left out."""
        self._prepare(message)
        self._pressure = 0
        await self._groups.send_to(self._name_of(group), message)
        await self._let_receive()

    async def clear(self) -> None:
        """Forget all messages and groups of this process."""
        for channel in list(self._groups_of):
            self._forget(channel)
        self._boxes.clear()

    async def settle(self) -> None:
        """Wait for others to ask for what is here, but not for long, and say what is lost."""
        try:
            async with asyncio.timeout(_SETTLE_TIME):
                while any(map(self._boxes.kept, self._channels)):
                    self._asked.clear()
                    await self._asked.wait()
        except TimeoutError:
            for channel in self._channels:
                if count := self._boxes.kept(channel):
                    self._groups.log.warning("Groups: nobody has received %d messages to %s", count, channel)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SETTLE_TIME)

    # How it is done.

    def _name_of(self, group: str) -> str:
        return f"{self._prefix}:group:{group}"

    def _prepare(self, message: Message) -> bytes:
        body = self._groups.prepare(message).body
        if CHANNEL in message or _ASK in message:
            raise InvalidGroupMessage(f"a message can't have {CHANNEL} or {_ASK}")
        return body

    def _require_own(self, channel: str) -> None:
        if _process_of(channel) != self.id:
            raise InvalidGroupMessage(f"{channel} is no channel of this process, as new_channel() makes them")

    async def _let_receive(self) -> None:
        """Senders who never wait would fill the channels of this process before anybody could receive."""
        for _ in range(min(1 + self._pressure, _MOST_TURNS)):
            await asyncio.sleep(0)

    def _put_to_all(self, channels: Iterable[str], delivery: Delivery) -> None:
        self._boxes.sweep()
        for channel in tuple(channels):
            try:
                self._pressure = max(self._pressure, self._boxes.put(channel, delivery.body))
            except Full:
                pass  # The channel's mailbox has logged that.

    def _forget(self, channel: str) -> None:
        """Its mailbox is gone."""
        if groups := self._groups_of.get(channel):
            self._groups.log.info("Groups: nobody receives from %s any more: it leaves its groups", channel)
            for group in tuple(groups):
                self._leave(group, channel)
        listener = self._channels.pop(channel, None)
        if listener is not None:
            listener.leave()

    # What processes say to each other.

    async def _tell(self, process: str, message: Message) -> None:
        await self._groups.send_to(f"{self._prefix}:process:{process}", message)

    def _directed(self, delivery: Delivery) -> None:
        """Something has come for this process, a message to a channel or an ask."""
        message = delivery.message
        if _ASK in message:
            self._is_asked(message)
            return
        channel = message.get(CHANNEL)
        if not isinstance(channel, str) or _process_of(channel) not in (None, self.id):
            return
        try:
            kept = self._boxes.put(channel, delivery.body)
        except Full:
            return
        if kept and _process_of(channel) is None:  # Who wanted it has gone.
            self._begin(self._offer(channel))

    async def _listen(self, channel: str) -> None:
        """Hear of offers and asks for a channel; raises :class:`GroupsUnavailable`."""
        self._boxes.open(channel)
        await self._process.join()
        listener = self._channels.get(channel)
        if listener is None:
            name = f"{self._prefix}:channel:{channel}"
            listener = self._channels[channel] = _Listener(self._groups, name, partial(self._heard, channel))
        await listener.join()

    async def _offer(self, channel: str) -> None:
        try:
            await self._listen(channel)
            await self._groups.send_to(f"{self._prefix}:channel:{channel}", {_OFFER: self.id})
        except GroupsUnavailable as error:  # Who asks later is given it, too.
            self._groups.log.warning("Groups: messages to %s wait here, unknown to others: %s", channel, error)

    async def _ask(self, channel: str) -> None:
        await self._listen(channel)
        await self._groups.send_to(f"{self._prefix}:channel:{channel}", {_ASK: channel, _FROM: self.id, _COUNT: 1})

    def _heard(self, channel: str, delivery: Delivery) -> None:
        """Somebody has offered a message to a channel, or asks for one."""
        message = delivery.message
        holder = message.get(_OFFER)
        if holder is None:
            self._is_asked(message)
        elif holder != self.id and (count := self._boxes.waiting(channel)):
            self._begin(self._tell(str(holder), {_ASK: channel, _FROM: self.id, _COUNT: count}))

    def _has_missed(self, gap: Gap) -> None:
        """Offers and asks may be among what was missed."""
        if asyncio.get_running_loop() is not self._loop:  # Another worker's, in the same process.
            return
        for channel in self._channels:
            if self._boxes.waiting(channel):
                self._begin(self._ask(channel))
            elif self._boxes.kept(channel):
                self._begin(self._offer(channel))

    def _is_asked(self, message: Message) -> None:
        channel, process, count = message.get(_ASK), message.get(_FROM), message.get(_COUNT)
        if process == self.id or not (isinstance(channel, str) and isinstance(process, str) and isinstance(count, int)):
            return
        while count > 0 and channel in self._channels and (body := self._boxes.pop(channel)) is not None:
            self._begin(self._tell(process, decode(body) | {CHANNEL: channel}))
            count -= 1
        self._asked.set()

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        """Do something in the order in which it is begun."""
        task = self._loop.create_task(self._log_failure(what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _log_failure(self, what: Coroutine[Any, Any, None]) -> None:
        try:
            await what
        except UvicornWorkerError as error:
            self._groups.log.warning("Groups: a message between processes is lost: %s", error)
