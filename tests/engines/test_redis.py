"""The engine ``redis://`` on a server that does what it should: who hears what, who may do what, and what is left."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.broadcast.redis import engine_of_redis
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import GroupsUnavailable, InvalidOption

from .harness import FULL_SIZE, Log, Worker, eventually, workers_of
from .redis_server import RedisServer, free_port

pytestmark = pytest.mark.usefixtures("loop_factory")


async def test_all_workers_hear_the_same_once_and_in_one_order(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 4) as workers:
        for worker in workers:
            await worker.add("chat")

        async def speak(speaker: int) -> None:
            for number in range(250):
                await workers[speaker].send("chat", text=f"{speaker}:{number}")

        await asyncio.gather(*map(speak, range(4)))
        for worker in workers:
            await worker.sink.until(lambda sink=worker.sink: len(sink.received) >= 1000)
            assert worker.sink.received == workers[0].sink.received
            assert worker.sink.gaps == []
        texts = [message["text"] for message in workers[0].sink.of("chat")]
        for speaker in range(4):
            assert [text for text in texts if text[0] == str(speaker)] == [f"{speaker}:{n}" for n in range(250)]


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1 << 20, 10 << 20])
async def test_messages_of_any_size_and_kind_arrive_as_they_were(redis_server: RedisServer, size: int) -> None:
    async with workers_of(redis_server.url + "?send_timeout=5", 2) as (one, other):
        await one.add("", "ä {b} c")
        await other.add("", "ä {b} c")
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        await one.send("", bytes=data)
        await one.send("ä {b} c", text="ä" * (size // 2), close=4000, other=[None, 1.5, b"\0"])
        for worker in (one, other):
            await worker.sink.until(lambda sink=worker.sink: len(sink.received) == 2)
            assert worker.sink.of("") == [{"bytes": data}]
            [message] = worker.sink.of("ä {b} c")
            assert message == {"text": "ä" * (size // 2), "close": 4000, "other": [None, 1.5, b"\0"]}


async def test_whatever_is_sent_after_a_group_was_joined_is_heard(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 2) as (one, other):
        count = 10_000 if FULL_SIZE else 1000
        for number in range(count):
            group = f"group {number % 100}"
            await one.add(group)
            await other.send(group, number=number)
            await one.sink.until(lambda n=number: one.sink.received and one.sink.received[-1][1]["number"] == n)
            one.engine.discard(group)
        assert [message["number"] for _, message in one.sink.received] == list(range(count))


async def test_a_worker_has_two_connections_whatever_it_listens_to(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 3) as workers:
        groups = [f"group {number}" for number in range(2000)]
        for worker in workers:
            await worker.add(*groups)
        assert len(redis_server.clients()) == 6
        assert redis_server.channels() == sorted(groups)
        for group in groups:
            await workers[0].send(group, text=group)
        for worker in workers:
            await worker.sink.until(lambda sink=worker.sink: len(sink.received) == 2000)
        stats = workers[0].engine.stats()
        assert stats == {"connected": True, "reconnects": 0, "subscriptions": 2000, "waiting": 0}
    await eventually(lambda: redis_server.clients() == [])


async def test_groups_without_members_are_given_up_a_while_later_and_those_that_return_miss_nothing(
    redis_server: RedisServer,
) -> None:
    async with workers_of(redis_server.url, 2) as (one, other):
        groups = [f"group {number}" for number in range(100)]
        for turn in range(20):
            await one.add(*groups)
            await other.send(groups[turn], text=str(turn))
            await one.hears(groups[turn], str(turn))
            for group in groups:
                one.engine.discard(group)
        await eventually(lambda: redis_server.channels() == [])
        await eventually(lambda: one.engine.stats()["subscriptions"] == 0)
        await one.add("group 0")
        await other.send("group 0", text="again")
        await one.hears("group 0", "0", "again")


async def test_a_group_that_is_joined_while_it_is_given_up_is_joined(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn_worker.broadcast.subscriptions.GROUP_LINGER", 0.0)
    async with workers_of(redis_server.url, 2) as (one, other):
        for number in range(500):
            await one.add("chat")
            await other.send("chat", text=str(number))
            await one.hears("chat", *map(str, range(number + 1)))
            one.engine.discard("chat")


async def test_redis_carries_plain_json_by_the_name_of_the_group(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 1) as (one,):
        await one.add("chat")
        assert redis_server.admin.publish("chat", '{"text": "from outside"}') == 1
        await one.hears("chat", "from outside")
        with redis_server.admin.pubsub() as outside:
            outside.subscribe("chat")
            assert outside.get_message(timeout=5)
            await one.send("chat", text="ä", n=1)
            message = outside.get_message(timeout=5)
        assert json.loads(message["data"]) == {"text": "ä", "n": 1}


async def test_a_prefix_stands_before_the_names_of_channels(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url + "/3?prefix=app:", 1) as (one,), workers_of(redis_server.url, 1) as (two,):
        await one.add("chat")
        await two.add("chat")
        assert redis_server.channels() == ["app:chat", "chat"]
        await one.send("chat", text="a")
        await two.send("chat", text="b")
        await one.hears("chat", "a")
        await two.hears("chat", "b")


class Member:
    gathered = None

    def __init__(self, groups: Groups) -> None:
        self.name = groups.name(self)
        self.received: list[object] = []

    def deliver(self, delivery: Delivery) -> None:
        self.received.append(delivery.message)
        if "raise" in delivery.message:
            raise RuntimeError("a member fails")

    def shed(self) -> None:
        """Nobody asks for it here."""


async def test_bad_bodies_and_failing_members_end_nothing(redis_server: RedisServer) -> None:
    log = Log()
    groups = Groups(Settings(), log, asyncio.get_running_loop().call_soon)
    engine = engine_of_redis(redis_server.url, log)
    await groups.start(engine)
    members = [Member(groups), Member(groups)]
    for member in members:
        await groups.add("chat", member.name)
    for body in (b"", b"\xff", b"{", b"[1]", b"\x02m\xff\xff\xff\xff", b'"x"', b"[" * 100000):
        redis_server.admin.publish("chat", body)
    redis_server.admin.publish("chat", '{"raise": true}')
    await groups.send_to("chat", {"text": "hi"})
    await eventually(lambda: all({"text": "hi"} in member.received for member in members))
    stats = groups.stats()
    assert (stats["undecodable"], stats["failed"], stats["delivered"]) == (7, 2, 2)
    await engine.stop()


# -- who may do what


@pytest.fixture
def locked(directory: str) -> Iterator[RedisServer]:
    """One with users: `default` needs a password, `mute` can't publish, and `alice` has some channels only."""
    with RedisServer(Path(directory)) as server:
        server.admin.execute_command("ACL", "SETUSER", "default", ">p@ss/w:rd")
        server.admin.execute_command("ACL", "SETUSER", "mute", "on", ">x", "+@all", "-publish", "allchannels")
        server.admin.execute_command("ACL", "SETUSER", "alice", "on", ">x", "+@all", "-role", "resetchannels", "&a*")
        server.admin.close()
        server.admin = server.admin_with("p@ss/w:rd")
        yield server


