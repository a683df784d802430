"""The engine ``redis://`` when servers, networks and workers fail: nobody stays deaf, and nothing is missed unsaid."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from uvicorn_worker.broadcast.redis_url import parse
from uvicorn_worker.broadcast.redis_wire import open_master
from uvicorn_worker.errors import GroupsUnavailable

from .harness import DEADLINE, FULL_SIZE, Worker, eventually, workers_of
from .redis_server import RedisServer

pytestmark = pytest.mark.usefixtures("on_uvloop")

#: Signs of life soon enough for tests.
QUICK = "?ping=0.25&dead=1&send_timeout=0.5"


async def say_until_heard(speaker: Worker, group: str, text: str, *listeners: Worker) -> None:
    """Send again and again until all have heard one, for after a fault; each is heard once at most."""
    async with asyncio.timeout(DEADLINE):
        number = 0
        while not all(any(m["text"].startswith(text) for m in each.sink.of(group)) for each in listeners):
            number += 1
            try:
                await speaker.send(group, text=f"{text} {number}")
            except GroupsUnavailable:
                await asyncio.sleep(0.02)
    for listener in listeners:
        texts = [message["text"] for message in listener.sink.of(group)]
        assert len(texts) == len(set(texts))


async def test_a_restart_is_one_gap_and_what_was_asked_for_meanwhile_is_done(directory: str) -> None:
    with RedisServer(Path(directory)) as server:
        async with workers_of(server.url, 3) as workers:
            one, other, idle = workers
            for worker in (one, other):
                await worker.add("chat", "left meanwhile")
            server.kill()
            await eventually(lambda: not any(worker.engine.stats()["connected"] for worker in workers))
            joining = asyncio.create_task(one.add("joined meanwhile"))
            one.engine.discard("left meanwhile")
            with pytest.raises(GroupsUnavailable):
                await one.send("chat", text="lost")
            server.start()
            await joining
            for worker in (one, other):
                await worker.sink.until(lambda sink=worker.sink: sink.gaps)
            await say_until_heard(other, "joined meanwhile", "hi", one)
            await say_until_heard(one, "chat", "hi", one, other)
            await eventually(lambda: all(worker.engine.stats()["connected"] for worker in workers))
            assert [gap.groups for gap in one.sink.gaps] == [frozenset({"chat"})]
            assert [gap.groups for gap in other.sink.gaps] == [frozenset({"chat", "left meanwhile"})]
            assert idle.sink.gaps == []
            assert f"Redis at 127.0.0.1:{server.port} was lost for " in one.sink.gaps[0].reason
            assert server.channels() == ["chat", "joined meanwhile", "left meanwhile"]
            assert server.subscribers("left meanwhile") == 1


async def test_connections_that_are_killed_again_and_again_come_back_and_none_is_left(
    redis_server: RedisServer,
) -> None:
    async with workers_of(redis_server.url, 2) as (one, other):
        groups = [f"group {number}" for number in range(100)]
        for worker in (one, other):
            await worker.add(*groups)
        turns = 100 if FULL_SIZE else 30
        for turn in range(turns):
            redis_server.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            for worker in (one, other):
                await worker.sink.until(lambda sink=worker.sink, n=turn: len(sink.gaps) == n + 1)
            await one.send("group 7", text=str(turn))
            for worker in (one, other):
                await worker.hears("group 7", *map(str, range(turn + 1)))
        assert all(gap.groups == frozenset(groups) for worker in (one, other) for gap in worker.sink.gaps)
        assert len(redis_server.clients()) == 4
        assert one.engine.stats() == {"connected": True, "reconnects": turns, "subscriptions": 100, "waiting": 0}


async def test_a_message_whose_answer_is_lost_is_an_error_and_is_not_sent_again(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url, 2) as (one, other):
        await other.add("chat")
        for turn in range(20):
            sending = [asyncio.create_task(one.send("chat", text=f"{turn}:{n}")) for n in range(200)]
            await asyncio.sleep(0)
            redis_server.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            answers = await asyncio.gather(*sending, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {type(None), GroupsUnavailable}
        await say_until_heard(one, "chat", "last", other)
        texts = [message["text"] for message in other.sink.of("chat") if message["text"][0].isdigit()]
        assert len(texts) == len(set(texts))
        assert texts == sorted(texts, key=lambda text: [int(part) for part in text.split(":")])


class Network:
    """The way to a server, which can be cut so that neither side learns of it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._is_cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Network]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
            await eventually(lambda: not self._tasks)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._is_cut:
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers.append(there_writer)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()
        except ConnectionError:
            writer.close()

    def cut(self) -> None:
        """What is there carries nothing from now on, for ever; and neither does what is made until it is mended."""
        self._is_cut = True
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        self._is_cut = False


async def test_a_network_that_swallows_everything_is_noticed_and_left(redis_server: RedisServer) -> None:
    async with Network(redis_server.port).laid() as network:
        url = f"redis://127.0.0.1:{network.port}{QUICK}"
        async with workers_of(url, 1) as (one,), workers_of(redis_server.url, 1) as (other,):
            await one.add("chat")
            await other.add("chat")
            network.cut()
            with pytest.raises(GroupsUnavailable, match=r"Redis has not answered for 0\.5 s"):
                await one.send("chat", text="lost")
            await eventually(lambda: sum("silent for 1 s" in line for line in one.log.lines) == 2)
            with pytest.raises(GroupsUnavailable):
                await one.send("chat", text="lost, too")
            await other.send("chat", text="missed")
            network.mend()
            await one.sink.until(lambda: one.sink.gaps)
            await say_until_heard(other, "chat", "hi", one, other)
            assert [gap.groups for gap in one.sink.gaps] == [frozenset({"chat"})]
            assert one.sink.of("chat")[0]["text"].startswith("hi")
            assert other.sink.gaps == []


