"""Signals, to the master and to a worker: how a server stops, reloads and turns its logs over."""

import signal
import socket
from pathlib import Path

import pytest

from .client import Wire, request
from .harness import HOOKS, Serve, Server, eventually

#: Signals come amid it; and coverage may not be done with writing what it has measured where threads are left behind.
pytestmark = pytest.mark.unmeasured

TERM, INT, QUIT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
USR1, WINCH = signal.SIGUSR1, signal.SIGWINCH


#: A lifespan at whose end a thread is told to finish, which takes some seconds, and something is printed.
THREADED = """\
import atexit, os, threading, time

told = threading.Event()


def finish():
    told.wait()
    time.sleep(%s)
    os.write(2, b"the thread has finished\\n")


atexit.register(os.write, 2, b"atexit\\n")


async def app(scope, receive, send):
    await receive()
    threading.Thread(target=finish, name="finishing").start()
    await send({"type": "lifespan.startup.complete"})
    os.write(2, b"started\\n")
    await receive()
    told.set()
    print("printed at the end")
    await send({"type": "lifespan.shutdown.complete"})
"""


def request_in_flight(server: Server) -> Wire:
    """A request that the application has begun and that it ends when four bytes of body have come."""
    wire = server.connect(request("/body", "Content-Length: 4", method="POST"))
    server.log.wait_for("called POST /body")
    return wire


# -- TERM


