"""Which channels are members of which groups, and what is delivered to them, without connections and engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine, Gap, Groups, Sink
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import ClientDisconnected, GroupsUnavailable, InvalidGroupMessage, InvalidReply


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def _add(self, line: str, *args: Any, **more: Any) -> None:
        self.lines.append(line % args)

    info = warning = error = _add

    def debug(self, line: str, *args: Any, **more: Any) -> None:
        """Nobody reads it."""


def groups_with(log: Log, **settings: Any) -> Groups:
    """Groups whose members gather nothing, so that no turn needs an end."""
    return Groups(Settings(**settings), log, lambda end: None)


class Channel:
    """Keeps what is delivered, until it has gone."""

    gathered = None

    def __init__(self, groups: Groups) -> None:
        self.name = groups.name(self)
        self.received: list[Any] = []
        self.failure: Exception | None = None
        self.was_shed = False

    def deliver(self, delivery: Delivery) -> None:
        if self.failure is not None:
            raise self.failure
        self.received.append(delivery.message)

    def shed(self) -> None:
        self.was_shed = True


class Recorder(Engine):
    """Remembers which groups it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failure: Exception | None = None

    async def add(self, group: str) -> None:
        self.asked.append(f"add {group}")
        if self.failure is not None:
            raise self.failure

    def discard(self, group: str) -> None:
        self.asked.append(f"discard {group}")

    def stats(self) -> dict[str, Any]:
        return {"asked": len(self.asked)}