async def test_what_is_not_written_in_time_is_not_sent_later(directory: str) -> None:
    with RedisServer(Path(directory)) as server:
        async with workers_of(server.url + QUICK, 1) as (one,), workers_of(server.url, 1) as (other,):
            await other.add("chat")
            server.kill()
            await eventually(lambda: not one.engine.stats()["connected"])
            answers = await asyncio.gather(*(one.send("chat", text="late") for _ in range(50)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {GroupsUnavailable}
            server.start()
            await other.sink.until(lambda: other.sink.gaps)
            await say_until_heard(one, "chat", "hi", other)
            assert all(message["text"] != "late" for message in other.sink.of("chat"))


async def test_a_server_that_is_stopped_has_send_raise_and_is_used_again_when_it_goes_on(directory: str) -> None:
    with RedisServer(Path(directory)) as server:
        async with workers_of(server.url + QUICK, 2) as (one, other):
            await one.add("chat")
            await other.add("chat")
            server.signal(signal.SIGSTOP)
            answers = await asyncio.gather(*(one.send("chat", text="x") for _ in range(100)), return_exceptions=True)
            assert {str(answer) for answer in answers} == {"Redis has not answered for 0.5 s"}
            await eventually(lambda: not any(each.engine.stats()["connected"] for each in (one, other)))
            server.signal(signal.SIGCONT)
            await say_until_heard(one, "chat", "hi", one, other)
            await eventually(lambda: len(server.clients()) == 4)


async def test_a_worker_that_hangs_does_not_take_the_server_for_dead(redis_server: RedisServer) -> None:
    async with workers_of(redis_server.url + QUICK, 1) as (one,):
        await one.add("chat")
        for number in range(2):
            sending = asyncio.create_task(one.send("chat", text=str(number)))
            await asyncio.sleep(0)
            redis_server.admin.blpop("nothing", timeout=1.5)  # The application's fault: it blocks the loop.
            await sending
        await one.hears("chat", "0", "1")
        assert one.engine.stats()["reconnects"] == 0


async def test_listeners_that_redis_throws_out_for_a_large_message_all_listen_again(directory: str) -> None:
    with RedisServer(Path(directory), "--client-output-buffer-limit", "pubsub 1mb 0 0") as server:
        async with workers_of(server.url, 4) as workers:
            for worker in workers:
                await worker.add("chat", "other")
            server.admin.publish("chat", '{"text": "' + "x" * (33 << 20) + '"}')
            for worker in workers:
                await worker.sink.until(lambda sink=worker.sink: sink.gaps)
                assert worker.sink.gaps[0].groups == frozenset({"chat", "other"})
            assert (server.subscribers("chat"), server.subscribers("other")) == (4, 4)
            await say_until_heard(workers[0], "other", "hi", *workers)


async def test_a_master_that_becomes_a_replica_is_left_until_it_is_a_master_again(directory: str) -> None:
    with RedisServer(Path(directory)) as server, RedisServer(Path(directory)) as master:
        async with workers_of(server.url + QUICK, 2) as (one, other):
            await one.add("chat")
            await other.add("chat")
            server.admin.replicaof("127.0.0.1", str(master.port))
            await eventually(lambda: any("a replica now" in line for line in one.log.lines))
            await eventually(lambda: not any(each.engine.stats()["connected"] for each in (one, other)))
            server.admin.replicaof("NO", "ONE")
            await say_until_heard(one, "chat", "hi", one, other)
            for worker in (one, other):
                await worker.sink.until(lambda sink=worker.sink: sink.gaps)


async def test_a_subscription_that_is_not_allowed_any_more_is_a_gap_and_an_error_in_the_log(directory: str) -> None:
    with RedisServer(Path(directory)) as server:
        server.admin.execute_command("ACL", "SETUSER", "alice", "on", ">x", "+@all", "allchannels")
        async with workers_of(server.url.replace("//", "//alice:x@"), 1) as (one,):
            await one.add("a", "b")
            server.admin.execute_command("ACL", "SETUSER", "alice", "resetchannels", "&b")
            await one.sink.until(lambda: one.sink.gaps)
            assert one.sink.gaps[0].groups == frozenset({"a", "b"})
            assert any("Redis lets the worker join b'a' no more" in line for line in one.log.lines)
            await one.send("b", text="hi")
            await one.hears("b", "hi")


async def test_whatever_fails_in_a_worker_while_it_listens_is_logged_and_it_listens_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers_of(redis_server.url, 1) as (one,):
        await one.add("chat")
        receive = one.sink.receive

        def fail_once(group: str, body: bytes) -> None:
            monkeypatch.setattr(one.sink, "receive", receive)
            raise RuntimeError("a fault of our own")

        monkeypatch.setattr(one.sink, "receive", fail_once)
        redis_server.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await one.sink.until(lambda: len(one.sink.gaps) == 1)
        await one.send("chat", text="lost")
        await one.sink.until(lambda: len(one.sink.gaps) == 2)
        assert "Groups: receiving failed" in one.log.lines
        await one.send("chat", text="hi")
        await one.hears("chat", "hi")


@pytest.mark.usefixtures("loop_factory")
async def test_a_connection_that_is_lost_before_it_is_listened_to_is_told_to_be(redis_server: RedisServer) -> None:
    wire = await open_master(parse(redis_server.url))
    wire._find_transport().abort()
    for _ in range(3):
        await asyncio.sleep(0)
    lost: list[str] = []
    wire.listen(lambda answer: None, lambda: None, lost.append)
    assert lost == ["closed by the server"]
    await wire.end()