def test_term_lets_a_request_in_flight_finish_and_exits_with_0(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    idle = server.connect()
    assert idle.ask("/hello").status == 200
    fresh = server.connect()
    busy = request_in_flight(server)
    server.signal(TERM)
    assert idle.rest() == b""
    assert fresh.rest() == b""
    eventually(server.refuses_connections)
    assert busy.is_silent()
    busy.send(b"done")
    reply = busy.reply()
    assert (reply.status, reply.body, reply.headers["connection"]) == (200, b"done", "close")
    assert busy.rest() == b""
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_term_lets_requests_that_were_pipelined_before_it_finish(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    idle = server.connect()
    assert idle.ask("/hello").status == 200
    busy = request_in_flight(server)
    server.signal(TERM)
    assert idle.rest() == b""
    busy.send(b"done" + request("/path/late"))
    first = busy.reply()
    assert first.body == b"done"
    if first.headers.get("connection") != "close":  # what is announced is kept
        assert busy.reply().text == "/path/late"
    assert busy.rest() == b""
    assert server.wait() == 0


def test_term_closes_no_idle_connection_whose_request_nobody_could_read_yet(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    wires = [server.connect(), server.connect()]
    assert [wire.ask("/hello").status for wire in wires] == [200, 200]
    busy = server.connect(request("/hold/1", "Content-Length: 4", method="POST"))
    server.log.wait_for("called POST /hold")
    server.signal(TERM)
    eventually(lambda: wires[1].ask("/hello").headers.get("connection") == "close")  # It drains.
    busy.send(b"done")
    server.log.wait_for("holding the loop")
    reply = wires[0].ask("/path/late")
    assert (reply.text, reply.headers["connection"]) == ("/path/late", "close")
    assert server.wait() == 0


def test_term_while_a_reply_is_streamed_lets_it_end(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    idle = server.connect()
    assert idle.ask("/hello").status == 200
    wire = server.connect(request("/pour/sized/32"), receive_buffer=65536)
    wire.until(b"\r\n\r\n")
    server.signal(TERM)
    assert idle.rest() == b""
    assert wire.count() == 32 << 20
    assert server.wait() == 0


def test_term_repeated_to_a_draining_worker_changes_nothing(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    old = server.worker
    start = server.log.position()
    idle = server.connect()
    assert idle.ask("/hello").status == 200
    busy = request_in_flight(server)
    server.signal(TERM, old)
    assert idle.rest() == b""  # it drains
    for _ in range(5):
        server.signal(TERM, old)
    busy.send(b"done")
    assert busy.reply().body == b"done"
    assert server.wait_for_new_worker(start) != old
    server.log.wait_for(rf"Worker exiting \(pid: {old}\)")
    assert server.ask("/hello").status == 200
    assert not server.log.lines(r"exited with code|was sent SIG", after=start)


def test_a_request_past_graceful_timeout_is_cancelled_and_named(serve: Serve) -> None:
    server = serve("apps:app", "--graceful-timeout", "2")
    wire = server.connect(request("/forever/and/ever"))
    server.log.wait_for("called GET /forever")
    start = server.log.position()
    server.signal(TERM)
    server.log.wait_for("cancelled /forever/and/ever", after=start)
    assert server.log.lines("GET /forever/and/ever", after=start)
    wire.rest()
    assert server.wait() == 0
    server.log.wait_for(rf"Worker exiting \(pid: {server.worker}\)")  # SIGKILL would not have let it say so


def test_a_worker_drains_longer_than_timeout_without_being_taken_for_hung(serve: Serve) -> None:
    server = serve("apps:app", "--timeout", "2", "--graceful-timeout", "60")
    wire = server.connect(request("/body", "Content-Length: 12", method="POST"))
    server.log.wait_for("called POST /body")
    server.signal(TERM, server.worker)  # the master, that knows nothing of it, goes on watching
    for _ in range(12):
        assert wire.stays_silent(0.5)
        wire.send(b"a")
    reply = wire.reply()
    assert (reply.body, reply.headers["connection"]) == (b"a" * 12, "close")
    assert "WORKER TIMEOUT" not in server.log


@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_a_thread_that_does_not_end_holds_no_worker_past_graceful_timeout(serve: Serve, number: signal.Signals) -> None:
    server = serve("apps:app", "--graceful-timeout", "3", conf=HOOKS)
    old, start = server.worker, server.log.position()
    server.connect(request("/thread"))
    server.log.wait_for("a thread sleeps")
    server.signal(number)
    server.log.wait_for(f"^worker_exit {old}", after=start)
    if number is not HUP:
        assert server.wait() == 0
    else:
        assert server.wait_for_new_worker(start) != old
        eventually(lambda: old not in server.processes())
    assert not server.log.lines(r"WORKER TIMEOUT|exited with code", after=start)


def test_threads_have_the_time_of_a_stop_to_finish_and_the_worker_leaves_in_the_usual_way(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(THREADED % 1.5)
    server = serve("threaded:app", conf=HOOKS, env={"PYTHONUNBUFFERED": ""})
    server.log.wait_for("^started")  # A stop before that has no shutdown to tell the thread.
    server.signal(TERM)
    assert server.wait() == 0
    said = server.log.lines("^(worker_exit|the thread|atexit|printed)")
    assert said == [f"worker_exit {server.worker}", "the thread has finished", "atexit", "printed at the end"]
    assert "left behind" not in server.log


def test_threads_that_outlast_graceful_timeout_are_left_and_what_was_printed_is_not(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(THREADED % 120)
    server = serve("threaded:app", "--graceful-timeout", "4", conf=HOOKS, env={"PYTHONUNBUFFERED": ""})
    server.log.wait_for("^started")
    start = server.log.position()
    server.signal(HUP)  # after which nobody sends SIGKILL
    server.log.wait_for("still running and left behind: finishing$", after=start)
    server.log.wait_for("^printed at the end", after=start)
    assert not server.log.lines("^(the thread|atexit)|exited with code|was sent SIG", after=start)
    server.signal(QUIT)
    server.wait()


def test_a_worker_that_waits_for_threads_is_not_taken_for_hung(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREADED % 6)
    server = serve("threaded:app", "--timeout", "2", "--graceful-timeout", "60", env={"PYTHONUNBUFFERED": ""})
    server.log.wait_for("^started")
    start = server.log.position()
    server.signal(TERM, server.worker)
    server.log.wait_for("^the thread has finished", after=start)
    server.log.wait_for("^printed at the end", after=start)
    assert not server.log.lines("WORKER TIMEOUT|exited with code|was sent SIG", after=start)
    server.signal(QUIT)
    server.wait()


@pytest.mark.parametrize("number", [INT, signal.SIGABRT])
def test_a_quick_stop_ends_the_wait_for_threads(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "threaded.py").write_text(THREADED % 120)
    server = serve("threaded:app", "--graceful-timeout", "600", conf=HOOKS)
    server.log.wait_for("^started")
    old, start = server.worker, server.log.position()
    server.signal(TERM, old)
    server.log.wait_for(f"^worker_exit {old}", after=start)
    server.signal(number, old)
    eventually(lambda: old not in server.processes())
    assert not server.log.lines("Traceback|was sent SIG", after=start)
    server.signal(INT)
    server.wait()


@pytest.mark.parametrize("number", [TERM, QUIT, HUP])
def test_a_generator_that_is_slow_to_close_holds_no_worker(serve: Serve, number: signal.Signals) -> None:
    server = serve("asgi_apps:app", "--graceful-timeout", "4", conf=HOOKS)
    old, start = server.worker, server.log.position()
    assert server.ask("/slow_generator").status == 200
    server.signal(number)
    server.log.wait_for(f"^worker_exit {old}", after=start)
    assert f"^the generator sees its cancellation {old}$" in server.log
    assert not server.log.lines(r"Traceback|\[ERROR\]|was sent SIG", after=start)


# -- INT and QUIT


@pytest.mark.parametrize(("number", "path"), [(INT, "/forever"), (QUIT, "/forever"), (QUIT, "/block")])
def test_a_quick_stop_does_not_wait_for_a_request_that_hangs(serve: Serve, number: signal.Signals, path: str) -> None:
    server = serve("apps:app", "--graceful-timeout", "60", conf=HOOKS)
    wire = server.connect(request(path))
    server.log.wait_for(f"called GET {path}")
    server.signal(number)
    assert server.wait(within=20) == 0
    assert wire.count() == 0
    assert server.log.lines("^worker_") == [f"worker_int {server.worker}", f"worker_exit {server.worker}"]


@pytest.mark.parametrize("number", [INT, QUIT])
def test_a_quick_stop_of_one_worker_has_it_replaced(serve: Serve, number: signal.Signals) -> None:
    server = serve()
    start = server.log.position()
    server.signal(number, server.worker)
    server.wait_for_new_worker(start)
    assert server.ask("/hello").status == 200
    assert not server.log.lines("exited with code", after=start)


@pytest.mark.parametrize("number", [INT, QUIT, signal.SIGABRT])
@pytest.mark.parametrize("path", ["/forever", "/block"])
def test_a_hook_that_raises_bars_no_quick_stop(serve: Serve, number: signal.Signals, path: str) -> None:
    hooks = """\
def worker_int(worker):
    raise ValueError("the hook")


worker_abort = worker_int
"""
    server = serve("apps:app", "--graceful-timeout", "60", conf=hooks)
    old, start = server.worker, server.log.position()
    server.connect(request(path))
    server.log.wait_for(f"called GET {path}")
    server.signal(number, old)
    server.log.wait_for(rf"Worker \(pid:{old}\) exited with code 255", after=start)
    assert server.wait_for_new_worker(start) != old
    assert len(server.log.lines("^ValueError: the hook", after=start)) == 1
    assert server.log.lines(r"\[ERROR\] .*hook", after=start)
    assert not server.log.lines("event loop is already running|Exception in callback", after=start)


# -- before the worker is there


@pytest.mark.parametrize("number", [TERM, INT, QUIT])
def test_a_worker_stops_by_a_signal_that_came_right_after_its_fork(serve: Serve, number: signal.Signals) -> None:
    early = """\
def post_fork(server, worker):
    if worker.age == 1:
        os.write(2, b"forked: %%d\\n" %% os.getpid())
        os.kill(os.getpid(), %d)
"""
    server = serve("apps:app", conf=HOOKS + early % number)
    first = int(server.log.wait_for(r"^forked: (\d+)")[1])
    server.log.wait_for(f"^worker_exit {first}")
    eventually(lambda: first not in server.processes())
    assert server.ask("/pid").text == str(server.worker) != str(first)
    assert not server.log.lines("Traceback|was sent SIG|exited with code")


# -- WINCH and USR1


def test_winch_is_ignored(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60", "--log-level", "debug")
    wire = server.connect()
    assert wire.ask("/hello").status == 200
    server.signal(WINCH, server.worker)
    server.log.wait_for("SIGWINCH ignored")
    assert wire.ask("/pid").text == str(server.worker)


def test_usr1_reopens_the_error_log_after_it_was_moved(serve: Serve, tmp_path: Path) -> None:
    log, moved = tmp_path / "error.log", tmp_path / "error.log.1"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        server = serve("apps:app", "--log-file", str(log), bind=f"fd://{fd}", pass_fds=(fd,))

        def fail() -> None:
            with Wire(listener.getsockname()) as wire:
                assert wire.ask("/fail/RuntimeError").status == 500

        def reopened() -> bool:
            fail()
            return log.exists() and "as the application likes" in log.read_text()

        fail()
        eventually(lambda: "as the application likes" in log.read_text())
        log.rename(moved)
        server.signal(USR1)
        eventually(reopened)
        size = moved.stat().st_size
        fail()
        assert moved.stat().st_size == size
        assert len(server.ready_workers()) == 1  # the same worker goes on
