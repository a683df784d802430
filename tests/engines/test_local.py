"""The engine ``local://``: workers that join, leave, stop and die, over real sockets."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from uvicorn_worker.broadcast import mesh
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.local import LocalEngine
from uvicorn_worker.config import PEER_BACKLOG, PEER_BOUND

from .harness import Log, Sink, Worker, eventually

pytestmark = pytest.mark.usefixtures("loop_factory")

HELLO = mesh.frame(mesh.HELLO, "1.a")


class Mesh:
    """Workers that share a directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.log = Log()
        self.workers: list[Worker] = []

    async def join(self) -> Worker:
        worker = Worker(LocalEngine(self.directory, self.log))
        self.workers.append(worker)
        await worker.start()
        return worker

    async def join_many(self, count: int) -> list[Worker]:
        return list(await asyncio.gather(*(self.join() for _ in range(count))))

    async def leave(self, worker: Worker) -> None:
        self.workers.remove(worker)
        await worker.engine.stop()

    @property
    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))


#: A worker that has a child, and sends nothing.
PARENT = """
import asyncio, logging, os, signal, sys
import uvloop
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.broadcast.local import LocalEngine
from uvicorn_worker.config import Settings

async def main():
    log = logging.getLogger()
    groups = Groups(Settings(), log, lambda end: None)
    await groups.start(LocalEngine(sys.argv[1], log))
    child = os.fork()
    if child == 0:
        signal.pause()
    print(child, flush=True)
    await asyncio.Event().wait()

with asyncio.Runner(loop_factory=getattr(sys.modules[sys.argv[2]], "new_event_loop")) as runner:
    runner.run(main())
"""


@asynccontextmanager
async def mesh_in(directory: str) -> AsyncIterator[Mesh]:
    workers = Mesh(directory)
    yield workers
    for worker in list(workers.workers):
        await workers.leave(worker)
    assert workers.names == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def wait_for_numbers(worker: Worker, count: int, group: str = "chat") -> None:
    await worker.sink.until(lambda: len(worker.sink.of(group)) >= count)


async def test_what_one_sends_reaches_every_worker_once_and_in_order(directory: str) -> None:
    async with mesh_in(directory) as workers:
        some = await workers.join_many(4)
        for number in range(100):
            for worker in some:
                await worker.send(f"of {id(worker)}", text=str(number))
        for worker in some:
            for sender in some:
                await wait_for_numbers(worker, 100, f"of {id(sender)}")
                assert worker.sink.of(f"of {id(sender)}") == [{"text": str(number)} for number in range(100)]
        assert [len(worker.sink.gaps) for worker in some] == [0] * 4


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 1 << 20, 10 << 20])
async def test_bytes_of_any_size_arrive_as_they_were(directory: str, size: int) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        await one.send("", bytes=data)
        await one.send("", close=4000, reason="ä")
        await wait_for_numbers(other, 2, "")
        assert other.sink.of("") == [{"bytes": data}, {"close": 4000, "reason": "ä"}]


async def test_without_a_directory_a_worker_is_alone(directory: str) -> None:
    alone = Worker(LocalEngine(None, Log()))
    await alone.start()
    await alone.send("chat", text="hi")
    assert alone.sink.of("chat") == [{"text": "hi"}]
    await alone.engine.stop()


async def test_a_directory_that_is_gone_is_a_gap_and_leaves_the_worker_alone(directory: str) -> None:
    alone = Worker(LocalEngine(os.path.join(directory, "gone"), Log()))
    await alone.start()
    assert [gap.groups for gap in alone.sink.gaps] == [None]
    await alone.send("chat", text="hi")
    assert alone.sink.of("chat") == [{"text": "hi"}]
    await alone.engine.stop()


async def test_a_newcomer_gets_what_is_sent_from_the_moment_when_it_has_joined(directory: str) -> None:
    async with mesh_in(directory) as workers:
        old = await workers.join_many(2)
        stop = asyncio.Event()

        async def chatter(worker: Worker) -> int:
            sent = 0
            while not stop.is_set():
                await worker.send(f"of {id(worker)}", text=str(sent))
                sent += 1
                await asyncio.sleep(0)
            return sent

        chatterers = [asyncio.create_task(chatter(worker)) for worker in old]
        for _ in range(20):
            newcomer = await workers.join()
            for worker in old:
                await worker.send("after", text="x")
            await wait_for_numbers(newcomer, 2, "after")
            for worker in old:
                numbers = [int(message["text"]) for message in newcomer.sink.of(f"of {id(worker)}")]
                assert numbers == [numbers[0] + at for at in range(len(numbers))]
            await newcomer.send("from", text="x")
            await workers.leave(newcomer)
        for worker in old:
            await wait_for_numbers(worker, 20, "from")
        stop.set()
        sent = await asyncio.gather(*chatterers)
        for sender, other, count in zip(old, reversed(old), sent, strict=True):
            await wait_for_numbers(other, count, f"of {id(sender)}")
            assert [message["text"] for message in other.sink.of(f"of {id(sender)}")] == list(map(str, range(count)))


