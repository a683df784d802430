"""The channel layer for Django Channels, in two workers with a loop and a thread each, over each engine."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from uvicorn_worker import groups as worker_groups
from uvicorn_worker.broadcast import mesh, outside
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.engines import engine_of
from uvicorn_worker.broadcast.groups import Engine, Gap, Groups
from uvicorn_worker.channel_layer import GroupsChannelLayer
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import GroupsUnavailable, InvalidGroupMessage, InvalidOption

from .harness import DEADLINE, Log
from .redis_server import RedisServer

Result = TypeVar("Result")

HELLO = {"type": "chat.message", "text": "hello"}


class Worker:
    """One whose groups run in a thread of its own, as those of a process of its own."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.log = Log()
        self._runner = asyncio.Runner()
        self.loop = self._runner.get_loop()
        self.groups = Groups(Settings(groups=url, **settings), self.log, self.loop.call_soon)
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._runner.run, args=(self._live(),))

    async def _live(self) -> None:
        await self._end.wait()
        await self.groups.engine.stop()

    def __enter__(self) -> Worker:
        worker_groups.enrol(self.loop, self.groups)
        self.groups.hooks = []  # those of both workers, which have a process each
        self._thread.start()
        self.run(self.groups.start(engine_of(self.groups.url, None, self.log)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        worker_groups.dismiss(self.loop)
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._runner.close()

    def begin(self, coroutine: Coroutine[Any, Any, Result]) -> Any:
        """What is done in this worker, as a future of another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        result: Result = self.begin(coroutine).result(DEADLINE)
        return result

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Whatever this worker sends does not arrive."""
        engine, self.groups.engine = self.groups.engine, Nowhere(self.groups.engine)
        yield
        self.groups.engine = engine

    def begin_receiving(self, layer: GroupsChannelLayer, channel: str) -> Any:
        """The same for `receive`, once it waits."""
        future = self.begin(layer.receive(channel))
        self.run(turns())
        return future


class Nowhere(Engine):
    """Loses all that is sent."""

    def __init__(self, engine: Engine) -> None:
        self.add = engine.add  # type: ignore[method-assign]

    async def send(self, group: str, delivery: Delivery) -> None:
        pass


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture(params=["local", "redis"])
def url(request: pytest.FixtureRequest, directory: str) -> str:
    """Of an engine by which workers reach each other."""
    if request.param == "local":
        return f"local://{directory}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def workers(url: str) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(url)) for _ in range(2)]


@pytest.fixture
def one(workers: list[Worker]) -> Worker:
    return workers[0]


@pytest.fixture
def other(workers: list[Worker]) -> Worker:
    return workers[1]


@pytest.fixture
def layer() -> GroupsChannelLayer:
    return GroupsChannelLayer(capacity=3)


def test_a_message_to_a_channel_of_a_process_is_received_there_wherever_it_was_sent(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channel = one.run(layer.new_channel())
    for sender in (one, other):
        sender.run(layer.send(channel, HELLO))
        assert one.run(layer.receive(channel)) == HELLO


def test_messages_arrive_in_order_and_each_at_its_channel(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channels = [one.run(layer.new_channel("some.prefix")) for _ in range(2)]
    assert len(set(channels)) == 2
    assert all(channel.startswith("some.prefix.") and layer.require_valid_channel_name(channel) for channel in channels)

    async def send() -> None:
        for number in range(3):
            for channel in channels:
                await layer.send(channel, {"type": "test", "channel": channel, "number": number})

    other.run(send())
    for channel in channels:
        received = [one.run(layer.receive(channel)) for _ in range(3)]
        assert received == [{"type": "test", "channel": channel, "number": number} for number in range(3)]


def test_a_channel_of_another_process_can_be_neither_received_from_nor_added(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channel = one.run(layer.new_channel())
    for refused in (layer.receive(channel), layer.group_add("chat", channel), layer.group_discard("chat", channel)):
        with pytest.raises(InvalidGroupMessage, match="no channel of this process"):
            other.run(refused)
    with pytest.raises(InvalidGroupMessage, match="no channel of this process"):
        one.run(layer.group_add("chat", "a-name-for-all"))


def test_a_group_reaches_all_members_everywhere_and_nobody_else(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    members = [(worker, worker.run(layer.new_channel())) for worker in (one, one, other)]
    stranger = one.run(layer.new_channel())
    for worker, channel in [*members, members[0]]:  # twice is once
        worker.run(layer.group_add("chat", channel))
    one.run(layer.group_add("another", stranger))
    for number in range(2):
        other.run(layer.group_send("chat", HELLO | {"number": number}))
    other.run(layer.group_send("another", {"type": "last"}))
    for worker, channel in members:
        assert [worker.run(layer.receive(channel))["number"] for _ in range(2)] == [0, 1]
    assert one.run(layer.receive(stranger)) == {"type": "last"}


def test_who_has_been_discarded_gets_nothing_more(layer: GroupsChannelLayer, one: Worker, other: Worker) -> None:
    stays, leaves = (one.run(layer.new_channel()) for _ in range(2))
    for channel in (stays, leaves):
        one.run(layer.group_add("chat", channel))
    for _ in range(2):
        one.run(layer.group_discard("chat", leaves))
    one.run(layer.group_discard("never", leaves))
    other.run(layer.group_send("chat", HELLO))
    assert one.run(layer.receive(stays)) == HELLO
    one.run(layer.send(leaves, {"type": "last"}))
    assert one.run(layer.receive(leaves)) == {"type": "last"}


def test_receivers_do_not_see_what_others_do_to_a_message(layer: GroupsChannelLayer, one: Worker) -> None:
    members = [one.run(layer.new_channel()) for _ in range(2)]
    for channel in members:
        one.run(layer.group_add("chat", channel))
    message: dict[str, Any] = {"type": "list", "items": [1, b"2", None, 2.5, {"a": True}]}
    one.run(layer.group_send("chat", message))
    message["items"].append("later")
    received = [one.run(layer.receive(members[0]))]
    received[0]["items"].clear()
    assert one.run(layer.receive(members[1])) == {"type": "list", "items": [1, b"2", None, 2.5, {"a": True}]}


@pytest.mark.parametrize("group", [False, True], ids=["channel", "group"])
def test_what_can_not_be_sent_to_another_process_is_refused_here_too(
    layer: GroupsChannelLayer, one: Worker, group: bool
) -> None:
    channel = one.run(layer.new_channel())
    for message in ({"type": object()}, {1: "a"}, {"__asgi_channel__": channel}, "text"):
        with pytest.raises(InvalidGroupMessage):
            one.run(layer.group_send("chat", message) if group else layer.send(channel, message))


def test_a_full_channel_is_told_to_senders_and_left_out_by_groups(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channel = one.run(layer.new_channel())
    one.run(layer.group_add("chat", channel))
    for number in range(3):
        one.run(layer.send(channel, {"type": "test", "number": number}))
    with pytest.raises(ChannelFull):
        one.run(layer.send(channel, HELLO))
    for worker in (one, other):
        worker.run(layer.group_send("chat", HELLO))
    assert [one.run(layer.receive(channel))["number"] for _ in range(3)] == [0, 1, 2]
    assert len([line for line in one.log.lines if "dropped" in line]) == 1


def test_a_sender_that_never_waits_leaves_receivers_their_turns(one: Worker) -> None:
    layer = GroupsChannelLayer(capacity=10)

    async def receive(channel: str) -> list[Any]:
        return [(await layer.receive(channel))["number"] for _ in range(500)]

    async def main() -> None:
        channel = await layer.new_channel()
        await layer.group_add("chat", channel)
        receiving = asyncio.ensure_future(receive(channel))
        for number in range(500):
            await layer.group_send("chat", {"type": "test", "number": number})
        assert await receiving == list(range(500))

    one.run(main())


def test_capacities_go_by_patterns(one: Worker) -> None:
    layer = GroupsChannelLayer(capacity=3, channel_capacity={"small*": 1, "specific.*": 2})
    for channel, capacity in (("small-one", 1), (one.run(layer.new_channel()), 2), ("other", 3)):
        for _ in range(capacity):
            one.run(layer.send(channel, HELLO))
        with pytest.raises(ChannelFull):
            one.run(layer.send(channel, HELLO))


def test_what_has_expired_is_not_received(one: Worker) -> None:
    layer = GroupsChannelLayer(expiry=0)
    channel = one.run(layer.new_channel())
    one.run(layer.send(channel, {"type": "old"}))
    receiving = one.begin_receiving(layer, channel)
    one.run(layer.send(channel, HELLO))
    assert receiving.result(DEADLINE) == HELLO


def test_flush_forgets_messages_and_groups(layer: GroupsChannelLayer, one: Worker) -> None:
    channel = one.run(layer.new_channel())
    one.run(layer.group_add("chat", channel))
    one.run(layer.send("for-anybody", HELLO))
    one.run(layer.send(channel, HELLO))
    one.run(layer.flush())
    one.run(layer.group_send("chat", HELLO))
    for name in (channel, "for-anybody"):
        receiving = one.begin_receiving(layer, name)
        one.run(layer.send(name, {"type": "last"}))
        assert receiving.result(DEADLINE) == {"type": "last"}
    one.run(layer.close())


def test_bad_names_are_type_errors(layer: GroupsChannelLayer, one: Worker) -> None:
    for refused in (
        layer.send("ä", HELLO),
        layer.receive("¯\\_(ツ)_/¯"),
        layer.new_channel("no space"),
        layer.group_add("a!b", "channel"),
        layer.group_add("chat", "a b"),
        layer.group_discard("x" * 100, "channel"),
        layer.group_send("", HELLO),
    ):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            one.run(refused)


def test_layers_with_different_prefixes_know_nothing_of_each_other(one: Worker) -> None:
    layers = [GroupsChannelLayer(prefix=prefix) for prefix in ("one", "two")]
    channels = [one.run(layer.new_channel()) for layer in layers]
    for layer, channel in zip(layers, channels, strict=True):
        one.run(layer.group_add("chat", channel))
    for layer in layers:
        one.run(layer.group_send("chat", {"type": layer.prefix}))
    for layer, channel in zip(layers, channels, strict=True):
        one.run(layer.send(channel, {"type": "last"}))
        assert [one.run(layer.receive(channel))["type"] for _ in range(2)] == [layer.prefix, "last"]


# Channels of any process.


def test_a_message_to_anybody_waits_where_it_was_sent_until_somebody_asks(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    for number in range(3):
        one.run(layer.send("tasks", {"type": "test", "number": number}))
    with pytest.raises(ChannelFull):
        one.run(layer.send("tasks", HELLO))
    assert [other.run(layer.receive("tasks"))["number"] for _ in range(2)] == [0, 1]
    assert one.run(layer.receive("tasks"))["number"] == 2


def test_who_waits_is_given_what_is_sent_elsewhere(layer: GroupsChannelLayer, one: Worker, other: Worker) -> None:
    receiving = other.begin_receiving(layer, "tasks")
    one.run(layer.send("tasks", HELLO))
    assert receiving.result(DEADLINE) == HELLO


def test_each_message_to_anybody_is_received_once_whoever_sends_and_receives(one: Worker, other: Worker) -> None:
    layer = GroupsChannelLayer(capacity=200)

    async def receive(received: list[int]) -> None:
        while True:
            received.append((await layer.receive("tasks"))["number"])

    async def send(numbers: range) -> None:
        for number in numbers:
            await layer.send("tasks", {"type": "test", "number": number})
            await asyncio.sleep(0)

    received: list[int] = []
    receiving = [worker.begin(receive(received)) for worker in (one, other, one)]
    sending = [one.begin(send(range(0, 200, 2))), other.begin(send(range(1, 200, 2)))]
    for each in sending:
        each.result(DEADLINE)
    one.run(until(lambda: len(received) >= 200))
    for each in receiving:
        each.cancel()
    assert sorted(received) == list(range(200))


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not what():
            await asyncio.sleep(0.005)


def test_one_who_gives_up_takes_nothing_with_it(layer: GroupsChannelLayer, one: Worker, other: Worker) -> None:
    leaving = other.begin_receiving(layer, "tasks")
    leaving.cancel()
    other.run(turns())
    one.run(layer.send("tasks", HELLO))
    receiving = other.begin_receiving(layer, "tasks")
    assert receiving.result(DEADLINE) == HELLO


def test_what_comes_for_one_who_has_gone_is_offered_to_others(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    """As if the answer to an ask had come too late."""
    home = one.run(layer.new_channel()).partition("!")[0].rpartition(".")[2]
    receiving = other.begin_receiving(layer, "tasks")
    message = HELLO | {"__asgi_channel__": "tasks"}
    other.run(other.groups.send_to(f"asgi:process:{home}", message))
    assert receiving.result(DEADLINE) == HELLO


@pytest.mark.parametrize("deaf", ["who has one", "who wants one"])
def test_after_a_gap_who_wants_a_message_and_who_has_one_find_each_other(
    layer: GroupsChannelLayer, one: Worker, other: Worker, deaf: str
) -> None:
    with one.cut_off(), other.cut_off():
        one.run(layer.send("tasks", HELLO))
        receiving = other.begin_receiving(layer, "tasks")
    worker = one if deaf == "who has one" else other
    worker.run(miss(worker.groups))
    assert receiving.result(DEADLINE) == HELLO


async def miss(groups: Groups) -> None:
    groups.has_missed(Gap("a test", None, 0.0))


# Other loops, other threads, and processes without a worker.


def test_any_thread_can_send_and_receive_by_loops_that_live_for_one_call(
    layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channel = one.run(layer.new_channel())
    one.run(layer.group_add("chat", channel))
    for number in range(3):  # in the thread of the test, which has no loop
        async_to_sync(layer.group_send)("chat", {"type": "test", "number": number})
    assert [one.run(layer.receive(channel))["number"] for _ in range(3)] == [0, 1, 2]
    own = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("chat", own)
    one.run(layer.group_send("chat", HELLO))
    assert async_to_sync(layer.receive)(own) == HELLO


def test_errors_come_to_any_thread(layer: GroupsChannelLayer, one: Worker) -> None:
    for _ in range(3):
        async_to_sync(layer.send)("tasks", HELLO)
    with pytest.raises(ChannelFull):
        async_to_sync(layer.send)("tasks", HELLO)
    with pytest.raises(InvalidGroupMessage):
        async_to_sync(layer.send)("tasks", {"type": object()})


def test_before_a_worker_has_started_nobody_can_receive(layer: GroupsChannelLayer) -> None:
    groups, log = Groups(Settings(), Log(), lambda end: None), []

    async def main() -> None:
        worker_groups.enrol(asyncio.get_running_loop(), groups)
        try:
            with pytest.raises(GroupsUnavailable, match="before the worker has started"):
                await layer.new_channel()
            await layer.group_send("chat", HELLO)
            log.append("sent, and kept for the start")
        finally:
            worker_groups.dismiss(asyncio.get_running_loop())

    asyncio.run(main())
    assert log


@pytest.fixture
def outsiders() -> Iterator[None]:
    """Whatever is made outside of workers is ended with the test."""
    yield
    outside.stop_all()


@pytest.mark.usefixtures("outsiders")
def test_without_a_worker_and_a_way_to_others_sending_says_what_to_do(layer: GroupsChannelLayer) -> None:
    for _ in range(2):
        with pytest.raises(GroupsUnavailable, match="UVICORN_WORKER_GROUPS"):
            async_to_sync(layer.group_send)("chat", HELLO)
    for url in ("local:///proc/nowhere", "local:///proc"):
        with pytest.raises(GroupsUnavailable, match="can't be used from here"):
            async_to_sync(GroupsChannelLayer(groups=url).group_send)("chat", HELLO)


def test_configuration_that_can_not_be_used_is_refused() -> None:
    with pytest.raises(InvalidOption, match="CONFIG\\['groups'\\]"):
        GroupsChannelLayer(groups="nats://host")
    with pytest.raises(TypeError, match="hosts"):
        GroupsChannelLayer(hosts=["redis://localhost"])  # type: ignore[call-arg]


@pytest.mark.usefixtures("outsiders")
@pytest.mark.parametrize("by_variable", [False, True], ids=["by CONFIG", "by the variable, over CONFIG"])
def test_a_layer_with_an_engine_of_its_own_meets_workers_that_have_it(
    url: str, by_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_variable:
        monkeypatch.setenv("UVICORN_WORKER_GROUPS", url)
    with Worker("local://") as one, Worker(url) as other:
        layer = GroupsChannelLayer(groups="local:///proc/nowhere" if by_variable else url)
        here, there = one.run(layer.new_channel()), other.run(layer.new_channel())
        for worker, channel in ((one, here), (other, there)):
            worker.run(layer.group_add("chat", channel))
        for worker in (one, other):
            worker.run(layer.group_send("chat", HELLO))
            assert one.run(layer.receive(here)) == other.run(layer.receive(there)) == HELLO


def test_other_programs_speak_to_members_through_redis(layer: GroupsChannelLayer, redis_server: RedisServer) -> None:
    with Worker(redis_server.url) as one:
        channel = one.run(layer.new_channel())
        one.run(layer.group_add("chat", channel))
        redis_server.admin.publish("asgi:group:chat", json.dumps(HELLO))
        assert one.run(layer.receive(channel)) == HELLO


def test_a_gap_takes_no_channel_out_of_its_groups_even_if_members_are_to_be_closed(
    layer: GroupsChannelLayer, directory: str
) -> None:
    with Worker(f"local://{directory}", groups_gap="close") as one:
        channel = one.run(layer.new_channel())
        one.run(layer.group_add("chat", channel))
        one.loop.call_soon_threadsafe(one.groups.has_missed, Gap("a test says so", None, 0.0))
        one.run(layer.group_send("chat", HELLO))
        assert one.run(layer.receive(channel)) == HELLO
        assert one.groups.stats()["gaps"] == 1


@pytest.mark.usefixtures("outsiders")
def test_a_process_without_a_worker_has_its_functions_of_on_gap_called(directory: str) -> None:
    gaps: queue.Queue[Gap] = queue.Queue()
    worker_groups.on_gap(gaps.put)
    try:
        async_to_sync(GroupsChannelLayer(groups=f"local://{directory}").group_send)("chat", HELLO)
        [name] = os.listdir(directory)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(os.path.join(directory, name))
            other.sendall(mesh.frame(mesh.HELLO, "1.a") + mesh.missed_frame(frozenset({"chat"})))
            assert gaps.get(timeout=DEADLINE).groups == {"chat"}
    finally:
        worker_groups.hooks.remove(gaps.put)


SCRIPT = """
import os, sys
from asgiref.sync import async_to_sync
from uvicorn_worker.channel_layer import GroupsChannelLayer

layer = GroupsChannelLayer()
for number in range(2):
    async_to_sync(layer.group_send)("chat", {"type": "test", "number": number})
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    async_to_sync(layer.send)("tasks", {"type": "of a command"})
else:
    async_to_sync(layer.group_send)("chat", {"type": "test", "number": 2})
"""


def test_a_command_reaches_workers_and_leaves_nothing_behind_that_was_asked_for(
    url: str, layer: GroupsChannelLayer, one: Worker, other: Worker
) -> None:
    channel = one.run(layer.new_channel())
    one.run(layer.group_add("chat", channel))
    task = other.begin(layer.receive("tasks"))
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", SCRIPT]
    environment = {**os.environ, "UVICORN_WORKER_GROUPS": url}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [one.run(layer.receive(channel))["number"] for _ in range(3)] == [0, 1, 2]
    assert task.result(DEADLINE) == {"type": "of a command"}


def test_a_command_whose_messages_nobody_asks_for_says_so(url: str, one: Worker) -> None:
    script = SCRIPT.partition("child =")[0] + 'async_to_sync(layer.send)("nobodys", {"type": "of a command"})'
    environment = {**os.environ, "UVICORN_WORKER_GROUPS": url}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stderr == "Groups: nobody has received 1 messages to nobodys\n"
