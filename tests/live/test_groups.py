"""Groups across the workers of a real master: what is sent in one is heard in all, whatever becomes of some."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from uvicorn_worker.config import GATHERED_BYTES

from .client import DEADLINE, Wire, frame, request
from .harness import FULL_SIZE, WORKER, Serve, Server, eventually, memory, run_to_its_end

pytestmark = pytest.mark.unmeasured

HUP, USR2, TERM, KILL = signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL
TTIN, TTOU, STOP, CONT = signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP, signal.SIGCONT

TROUBLE = r"Traceback|\[(WARNING|ERROR)\]"


@pytest.fixture
def base() -> Iterator[Path]:
    """Where masters make their directories; its path is short."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


class Clients:
    """WebSockets that are closed when the test ends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def join(self, server: Server, group: str) -> Any:
        """A member of the group; `pid` is that of its worker."""
        # Some are closed amid a flood, behind which the server's part in closing would come.
        client = self._stack.enter_context(server.websocket(f"/{group}", close_timeout=0.2))
        client.pid = int(client.recv())
        return client

    def join_at(self, server: Server, pid: int, group: str) -> Any:
        """A member of the group at the worker `pid`."""
        return self.spread(server, [pid], group)[0]

    def spread(self, server: Server, pids: list[int], group: str) -> list[Any]:
        """Members of the group, one at each worker."""
        found: dict[int, Any] = {}

        def all_found() -> bool:
            client = self.join(server, group)
            if client.pid in found or client.pid not in pids:
                client.close()
            else:
                found[client.pid] = client
            return len(found) == len(pids)

        eventually(all_found)
        return [found[pid] for pid in pids]


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


class Chatter:
    """Members at some workers say numbers without end, in a thread each, until a test has heard enough.

    What a listener has heard of one of them is to be a row of numbers without a gap.
    """

    END = "end"

    def __init__(self, speakers: list[Any]) -> None:
        self._stopping = threading.Event()
        self._speakers = speakers
        self.said = [0] * len(speakers)
        speak = enumerate(speakers)
        self._threads = [threading.Thread(target=self._speak, args=each, daemon=True) for each in speak]

    def __enter__(self) -> "Chatter":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _speak(self, number: int, speaker: Any) -> None:
        try:
            while not self._stopping.wait(0.002):
                speaker.send(f"{number}:{self.said[number]}")
                self.said[number] += 1
        except ConnectionClosed:
            pass

    def stop(self, first: int = 0) -> list[int]:
        """How much each has said; from the first that is still there on, the last is an END."""
        self.__exit__()
        for speaker in self._speakers[first:]:
            speaker.send(self.END)
        return self.said


class Heard(dict[int, list[int]]):
    """What was heard of each speaker."""

    def hear(self, listener: Any, until: str, times: int = 1) -> None:
        """Listen until a text has come so many times."""
        while times:
            times -= self._hear_one(listener) == until

    def hear_all(self, listener: Any, speakers: int) -> None:
        """Listen until each of so many speakers was heard."""
        while len(self) < speakers:
            self._hear_one(listener)

    def _hear_one(self, listener: Any) -> str:
        text: str = listener.recv()
        speaker, _, number = text.partition(":")
        if number:
            self.setdefault(int(speaker), []).append(int(number))
        return text

    def has_gaps(self) -> bool:
        return any(row != list(range(row[0], row[0] + len(row))) for row in self.values())


def stats_of(server: Server, pid: int) -> dict[str, Any]:
    def ask() -> Any:
        stats = json.loads(server.ask("/stats").body)
        return stats if stats["pid"] == pid else None

    stats: dict[str, Any] = eventually(ask)
    return stats


@pytest.mark.parametrize("app", ["app", "asgi"])
def test_what_is_said_at_one_worker_is_heard_at_all(serve: Serve, clients: Clients, app: str) -> None:
    server = serve(f"groups_apps:{app}", workers=4)
    members = clients.spread(server, server.ready_workers(), "chat")
    stranger = clients.join(server, "another")
    for number in range(200):
        for member in members:
            member.send(f"{member.pid}:{number}")
    for listener in members:
        heard: dict[str, list[int]] = {}
        for _ in range(800):
            pid, _, text = listener.recv().partition(":")
            heard.setdefault(pid, []).append(int(text))
        assert heard == {str(member.pid): list(range(200)) for member in members}
    assert stranger.ask("alone") == "alone"
    assert not server.log.lines(TROUBLE)


def test_messages_of_any_size_and_kind_cross_workers_as_they_are(
    serve: Serve, clients: Clients, engine: dict[str, str]
) -> None:
    server = serve("groups_apps:app", workers=2, env=engine)
    speaker, listener = clients.spread(server, server.ready_workers(), "chat")
    small = ("", "ä€\N{GRINNING FACE}", b"", bytes(range(256)))
    large = (b"x" * 65535, b"x" * 65536, b"x" * 65537, "y" * (1 << 20), os.urandom(10 << 20))
    for message in (*small, *large):
        speaker.send(message)
        assert listener.recv() == speaker.recv() == message


def test_a_message_past_the_bound_is_an_error_at_its_sender_alone(
    serve: Serve, clients: Clients, engine: dict[str, str]
) -> None:
    server = serve("groups_apps:app", workers=2, env=engine | {"UVICORN_WORKER_GROUPS_MAX_SIZE": "1000"})
    speaker, listener = clients.spread(server, server.ready_workers(), "chat")
    speaker.send(b"x" * 999)
    assert listener.recv() == b"x" * 999
    speaker.recv()
    speaker.send(b"x" * 1000)
    assert speaker.closing() == (1011, "")
    server.log.wait_for(r"InvalidGroupMessage: the message has 1001 bytes, and 1000 at most \(groups_max_size\)")
    listener.send("nothing else has come")
    assert listener.recv() == "nothing else has come"


def test_who_has_joined_hears_whatever_is_said_from_then_on(
    serve: Serve, clients: Clients, engine: dict[str, str]
) -> None:
    server = serve("groups_apps:app", workers=2, env=engine)
    speaker = clients.join(server, "chat")
    for number in range(10_000 if FULL_SIZE else 300):
        joined = server.raw_websocket("/chat")
        joined.frame()  # tells the pid, when it is a member
        speaker.send(str(number))
        while (said := int(joined.frame()[1])) != number:
            assert said < number  # What was on its way may come, too.
        joined.close()
    assert not server.log.lines(TROUBLE)


def test_code_outside_of_requests_and_in_threads_speaks_to_groups(serve: Serve, clients: Clients) -> None:
    server = serve("groups_apps:app", workers=2)
    listeners = clients.spread(server, server.ready_workers(), "chat")
    for path in ("/send/chat", "/thread/chat"):
        server.ask(path, method="POST", body=path.encode())
        assert [listener.recv() for listener in listeners] == [path] * 2


def test_long_polling_is_answered_from_any_worker_and_with_503_when_the_worker_stops(serve: Serve) -> None:
    server = serve("groups_apps:app", workers=2)
    waiting = [server.connect(request("/poll/news")) for _ in range(6)]
    eventually(lambda: len(server.log.lines("polled news")) == 6)
    server.ask("/send/news", method="POST", body=b"hi")
    replies = [wire.reply() for wire in waiting]
    assert {(reply.status, reply.text, reply.headers["content-type"]) for reply in replies} == {
        (200, "hi", "text/plain; charset=utf-8")
    }
    for wire in waiting:
        wire.send(request("/poll/news"))
    eventually(lambda: len(server.log.lines("polled news")) == 12)
    server.signal(TERM)
    assert {wire.reply().status for wire in waiting} == {503}
    assert server.wait() == 0
    assert not server.log.lines(TROUBLE)


def test_clients_that_come_and_go_leave_nothing_behind(serve: Serve) -> None:
    server = serve("groups_apps:app", workers=2)
    clients, groups, rounds = (1000, 100, 60) if FULL_SIZE else (100, 10, 4)
    for _ in range(rounds):
        wires = [server.raw_websocket(f"/group-{number % groups}") for number in range(clients)]
        wires += [server.connect(request(f"/poll/group-{number % groups}")) for number in range(50)]
        server.ask("/send/group-1", method="POST", body=b"hi")
        for number, wire in enumerate(wires):
            wire.reset() if number % 2 else wire.close()

    def nothing_is_left() -> bool:
        stats = json.loads(server.ask("/stats").body)
        return (stats["groups"], stats["members"], stats["held"]) == (0, 0, 0)

    eventually(lambda: all(nothing_is_left() for _ in range(10)))
    assert not server.log.lines(TROUBLE)


# -- workers that come and go


def wait_for_more(chatter: Chatter, first: int = 0) -> None:
    """Until each has said something more, from the first that is still there on."""
    goal = [said + 20 for said in chatter.said]
    eventually(lambda: all(chatter.said[number] > goal[number] for number in range(first, len(goal))))


def replace(server: Server, act: Callable[[], None], count: int = 1) -> None:
    """Do something that has so many workers boot, and wait until they are there."""
    start = server.log.position()
    act()
    eventually(lambda: len(server.ready_workers(after=start)) == count)


def test_a_worker_that_is_killed_costs_nobody_else_a_message(serve: Serve, clients: Clients) -> None:
    server = serve("groups_apps:app", workers=3)
    first, second, victim = server.ready_workers()
    members = clients.spread(server, [first, second], "chat")
    listener, heard = clients.join_at(server, first, "chat"), Heard()
    with Chatter(members) as chatter:
        for _ in range(10 if FULL_SIZE else 3):
            replace(server, partial(server.signal, KILL, victim))
            victim = server.worker
            newcomer, heard_by_newcomer = clients.join_at(server, victim, "chat"), Heard()
            wait_for_more(chatter)
            newcomer.send("hello of the new one")
            heard.hear(listener, "hello of the new one")
            heard_by_newcomer.hear(newcomer, "hello of the new one")
            heard_by_newcomer.hear_all(newcomer, speakers=2)
            assert not heard_by_newcomer.has_gaps()
        said = chatter.stop()
    heard.hear(listener, chatter.END, times=2)
    assert not heard.has_gaps()
    assert [heard[number][-1] + 1 for number in range(2)] == said
    assert not server.log.lines("Groups: .*(missed|answer|lost)")


def is_gone(server: Server, pid: int) -> bool:
    return pid not in server.processes()


def master_of(server: Server, after: int) -> int:
    """The pid of the master that starts after line `after` of the log."""
    return int(server.log.wait_for(r"\[(\d+)\] \[INFO\] Starting gunicorn", after=after)[1])


def test_both_generations_of_an_upgrade_hear_each_other_and_leave_no_directory(
    serve: Serve, clients: Clients, base: Path
) -> None:
    # As a script: one that was started by `python -m` can't replace itself.
    command = (str(Path(sys.executable).with_name("gunicorn")), "-k", WORKER)
    server = serve("groups_apps:app", "--worker-tmp-dir", str(base), workers=2, command=command)
    old = server.ready_workers()
    before = clients.join(server, "chat")
    start = server.log.position()
    replace(server, partial(server.signal, USR2), 2)
    master, new = master_of(server, start), server.ready_workers(after=start)
    assert len(list(base.iterdir())) == 1
    for speaker in (before, clients.join_at(server, new[0], "chat"), clients.join_at(server, old[0], "chat")):
        listeners = clients.spread(server, [*old, *new], "chat")
        speaker.send("hi")
        assert [listener.recv() for listener in listeners] == ["hi"] * 4
        for listener in listeners:
            listener.close()
    server.signal(TERM)
    assert server.wait() == 0
    assert len(list(base.iterdir())) == 1
    one, other = clients.spread(server, new, "chat")
    one.send("still here")
    assert other.recv() == "still here"
    server.log.wait_for("Master has been promoted", after=start)
    # The third generation finds what the first has made.
    start = server.log.position()
    replace(server, partial(server.signal, USR2, master), 2)
    third = master_of(server, start)
    assert len(list(base.iterdir())) == 1
    newest = clients.join_at(server, server.worker, "chat")
    one.send("and you")
    assert newest.recv() == "and you"
    for pid in (master, third):
        server.signal(TERM, pid)
        eventually(partial(is_gone, server, pid))
    assert list(base.iterdir()) == []
    assert not server.log.lines("Groups: .*(missed|answer|lost)")


def test_a_master_that_was_killed_leaves_a_directory_that_the_next_one_sweeps(serve: Serve, base: Path) -> None:
    server = serve("groups_apps:app", "--worker-tmp-dir", str(base), workers=2)
    server.signal(KILL)
    server.wait()
    eventually(lambda: not server.processes())
    [left] = base.iterdir()
    living = serve("groups_apps:app", "--worker-tmp-dir", str(base))
    [new] = base.iterdir()
    assert new != left
    another = serve("groups_apps:app", "--worker-tmp-dir", str(base))
    assert len(list(base.iterdir())) == 2
    for each in (living, another):
        each.signal(TERM)
        assert each.wait() == 0
    assert list(base.iterdir()) == []


def test_a_directory_that_was_removed_is_made_again_and_all_find_each_other_there(
    serve: Serve, clients: Clients, base: Path
) -> None:
    soon = "import uvicorn_worker.broadcast.local as local; local.MESH_LOOK = 0.2"
    server = serve("groups_apps:app", "--worker-tmp-dir", str(base), workers=2, conf=soon)
    old, _ = clients.spread(server, server.ready_workers(), "chat")  # Who serves has joined the others.
    [directory] = base.iterdir()
    shutil.rmtree(directory)
    start = server.log.position()
    replace(server, partial(server.signal, TTIN))
    server.log.wait_for("where workers find each other, was removed: made again", after=start)
    assert list(base.iterdir()) == [directory]
    eventually(lambda: len(server.log.lines("new workers find this one again", after=start)) == 2)
    young = clients.join_at(server, server.worker, "chat")
    eventually(lambda: stats_of(server, young.pid)["workers"] == 2)
    young.send("hi")
    assert old.recv() == "hi"
    server.signal(TERM)
    assert server.wait() == 0
    assert list(base.iterdir()) == []


def connection_to(server: Server, pid: int) -> Wire | None:
    wire = server.connect()
    return wire if wire.ask("/pid").text == str(pid) else None


def test_a_worker_that_is_stopped_holds_nobody_up_and_its_clients_learn_what_they_have_missed(
    serve: Serve, clients: Clients
) -> None:
    server = serve("groups_apps:app", "--keep-alive", "60", workers=3, env={"UVICORN_WORKER_GROUPS_GAP": "close"})
    speaking, listening, stopped = server.ready_workers()
    wire = eventually(lambda: connection_to(server, speaking))
    listener = clients.join_at(server, listening, "chat")
    victim, other = (clients.join_at(server, stopped, group) for group in ("chat", "another"))
    start = server.log.position()
    server.signal(STOP, stopped)
    most = 230 if FULL_SIZE else 40  # 144 MiB, or 25
    wire.send(request("/flood/chat", method="POST", body=b"%d" % most))
    assert [int(listener.recv()) for _ in range(most)] == list(range(most))
    assert wire.reply().status == 200
    server.log.wait_for(rf"Groups: worker {stopped}\.\w+ has not read for 1 s", after=start)
    server.log.wait_for(rf"Groups: worker {stopped}\.\w+ does not read: messages are dropped", after=start)
    server.signal(CONT, stopped)
    told = server.log.wait_for(rf"worker {stopped}\.\w+ reads again, and has missed (\d+) messages", after=start)
    assert json.loads(wire.ask("/stats").body)["dropped"] == int(told[1])
    server.log.wait_for(rf"on_gap {stopped} .*\['bulk', 'chat'\]", after=start)
    with pytest.raises(ConnectionClosed) as closed:
        for number in range(most):
            assert int(victim.recv()) == number
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert other.ask("not concerned") == "not concerned"
    again = clients.join_at(server, stopped, "chat")
    listener.send("hi")
    assert again.recv() == "hi"
    assert stats_of(server, stopped)["gaps"] == 1
    peaks = [memory(worker, "VmHWM") for worker in (speaking, listening, stopped)]
    print(f"{told[1]} of {most * 11} messages dropped for the stopped worker; the workers' memory: {peaks} MiB at most")
    assert max(peaks) < 64


def test_a_client_that_does_not_read_is_closed_and_the_others_get_everything(
    serve: Serve, clients: Clients, engine: dict[str, str]
) -> None:
    server = serve("groups_apps:app", "--keep-alive", "60", env=engine)
    slow = server.raw_websocket("/chat", receive_buffer=4096)
    slow.frame()
    listeners = [clients.join(server, "chat") for _ in range(3)]
    at_start = memory(server.worker, "VmRSS")
    for number in range(8000):
        listeners[0].send(b"%7d" % number + bytes(1017))
        if number % 100 == 99:
            for listener in listeners:
                for expected in range(number - 99, number + 1):
                    assert int(listener.recv()[:7]) == expected
    [line] = server.log.lines("reads too slowly")
    assert int(re.findall(r"\((\d+) bytes wait\)", line)[0]) <= (1 << 20) + GATHERED_BYTES
    assert memory(server.worker, "VmHWM") < at_start + 20
    last = b""
    while (received := slow.frame())[0] == 0x82:
        last = received[1]
    assert int(last[:7]) < 8000
    assert int.from_bytes(received[1][:2], "big") == 1013
    slow.send(frame(received[1], 8))
    assert slow.rest() == b""


# -- options and strangers


@pytest.mark.parametrize("url", ["memcached://localhost", "local", "local://host", "", "local://?x=1"])
def test_a_bad_engine_stops_the_start_with_one_clear_line(tmp_path: Path, url: str) -> None:
    ended = run_to_its_end("groups_apps:app", folder=tmp_path, env={"UVICORN_WORKER_GROUPS": url})
    assert ended.status != 0
    assert ended.boots == 0
    assert ended.log.lines(re.escape(f"UVICORN_WORKER_GROUPS = {url!r}: expected 'local://'"))
    assert "Traceback" not in ended.log


def test_a_directory_that_can_not_be_made_stops_the_start_with_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = "local:///dev/null/x"
    ended = run_to_its_end("groups_apps:app", folder=tmp_path, env={"UVICORN_WORKER_GROUPS": url})
    assert ended.status == 3
    assert ended.log.lines("the workers have no directory to find each other in: .*/dev/null")
    assert "Traceback" not in ended.log


def test_masters_that_name_the_same_directory_share_their_groups(
    tmp_path: Path, serve: Serve, clients: Clients, base: Path
) -> None:
    conf = f"""