async def test_workers_that_join_at_once_all_know_each_other(directory: str) -> None:
    async with mesh_in(directory) as workers:
        some = await workers.join_many(12)
        for worker in some:
            await worker.send("chat", text="x")
        for worker in some:
            await wait_for_numbers(worker, 12)
        assert [worker.engine.stats()["workers"] for worker in some] == [11] * 12


async def test_what_was_sent_before_a_worker_leaves_arrives(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        for number in range(1000):
            await one.send("chat", bytes=b"x" * 1000, number=number)
        await workers.leave(one)
        await wait_for_numbers(other, 1000)
        await eventually(lambda: other.engine.stats()["workers"] == 0)
        assert other.sink.gaps == []


async def test_names_of_the_dead_are_removed_and_hold_nobody_up(directory: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.path.join(directory, "1.dead"))
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        assert "1.dead" not in workers.names
        assert one.sink.gaps == other.sink.gaps == []


@pytest.fixture
def silent(directory: str) -> socket.socket:
    """A worker that never answers, nor reads."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(directory, "1.a"))
    listener.listen()
    listener.settimeout(5)
    return listener


async def test_a_worker_that_does_not_answer_is_a_gap_and_holds_nobody_up_for_long(
    directory: str, silent: socket.socket
) -> None:
    with silent:
        async with mesh_in(directory) as workers:
            one = await workers.join()
            assert [(gap.reason, gap.groups) for gap in one.sink.gaps] == [
                ("no answer from the workers 1.a within 1 s", frozenset())
            ]
            [name] = set(workers.names) - {"1.a"}
            with socket.socket(socket.AF_UNIX) as late:
                late.connect(os.path.join(directory, name))
                late.sendall(HELLO)
                await one.sink.until(lambda: len(one.sink.gaps) == 2)
            assert one.sink.gaps[1][:2] == ("worker 1.a has answered only now", None)
            silent.close()
            os.unlink(os.path.join(directory, "1.a"))


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn_worker.broadcast.local.GROUPS_JOIN_TIME", 0.01)
    monkeypatch.setattr("uvicorn_worker.broadcast.peers.PEER_PATIENCE", 0.05)


class Stopped:
    """A worker that has said HELLO, and does not read until it is asked to."""

    def __init__(self, directory: str, listener: socket.socket) -> None:
        self._reader = mesh.FrameReader()
        self._listener = listener
        self._directory = directory
        self.messages = 0
        self.missed: list[frozenset[str] | None] = []
        self.socket: socket.socket

    def accept(self) -> None:
        self.socket, _ = self._listener.accept()
        self.socket.setblocking(False)

    async def read_until(self, what: Callable[[], bool]) -> None:
        """Read all that comes."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while not what():
                for kind, _, body in self._reader.feed(await loop.sock_recv(self.socket, 1 << 20)):
                    if kind == mesh.MESSAGE:
                        self.messages += 1
                    elif kind == mesh.MISSED:
                        self.missed.append(mesh.read_missed(body))


@pytest.mark.usefixtures("no_patience")
async def test_a_worker_that_does_not_read_is_waited_for_once_and_then_misses_what_it_is_told_of(
    directory: str, silent: socket.socket
) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join(), await workers.join()
        stopped = Stopped(directory, silent)
        stopped.accept()
        piece, count = bytes(64 * 1024), 400
        for number in range(count):  # 25 MiB: at the first MiB it is waited for, past the eighth all is dropped
            await one.send(f"group {number % 3}", bytes=piece)
        await one.send("last", text="x")
        await wait_for_numbers(other, 1, "last")
        assert len(other.sink.received) == count + 1
        dropped = one.engine.stats()["dropped"]
        least, most = count - (PEER_BOUND + PEER_BACKLOG) // len(piece) - 20, count - PEER_BOUND // len(piece)
        assert least <= dropped <= most
        assert sum("nobody waits" in line for line in workers.log.lines) == 1
        assert sum("messages are dropped" in line for line in workers.log.lines) == 1

        await stopped.read_until(lambda: bool(stopped.missed))
        assert stopped.missed == [frozenset({"group 0", "group 1", "group 2", "last"})]
        await one.send("again", text="x")
        await stopped.read_until(lambda: stopped.messages + dropped == count + 2)
        assert sum("reads again, and has missed" in line for line in workers.log.lines) == 1
        silent.close()
        stopped.socket.close()
        os.unlink(os.path.join(directory, "1.a"))


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("patience", [0.01, 10.0])
async def test_what_others_have_not_read_when_a_worker_leaves_is_waited_for_and_then_logged(
    directory: str, silent: socket.socket, patience: float
) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        stopped = Stopped(directory, silent)
        stopped.accept()
        await one.send("chat", bytes=bytes(1 << 20))
        workers.workers.remove(one)
        stopping = asyncio.create_task(one.engine.stop(patience))
        if patience > 1:
            await stopped.read_until(lambda: stopped.messages == 1)
        await stopping
        assert sum("has not read the last" in line for line in workers.log.lines) == (patience < 1)
        silent.close()
        stopped.socket.close()
        os.unlink(os.path.join(directory, "1.a"))


@pytest.mark.usefixtures("no_patience")
async def test_a_worker_that_leaves_tells_who_reads_again_only_then_what_was_dropped(
    directory: str, silent: socket.socket
) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        stopped = Stopped(directory, silent)
        stopped.accept()
        while not one.engine.stats()["dropped"]:
            await one.send("chat", bytes=bytes(1 << 20))
        workers.workers.remove(one)
        stopping = asyncio.create_task(one.engine.stop(10.0))
        await stopped.read_until(lambda: bool(stopped.missed))
        assert stopped.missed == [frozenset({"chat"})]
        await stopping
        silent.close()
        stopped.socket.close()
        os.unlink(os.path.join(directory, "1.a"))


@pytest.mark.usefixtures("no_patience")
async def test_senders_wait_for_a_worker_that_reads_slowly_in_the_order_in_which_they_came(
    directory: str, silent: socket.socket
) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join(), await workers.join()
        stopped = Stopped(directory, silent)
        stopped.accept()
        piece = bytes(256 * 1024)
        senders = [asyncio.create_task(one.send("chat", bytes=piece, number=number)) for number in range(40)]
        await eventually(lambda: any(sender.done() for sender in senders))
        assert not all(sender.done() for sender in senders)
        senders[20].cancel()  # It may wait at this moment, and keeps nobody from going on.
        await stopped.read_until(lambda: stopped.messages >= 39)
        await asyncio.wait(senders)
        await wait_for_numbers(other, 39)
        numbers = [message["number"] for message in other.sink.of("chat")]
        assert numbers == sorted(numbers)
        silent.close()
        stopped.socket.close()
        os.unlink(os.path.join(directory, "1.a"))


async def test_a_worker_that_is_told_of_a_gap_tells_its_sink(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(os.path.join(directory, workers.names[0]))
            other.sendall(HELLO + mesh.missed_frame(frozenset({"chat"})) + mesh.missed_frame(None))
            await one.sink.until(lambda: len(one.sink.gaps) == 2)
            assert [gap.groups for gap in one.sink.gaps] == [frozenset({"chat"}), None]


async def test_a_link_that_was_cut_is_made_again_and_the_other_is_told(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        engine = other.engine
        assert isinstance(engine, LocalEngine)
        for inbound in tuple(engine._inbound):
            inbound.abort()
        await other.sink.until(lambda: other.sink.gaps)
        assert [gap.groups for gap in other.sink.gaps] == [None]
        assert one.engine.stats()["reconnects"] == 1
        await one.send("chat", text="hi")
        await wait_for_numbers(other, 1)
        assert any("was lost, and is there again" in line for line in workers.log.lines)


async def look(worker: Worker, directory: str) -> None:
    """As it does from time to time."""
    engine = worker.engine
    assert isinstance(engine, LocalEngine)
    engine._look(directory)
    await eventually(lambda: not engine._reaching)


async def test_a_worker_whose_socket_was_removed_is_found_again_and_both_are_told_what_they_may_have_missed(
    directory: str,
) -> None:
    directory = os.path.join(directory, "removed")
    os.mkdir(directory, 0o700)
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        shutil.rmtree(directory)
        for _ in range(2):
            await look(one, directory)
        os.mkdir(directory, 0o700)
        newcomer = await workers.join()
        assert newcomer.engine.stats()["workers"] == 0
        for worker in (one, other):
            await look(worker, directory)
        await eventually(lambda: [each.engine.stats()["workers"] for each in workers.workers] == [2, 2, 2])
        for worker in workers.workers:
            await worker.sink.until(lambda worker=worker: worker.sink.gaps)
            assert {gap.groups for gap in worker.sink.gaps} == {None}
        for worker in workers.workers:
            await worker.send("chat", text="hi")
        for worker in workers.workers:
            await wait_for_numbers(worker, 3)
        assert sum("can't find this one" in line for line in workers.log.lines) == 1
        assert sum("find this one again" in line for line in workers.log.lines) == 2


async def test_a_worker_that_is_found_is_left_as_it_is_by_its_looks(directory: str) -> None:
    async with mesh_in(directory) as workers:
        some = await workers.join_many(2)
        names = workers.names
        for worker in some:
            await look(worker, directory)
        last = await workers.join()
        assert set(names) < set(workers.names)
        await last.send("chat", text="hi")
        for worker in some:
            await wait_for_numbers(worker, 1)
        assert [worker.sink.gaps for worker in some] == [[], []]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        mesh.frame(mesh.MESSAGE, "chat", b"{}"),
        mesh.missed_frame(None),
        HELLO + HELLO,
        HELLO + mesh.frame(mesh.MISSED, "", b"garbage"),
        HELLO + mesh.frame(mesh.MISSED, "", b"[1]"),
        mesh.frame(mesh.HELLO, "../../etc/passwd"),
        mesh.frame(mesh.HELLO, "\0"),
    ],
)
async def test_garbage_ends_its_own_connection_alone(directory: str, data: bytes) -> None:
    async with mesh_in(directory) as workers:
        one, other = await workers.join_many(2)
        loop = asyncio.get_running_loop()
        for name in workers.names:
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.setblocking(False)
                await loop.sock_connect(stranger, os.path.join(directory, name))
                await loop.sock_sendall(stranger, data)
                async with asyncio.timeout(5):
                    try:
                        assert await loop.sock_recv(stranger, 1) == b""
                    except ConnectionResetError:
                        pass
        await one.send("chat", text="hi")
        await wait_for_numbers(other, 1)
        assert one.sink.received == other.sink.received == [("chat", {"text": "hi"})]
        assert sum("no worker's" in line for line in workers.log.lines) == 2


async def test_no_other_user_can_connect_whatever_the_umask_is(directory: str) -> None:
    former = os.umask(0)
    try:
        async with mesh_in(directory) as workers:
            await workers.join()
            [name] = workers.names
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
    finally:
        os.umask(former)


async def test_a_directory_where_others_can_write_is_not_used(directory: str) -> None:
    os.chmod(directory, 0o1777)
    async with mesh_in(directory) as workers:
        worker = await workers.join()
        assert "is not private" in worker.sink.gaps[0].reason
        assert workers.names == []


async def test_a_worker_that_is_killed_is_gone_even_if_a_child_of_it_lives(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        command = [sys.executable, "-c", PARENT, directory, loop]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            child = int(await asyncio.to_thread(parent.stdout.readline))
            try:
                await eventually(lambda: one.engine.stats()["workers"] == 1)
                parent.kill()
                await eventually(lambda: one.engine.stats()["workers"] == 0)
                await workers.join()
                assert [worker.sink.gaps for worker in workers.workers] == [[], []]
            finally:
                parent.kill()  # Or a failure above would wait for it without end.
                os.kill(child, signal.SIGKILL)


async def test_half_a_message_of_a_worker_that_died_is_dropped_and_a_gap(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        whole = mesh.frame(mesh.MESSAGE, "chat", b'{"text":"whole"}')
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(os.path.join(directory, workers.names[0]))
            other.sendall(HELLO + whole + whole[:-1])
        engine = one.engine
        assert isinstance(engine, LocalEngine)
        await wait_for_numbers(one, 1)
        await eventually(lambda: not engine._inbound)
        assert [(gap.reason.split(",")[0], gap.groups) for gap in one.sink.gaps] == [
            ("worker 1.a has ended amid a message", None)
        ]
        assert one.sink.received == [("chat", {"text": "whole"})]


@pytest.mark.usefixtures("no_patience")
async def test_other_workers_are_written_to_before_the_members_of_this_one(
    directory: str, silent: socket.socket
) -> None:
    class Members(Sink):
        """Are written to at the end of the turn."""

        def deliver(self, group: str, delivery: Delivery) -> int:
            asyncio.get_running_loop().call_soon(self._write)
            return super().deliver(group, delivery)

        def _write(self) -> None:
            before.append(stopped.socket.recv(1000))

    before: list[bytes] = []
    async with mesh_in(directory) as workers:
        one = await workers.join()
        stopped = Stopped(directory, silent)
        stopped.accept()
        one.engine.sink = Members()
        await one.send("chat", text="hi")
        await eventually(lambda: before)
        assert before[0].endswith(mesh.frame(mesh.MESSAGE, "chat", b'{"text":"hi"}'))
        silent.close()
        stopped.socket.close()
        os.unlink(os.path.join(directory, "1.a"))


async def test_a_sender_that_never_waits_lets_the_loop_turn(directory: str) -> None:
    async with mesh_in(directory) as workers:
        one = await workers.join()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        for _ in range(100):
            await one.send("chat", bytes=bytes(32 * 1024))
        counting.cancel()
        await asyncio.wait([counting])
        assert 25 <= turns <= 100
