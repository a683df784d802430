"""Faults of the machine around a worker: it goes on serving, and is as before when they are over."""

import os
import signal
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest

from .client import BINARY, Wire, frame, request
from .crowd import Crowd
from .harness import Serve, Server, eventually

APP = "fault_apps:app"
KEEP = ("--keep-alive", "60")
FAR = 10 * 366 * 24 * 3600  # seconds
MIB = 1 << 20


def processor_time(pid: int) -> float:
    """Seconds that a process has worked."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def assert_as_before(server: Server, worker: int) -> None:
    """It is the same worker that serves."""
    assert server.ask("/pid").text == str(worker)
    assert len(server.log.lines("Booting worker")) == 1


# -- processes that are killed


def test_a_worker_that_is_killed_under_load_takes_nothing_with_it_but_its_own_requests(serve: Serve) -> None:
    clients = 16
    server = serve(APP, workers=2)
    start = server.log.position()
    with Crowd(server.address, clients, "/soon") as crowd:
        crowd.wait_for_more()
        server.signal(signal.SIGKILL, server.ready_workers()[0])
        server.wait_for_new_worker(start)
        crowd.wait_for_more()
    assert len(crowd.failures) <= clients
    assert all(failure.startswith("request ") for failure in crowd.failures), "a connection was refused"


def test_a_request_under_way_is_answered_though_the_master_was_killed(serve: Serve) -> None:
    server = serve(APP)
    wire = server.connect(request("/echo", "Content-Length: 4", method="POST"))
    assert server.ask("/quiet").status == 200  # It has been read by now.
    server.signal(signal.SIGKILL)
    server.wait()
    server.log.wait_for("The master has gone")
    wire.send(b"done")
    assert wire.reply().body == b"done"
    eventually(lambda: not server.processes())


# -- memory


def test_an_application_without_memory_costs_its_own_request(serve: Serve) -> None:
    server = serve(APP, *KEEP)
    worker, wire = server.worker, server.connect()
    assert wire.ask("/memory_error").status == 500
    assert wire.ask("/quiet").status == 200
    assert len(server.log.lines("The application raised: GET /memory_error")) == 1
    assert_as_before(server, worker)


@pytest.mark.unmeasured
def test_an_application_that_takes_all_memory_harms_nobody_who_needs_none(serve: Serve) -> None:
    server = serve(APP, *KEEP)
    worker, wire, other = server.worker, server.connect(), server.connect()
    assert wire.ask("/limit_memory/64").status == other.ask("/quiet").status == 200
    wire.send(request("/hog", "Connection: close"))
    answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 500 ") or answer == b""  # There may be no memory left for an answer.
    assert other.ask("/quiet").text == "fine"
    assert server.ask("/quiet").text == "fine"
    assert other.ask("/let_go").status == 200
    assert_as_before(server, worker)


@pytest.mark.unmeasured
def test_an_error_for_which_there_is_no_memory_at_all_ends_its_connection_at_once(serve: Serve) -> None:
    """Neither for a line in the log nor for an answer, until what was raised is let go."""
    server = serve(APP, *KEEP)
    worker, other = server.worker, server.connect()
    assert other.ask("/limit_memory/64").status == 200
    for _ in range(3):
        answer = server.connect(request("/hog_for_now", "Connection: close")).rest()
        assert answer.startswith(b"HTTP/1.1 500 ") or answer == b""
        assert other.ask("/quiet").text == "fine"
    assert server.ask("/quiet").text == "fine"
    assert_as_before(server, worker)


def test_a_message_for_which_there_is_no_memory_costs_its_own_connection(serve: Serve) -> None:
    """The memory is missed where the worker puts the message together, and not the application."""
    size = 192 * MIB
    server = serve(APP, *KEEP, env={"UVICORN_WORKER_WS_MAX_SIZE": str(2 * size)})
    worker, wire = server.worker, server.connect()
    assert wire.ask("/limit_memory/96").status == 200
    with server.raw_websocket("/") as websocket:
        head, piece = frame(b"", BINARY)[:1] + b"\xff" + size.to_bytes(8, "big") + bytes(4), bytes(MIB)
        with pytest.raises(OSError):
            websocket.send(head)
            for _ in range(size // MIB):
                websocket.send(piece)
            websocket.closing()
    server.log.wait_for("^MemoryError")
    assert wire.ask("/quiet").text == "fine"
    with server.websocket("/") as client:
        assert client.ask(bytes(MIB)) == str(MIB)
    assert_as_before(server, worker)


# -- file descriptors


def test_without_file_descriptors_a_worker_waits_for_some_and_serves_who_is_connected(serve: Serve) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
    server = serve(APP, *KEEP, conf=limit)
    worker, wire = server.worker, server.connect()
    assert wire.ask("/exhaust").text == "Too many open files"
    waiting = [server.connect(request("/pid")) for _ in range(20)]
    server.log.wait_for("Can't accept connections for now: .*Too many open files")
    before = processor_time(worker)
    assert all(wire.stays_silent(0.5) for wire in waiting[:5])
    assert processor_time(worker) - before < 1, "it does not wait, but tries again and again"
    assert wire.ask("/quiet").text == "fine"
    assert len(server.log.lines("Can't accept")) == 1
    assert wire.ask("/release").status == 200
    assert [wire.reply().text for wire in waiting] == [str(worker)] * len(waiting)
    assert_as_before(server, worker)


# -- disks


def test_an_error_log_on_a_full_disk_stops_no_serving(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve(APP, *KEEP, "--error-logfile", "/dev/full", bind=f"unix:{path}")
    with Wire(str(path)) as wire:
        assert [wire.ask("/bad").status for _ in range(10)] == [500] * 10
        assert wire.ask("/pid").text == str(server.worker)


def test_no_log_can_be_written_and_no_request_fails(serve: Serve) -> None:
    """Neither a file nor what is said when that can't be written."""
    conf = """\
def post_worker_init(worker):
    os.write(2, b"worker ready: %d\\n" % os.getpid())
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    os.dup2(1, 2)
"""
    server = serve(APP, *KEEP, "--access-logfile", "/dev/full", conf=conf)
    worker, wire = server.worker, server.connect()
    assert [wire.ask(path).status for path in ("/quiet", "/bad") * 20] == [200, 500] * 20
    assert_as_before(server, worker)