def with_user(server: RedisServer, user: str) -> str:
    return server.url.replace("redis://", f"redis://{user}@")


async def test_a_password_lets_in_and_is_in_no_line(locked: RedisServer) -> None:
    async with workers_of(with_user(locked, ":p%40ss%2Fw%3Ard"), 1) as (one,):
        await one.add("chat")
        await one.send("chat", text="hi")
        await one.hears("chat", "hi")
        assert not any("p@ss" in line or "p%40ss" in line for line in one.log.lines)


@pytest.mark.parametrize("user", ["", ":wrong@", "nobody:wrong@"])
async def test_who_is_not_let_in_can_not_start(locked: RedisServer, user: str) -> None:
    engine = engine_of_redis(locked.url.replace("redis://", f"redis://{user}"), Log())
    with pytest.raises(InvalidOption, match=f"^groups: Redis at 127.0.0.1:{locked.port} does not let the worker in: "):
        await engine.start(Worker(engine).sink)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_user_who_can_not_publish_is_told_so_by_send(locked: RedisServer) -> None:
    async with workers_of(with_user(locked, "mute:x"), 1) as (one,):
        await one.add("chat")
        with pytest.raises(GroupsUnavailable, match=r"Redis has refused the message: .*publish"):
            await one.send("chat", text="hi")
        locked.admin.publish("chat", '{"text": "hi"}')
        await one.hears("chat", "hi")