class Fixture:
    def __init__(self, **settings: Any) -> None:
        self.log = Log()
        self.groups = groups_with(self.log, **settings)
        self.engine = Recorder()
        self.run(self.groups.start(self.engine))

    def run(self, what: Awaitable[None]) -> None:
        async def main() -> None:
            await what

        asyncio.run(main())

    def say(self, **message: Any) -> None:
        self.run(self.groups.send(message))

    def channels(self, count: int) -> list[Channel]:
        return [Channel(self.groups) for _ in range(count)]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Groups, members, and names that are known."""
        stats = self.groups.stats()
        return stats["groups"], stats["members"], len(self.groups.memberships)


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def test_every_member_gets_what_is_sent_once_and_nobody_else(fixture: Fixture) -> None:
    one, two, other = fixture.channels(3)
    for channel in (one, one, two):
        fixture.say(group="chat", add=channel.name)
    fixture.say(group="elsewhere", add=other.name)
    fixture.say(group="chat", send={"text": "hi"})
    assert (one.received, two.received, other.received) == ([{"text": "hi"}], [{"text": "hi"}], [])
    assert fixture.counts == (2, 3, 3)


def test_one_message_may_add_discard_and_send_in_this_order(fixture: Fixture) -> None:
    one, two = fixture.channels(2)
    fixture.say(send={"text": "1"}, discard=two.name, add=one.name, group="chat")
    fixture.say(send={"text": "2"}, discard=one.name, add=two.name, group="chat")
    assert (one.received, two.received) == ([{"text": "1"}], [{"text": "2"}])


def test_after_discard_nothing_comes_and_unknown_names_are_ignored(fixture: Fixture) -> None:
    (one,) = fixture.channels(1)
    fixture.say(group="chat", add=one.name)
    for name in (one.name, one.name, "reply:elsewhere.1", "", 5):
        fixture.say(group="chat", discard=name)
    fixture.say(group="nobody's", discard=one.name)
    fixture.say(group="chat", send={"text": "hi"})
    assert one.received == []
    assert fixture.counts == (0, 0, 1)


def test_a_channel_that_has_ended_leaves_all_its_groups_and_its_name(fixture: Fixture) -> None:
    one, two = fixture.channels(2)
    for group in ("chat", "news"):
        fixture.say(group=group, add=one.name)
    fixture.say(group="chat", add=two.name)
    fixture.groups.leave(one)
    fixture.groups.leave(one)
    assert fixture.counts == (1, 1, 1)
    fixture.say(group="chat", send={"text": "hi"})
    assert (one.received, len(two.received)) == ([], 1)


def test_adding_a_channel_that_has_just_ended_does_nothing(fixture: Fixture) -> None:
    (one,) = fixture.channels(1)
    fixture.groups.leave(one)
    fixture.say(group="chat", add=one.name)
    assert fixture.counts == (0, 0, 0)
    assert fixture.log.lines == []


@pytest.mark.parametrize("name", ["another worker's", "", None, 7, ["x"]])
def test_adding_a_channel_of_another_worker_is_an_error(fixture: Fixture, name: Any) -> None:
    if name == "another worker's":
        name = Channel(groups_with(fixture.log)).name
    with pytest.raises(ValueError, match="this worker has no channel"):
        fixture.say(group="chat", add=name)
    assert fixture.counts == (0, 0, 0)


def test_names_are_different_among_channels_and_workers(fixture: Fixture) -> None:
    groups = [fixture.groups, groups_with(fixture.log)]
    assert len({Channel(each).name for each in groups for _ in range(100)}) == 200


@pytest.mark.parametrize("name", ["", "x" * 512, "ä" * 256, "\0 \n*[]"])
def test_a_group_may_have_any_name_of_512_bytes(fixture: Fixture, name: str) -> None:
    (one,) = fixture.channels(1)
    fixture.say(group=name, add=one.name)
    fixture.say(group=name, send={"text": "hi"})
    assert len(one.received) == 1


@pytest.mark.parametrize("name", ["x" * 513, "ä" * 257, "\ud800", b"chat", None])
def test_other_names_of_groups_are_errors(fixture: Fixture, name: Any) -> None:
    with pytest.raises(InvalidGroupMessage, match="the name of a group"):
        fixture.say(group=name, send={"text": "hi"})


@pytest.mark.parametrize("message", [{}, {"group": "chat"}, {"send": {"text": "hi"}}, {"group": "chat", "sned": {}}])
def test_a_message_that_asks_for_nothing_is_an_error(fixture: Fixture, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidGroupMessage, match="add, discard or send"):
        fixture.say(**message)


def test_a_message_past_the_bound_is_an_error_and_reaches_nobody() -> None:
    fixture = Fixture(groups_max_size=100)
    (one,) = fixture.channels(1)
    fixture.say(group="chat", add=one.name)
    fixture.say(group="chat", send={"bytes": b"x" * 99})
    with pytest.raises(InvalidGroupMessage, match="101 bytes, and 100 at most"):
        fixture.say(group="chat", send={"bytes": b"x" * 100})
    assert len(one.received) == 1


def test_what_can_not_be_sent_is_an_error_even_where_nobody_is(fixture: Fixture) -> None:
    with pytest.raises(InvalidGroupMessage):
        fixture.say(group="nobody", send={"text": object()})


def test_a_member_that_fails_keeps_nobody_from_the_message_and_is_logged_once(fixture: Fixture) -> None:
    channels = fixture.channels(5)
    for channel in channels:
        fixture.say(group="chat", add=channel.name)
    channels[0].failure = InvalidReply("no")
    channels[2].failure = RuntimeError("broken")
    channels[3].failure = ClientDisconnected("gone")
    fixture.say(group="chat", send={"text": "hi"})
    assert [len(channel.received) for channel in channels] == [0, 1, 0, 0, 1]
    assert len(fixture.log.lines) == 1
    stats = fixture.groups.stats()
    assert (stats["failed"], stats["delivered"]) == (3, 2)
    assert fixture.counts == (1, 4, 4)  # Who has gone has left.


def test_members_that_leave_and_come_during_a_delivery_disturb_nobody(fixture: Fixture) -> None:
    one, two, three = fixture.channels(3)

    class Leaving(Channel):
        def deliver(self, delivery: Delivery) -> None:
            super().deliver(delivery)
            fixture.groups.leave(self)
            fixture.groups.leave(two)

    leaving = Leaving(fixture.groups)
    for channel in (one, leaving, two, three):
        fixture.say(group="chat", add=channel.name)
    fixture.say(group="chat", send={"text": "hi"})
    assert [len(channel.received) for channel in (one, leaving, three)] == [1, 1, 1]
    fixture.say(group="chat", send={"text": "hi"})
    assert [len(channel.received) for channel in (one, leaving, three)] == [2, 1, 2]
    assert fixture.groups.stats()["delivered"] == 4 + 2


def test_the_engine_is_asked_for_groups_as_long_as_they_have_members(fixture: Fixture) -> None:
    one, two = fixture.channels(2)
    for channel in (one, two, one):
        fixture.say(group="chat", add=channel.name)
    fixture.groups.leave(one)
    fixture.say(group="chat", discard=two.name)
    fixture.say(group="chat", discard=two.name)
    assert fixture.engine.asked == ["add chat", "add chat", "add chat", "discard chat"]


def test_an_engine_that_can_not_add_leaves_no_member_behind(fixture: Fixture) -> None:
    one, two = fixture.channels(2)
    fixture.say(group="chat", add=two.name)
    fixture.engine.failure = GroupsUnavailable("out of reach")
    for channel in (one, two):
        with pytest.raises(ConnectionError):
            fixture.say(group="chat", add=channel.name)
    assert fixture.counts == (1, 1, 2)  # Who was one before still is one.


class Slow(Recorder):
    """Has whoever joins wait until a test knows how that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.joining: list[asyncio.Future[None]] = []

    async def add(self, group: str) -> None:
        self.joining.append(asyncio.get_running_loop().create_future())
        await self.joining[-1]