def test_a_full_disk_is_told_of_once_and_ends_no_access_log(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    server = serve(APP, *KEEP, "--access-logfile", str(file), "--access-logformat", "%(U)s %(q)s")
    worker, wire = server.worker, server.connect()
    assert wire.ask("/fill_disk").status == 200
    assert [wire.ask(f"/quiet?{n}").status for n in range(500)] == [200] * 500
    assert len(server.log.lines("The access log failed")) == 1
    assert wire.ask("/free_disk").status == 200
    assert wire.ask("/quiet?after").status == 200
    eventually(lambda: file.read_text().endswith("/quiet after\n"))
    assert wire.ask("/fill_disk").status == wire.ask("/quiet").status == 200
    eventually(lambda: len(server.log.lines("The access log failed")) == 2)
    assert_as_before(server, worker)


# -- the wall clock


def test_a_wall_clock_that_jumps_shows_in_the_date_and_ends_no_wait(serve: Serve) -> None:
    """Decades are past every deadline. That one passes all the same is in the wire tests."""
    server = serve(APP, *KEEP, "--timeout", "60")
    worker = server.worker
    idle, body, wire = (server.connect() for _ in range(3))
    before = parsedate_to_datetime(idle.ask("/quiet").headers["date"])
    body.send(request("/echo", "Content-Length: 4", method="POST") + b"do")

    def is_at(seconds: float) -> bool:
        now = parsedate_to_datetime(wire.ask("/quiet").headers["date"])
        return abs((now - before).total_seconds() - seconds) < 60

    for seconds in (FAR, -FAR, 0):
        assert wire.ask(f"/jump/{seconds}").status == 200
        eventually(partial(is_at, seconds))
        assert idle.ask("/quiet").status == 200
    body.send(b"ne")
    assert body.reply().body == b"done"
    assert_as_before(server, worker)