async def test_a_channel_that_is_not_allowed_keeps_no_other_from_being_joined(locked: RedisServer) -> None:
    async with workers_of(with_user(locked, "alice:x"), 1) as (one,):
        answers = await asyncio.gather(*(one.engine.add(name) for name in ("a1", "b", "a2")), return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), GroupsUnavailable, type(None)]
        assert "does not let the worker join" in str(answers[1])
        one.engine.discard("b")
        for name in ("a1", "a2"):
            await one.send(name, text=name)
            await one.hears(name, name)
        locked.admin.execute_command("ACL", "SETUSER", "alice", "&b")
        await one.add("b")
        await one.send("b", text="now")
        await one.hears("b", "now")


# -- servers that are not there


async def test_a_unix_socket_will_do(redis_server: RedisServer) -> None:
    async with workers_of(f"redis+unix://{redis_server.socket}?db=1", 1) as (one,):
        await one.add("chat")
        await one.send("chat", text="hi")
        await one.hears("chat", "hi")


async def test_a_server_that_is_down_at_the_start_is_said_so_once_and_found_as_soon_as_it_is_there(
    directory: str,
) -> None:
    server = RedisServer(Path(directory))
    async with workers_of(server.url, 1) as (one,):
        assert one.engine.stats()["connected"] is False
        joining = asyncio.create_task(one.add("chat"))
        with pytest.raises(GroupsUnavailable, match="Redis is out of reach: .*111"):
            await one.send("chat", text="lost")
        with server:
            await joining
            await eventually(lambda: one.engine.stats()["connected"])
            await one.send("chat", text="hi")
            await one.hears("chat", "hi")
            assert one.sink.gaps == []
            assert [line.partition(" at ")[0] for line in sorted(one.log.lines)] == [
                "Groups: Redis (receiving) is out of reach",
                "Groups: Redis (sending) is out of reach",
                "Groups: connected to Redis (receiving)",
                "Groups: connected to Redis (sending)",
            ]


async def test_what_does_not_answer_at_the_start_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("uvicorn_worker.broadcast.redis_wire.REDIS_CONNECT_TIME", 0.2)
    monkeypatch.setattr("uvicorn_worker.broadcast.redis_subscriber.REDIS_JOIN_TIME", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with workers_of(f"redis://127.0.0.1:{silent.getsockname()[1]}?send_timeout=0.1", 1) as (one,):
            assert one.engine.stats()["connected"] is False
            with pytest.raises(GroupsUnavailable, match="Redis has not let the worker join 'chat'"):
                await one.add("chat")
            one.engine.discard("chat")
            with pytest.raises(GroupsUnavailable, match="Redis is out of reach"):
                await one.send("chat", text="hi")
            await eventually(lambda: one.engine.stats()["subscriptions"] == 0)


async def test_a_replica_is_no_server_to_send_to(directory: str, redis_server: RedisServer) -> None:
    with RedisServer(Path(directory), "--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
        async with workers_of(replica.url, 1) as (one,):
            assert any("it is a replica, from where messages reach nobody else" in line for line in one.log.lines)
            replica.admin.replicaof("NO", "ONE")
            await one.add("chat")
            await eventually(lambda: one.engine.stats()["connected"])
            await one.send("chat", text="hi")
            await one.hears("chat", "hi")
            replica.admin.replicaof("127.0.0.1", str(free_port()))


async def test_what_was_sent_before_a_worker_stops_has_left(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 1) as (one,):
        await one.add("chat")
        async with workers_of(redis_server.url, 1) as (leaving,):
            sending = [asyncio.create_task(leaving.send("chat", text=str(number))) for number in range(1000)]
            await asyncio.sleep(0)
        await asyncio.gather(*sending)
        await one.hears("chat", *map(str, range(1000)))