from uvicorn_worker import UvicornWorker
class Worker(UvicornWorker):
    CONFIG_KWARGS = {{"groups": "local://{base}/app"}}
worker_class = Worker
"""
    servers = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        servers.append(serve("groups_apps:app", conf=conf, command=("-m", "gunicorn"), cwd=tmp_path / name))
    one, other = (clients.join(server, "chat") for server in servers)
    one.send("hi")
    assert other.recv() == "hi"


def test_what_an_application_says_as_it_starts_and_ends_is_heard_elsewhere(serve: Serve, clients: Clients) -> None:
    server = serve("groups_apps:asgi")
    first = server.worker
    listener = clients.join(server, "starts")
    replace(server, partial(server.signal, TTIN))
    second = server.worker
    assert listener.recv() == f"started {second}"
    remaining = clients.join_at(server, second, "starts")
    server.signal(TTOU)  # takes the oldest away
    assert listener.closing()[0] == 1012
    assert remaining.recv() == f"ended {first}"


STRANGER = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users")
def test_other_users_can_not_connect(serve: Serve, base: Path) -> None:
    serve("groups_apps:app", "--worker-tmp-dir", str(base))
    base.chmod(0o755)
    [path] = eventually(lambda: list(base.glob("*/*.*[0-9a-f]")))  # which it begins to listen at in this moment
    stranger = subprocess.run([sys.executable, "-I", "-c", STRANGER, str(path)], capture_output=True)
    assert b"PermissionError" in stranger.stderr, stranger