@pytest.mark.parametrize("fate", ["cancelled", "failed", "cancelled when the other had it"])
@pytest.mark.parametrize("first", [0, 1])
def test_of_several_that_add_one_channel_who_gives_up_undoes_nothing_for_the_others(first: int, fate: str) -> None:
    groups, engine = groups_with(Log()), Slow()
    channel = Channel(groups)

    async def main() -> None:
        await groups.start(engine)
        tasks = [asyncio.create_task(groups.add("chat", channel.name)) for _ in range(2)]
        await asyncio.sleep(0)
        giving_up, staying = tasks[first], tasks[not first]
        if fate == "cancelled when the other had it":
            engine.joining[not first].set_result(None)
            await staying
        if fate == "failed":
            engine.joining[first].set_exception(GroupsUnavailable("a test"))
        else:
            giving_up.cancel()
        await asyncio.wait((giving_up,))
        assert engine.asked == []
        if not staying.done():
            engine.joining[not first].set_result(None)
            await staying
        await groups.send_to("chat", {"text": "hi"})
        assert channel.received == [{"text": "hi"}]

    asyncio.run(main())


def test_when_all_fail_that_add_one_channel_it_is_no_member() -> None:
    groups, engine = groups_with(Log()), Slow()
    channel = Channel(groups)

    async def main() -> None:
        await groups.start(engine)
        tasks = [asyncio.create_task(groups.add("chat", channel.name)) for _ in range(2)]
        await asyncio.sleep(0)
        for joining in engine.joining:
            joining.set_exception(GroupsUnavailable("a test"))
        await asyncio.wait(tasks)
        assert engine.asked == ["discard chat"]
        assert groups.stats()["members"] == 0

    asyncio.run(main())


def test_who_gives_up_adding_what_was_discarded_meanwhile_undoes_nothing_of_a_later_add() -> None:
    groups, engine = groups_with(Log()), Slow()
    channel = Channel(groups)

    async def main() -> None:
        await groups.start(engine)
        early = asyncio.create_task(groups.add("chat", channel.name))
        await asyncio.sleep(0)
        groups.discard("chat", channel.name)
        late = asyncio.create_task(groups.add("chat", channel.name))
        await asyncio.sleep(0)
        early.cancel()
        await asyncio.wait((early,))
        engine.joining[1].set_result(None)
        await late
        await groups.send_to("chat", {"text": "hi"})
        assert channel.received == [{"text": "hi"}]

    asyncio.run(main())


def test_what_comes_from_elsewhere_is_delivered_if_it_is_a_message(fixture: Fixture) -> None:
    sink: Sink = fixture.groups
    (one,) = fixture.channels(1)
    sink.receive("chat", b"garbage that nobody looks at")
    fixture.say(group="chat", add=one.name)
    sink.receive("chat", b'{"text": "hi"}')
    sink.receive("chat", b"garbage")
    sink.receive("chat", b"\x01bytes")
    assert one.received == [{"text": "hi"}, {"bytes": b"bytes"}]
    stats = fixture.groups.stats()
    assert (stats["received"], stats["delivered"], stats["undecodable"]) == (3, 2, 1)
    assert len(fixture.log.lines) == 1


def gap(*groups: str) -> Gap:
    return Gap("the link was lost", frozenset(groups) or None, 1000.0)


def test_a_gap_is_logged_counted_and_given_to_all_hooks_even_if_one_fails(fixture: Fixture) -> None:
    gaps: list[Gap] = []
    (one,) = fixture.channels(1)
    fixture.say(group="chat", add=one.name)

    def failing(missed: Gap) -> None:
        raise RuntimeError("the hook's own")

    fixture.groups.hooks += failing, gaps.append
    fixture.groups.has_missed(gap())
    assert gaps == [gap()]
    missed, failed = fixture.log.lines
    assert missed == "Groups: messages may have been missed: the link was lost"
    assert failed.startswith("Groups: the hook <function ")
    stats = fixture.groups.stats()
    assert (stats["gaps"], stats["last_gap"]) == (1, {"reason": "the link was lost", "at": 1000.0})
    assert not one.was_shed


@pytest.mark.parametrize(("groups", "shed"), [((), [True, True]), (("chat", "nobody's"), [True, False])])
def test_a_gap_closes_members_of_the_groups_concerned_if_that_is_asked_for(groups: Any, shed: list[bool]) -> None:
    fixture = Fixture(groups_gap="close")
    one, two = fixture.channels(2)
    fixture.say(group="chat", add=one.name)
    fixture.say(group="news", add=two.name)
    fixture.groups.has_missed(gap(*groups))
    assert [one.was_shed, two.was_shed] == shed


def test_stats_have_what_the_engine_adds(fixture: Fixture) -> None:
    fixture.say(group="chat", send={"text": "to nobody"})
    stats = fixture.groups.stats()
    assert (stats["asked"], stats["sent"], stats["delivered"]) == (0, 1, 0)


def test_what_is_sent_before_the_engine_has_started_is_sent_then_in_order() -> None:
    log = Log()
    groups = groups_with(log, groups_max_size=30)
    (channel,) = (Channel(groups),)
    sent: list[str] = []

    class Late(Engine):
        async def start(self, sink: Sink) -> None:
            await super().start(sink)
            await groups.send({"group": "chat", "send": {"text": "2"}})

        async def send(self, group: str, delivery: Delivery) -> None:
            await super().send(group, delivery)
            sent.append(delivery.message["text"])

    async def main() -> None:
        await groups.send({"group": "chat", "add": channel.name, "send": {"text": "1"}})
        assert channel.received == []
        await groups.start(Late())
        await groups.send({"group": "chat", "send": {"text": "3"}})

    asyncio.run(main())
    assert sent == ["1", "2", "3"]
    assert [message["text"] for message in channel.received] == sent


def test_no_more_is_kept_for_the_start_than_one_message_may_have() -> None:
    groups = groups_with(Log(), groups_max_size=30)

    async def main() -> None:
        await groups.send({"group": "chat", "send": {"bytes": b"x" * 20}})
        with pytest.raises(GroupsUnavailable):
            await groups.send({"group": "chat", "send": {"bytes": b"x" * 20}})

    asyncio.run(main())
