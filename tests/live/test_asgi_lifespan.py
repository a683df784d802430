"""The lifespan of ASGI 3 applications, in the life of a worker."""

import signal
import time
from pathlib import Path

import pytest

from .client import request
from .harness import HOOKS, Serve, Server, eventually, needs_setting, run_to_its_end

#: Signals come amid it.
pytestmark = pytest.mark.unmeasured

APP = "asgi_apps:app"
TERM, HUP, QUIT = signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT


def order_of(server: Server, *patterns: str) -> list[int]:
    """The places in the log of the one line that has each pattern."""
    lines = server.log.lines()
    places = []
    for pattern in patterns:
        found = [number for number, line in enumerate(lines) if line == pattern]
        assert len(found) == 1, f"{len(found)} lines are {pattern!r}"
        places += found
    return places


# -- startup


def test_an_application_that_fails_to_start_stops_the_master_with_3_and_its_message(tmp_path: Path) -> None:
    ended = run_to_its_end("asgi_apps:fails_to_start", folder=tmp_path)
    assert (ended.status, ended.boots) == (3, 1)
    assert len(ended.log.lines(r"\[ERROR\] The application did not start: the database is not there$")) == 1
    assert "Traceback" not in ended.log


def test_several_workers_that_fail_to_start_are_not_respawned(tmp_path: Path) -> None:
    ended = run_to_its_end("asgi_apps:fails_to_start", folder=tmp_path, workers=3)
    assert ended.status in (1, 3)  # 1 where two fail at once: Gunicorn trips over the second
    assert ended.boots <= 3


def test_no_request_is_taken_before_the_startup_is_complete(tmp_path: Path) -> None:
    server = Server("asgi_apps:starts_by_signal", folder=tmp_path)
    try:
        worker = int(server.log.wait_for(r"^starting (\d+)")[1])
        wire = server.connect(request("/hello"))
        assert wire.stays_silent(0.3)
        assert "^called" not in server.log
        server.signal(signal.SIGUSR2, worker)
        assert wire.reply().body == b"hello"
        startup, called = order_of(server, f"startup {worker}", "called http /hello")
        assert startup < called
        server.hang_up()
        server.signal(TERM)
        assert server.wait() == 0
        server.assert_nothing_left()
    finally:
        server.hang_up()
        server.kill_everything()


@pytest.mark.parametrize("name", ["raises_at_start", "returns_at_start", "exits_at_start"])
def test_an_application_without_a_lifespan_is_served(serve: Serve, name: str) -> None:
    server = serve(f"asgi_apps:{name}")
    assert server.ask("/hello").body == b"hello"
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


BY_OPTION_OR_SETTING = pytest.mark.parametrize(
    "by_option",
    [pytest.param(True, id="option"), pytest.param(False, id="gunicorn", marks=needs_setting("asgi_lifespan"))],
)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises_at_start", "no lifespan here"),
        ("returns_at_start", "it returned before its startup was complete"),
        ("exits_at_start", "no licence"),
    ],
)
@BY_OPTION_OR_SETTING
def test_lifespan_on_refuses_an_application_that_has_none(
    tmp_path: Path, name: str, told: str, by_option: bool
) -> None:
    options = {"env": {"UVICORN_WORKER_LIFESPAN": "on"}} if by_option else {"conf": "asgi_lifespan = 'on'\n"}
    ended = run_to_its_end(f"asgi_apps:{name}", folder=tmp_path, **options)
    assert (ended.status, ended.boots) == (3, 1)
    assert len(ended.log.lines(rf"\[ERROR\] The application did not start: .*{told}")) == 1


@BY_OPTION_OR_SETTING
def test_lifespan_off_leaves_the_application_alone(serve: Serve, by_option: bool) -> None:
    options = {"env": {"UVICORN_WORKER_LIFESPAN": "off"}} if by_option else {"conf": "asgi_lifespan = 'off'\n"}
    with serve(APP, **options) as server:
        assert b'"state": {}' in server.ask("/what").body
        server.signal(TERM)
        assert server.wait() == 0
    assert not server.log.lines("^(startup|shutdown) ")


def test_a_startup_that_never_ends_is_bounded(tmp_path: Path) -> None:
    env = {"UVICORN_WORKER_LIFESPAN_TIMEOUT": "1"}
    ended = run_to_its_end("asgi_apps:never_starts", folder=tmp_path, env=env)
    assert (ended.status, ended.boots) == (3, 1)
    assert len(ended.log.lines(r"did not start: the startup took longer than 1 s \(lifespan_timeout\)$")) == 1
    assert "Traceback" not in ended.log


def test_a_startup_longer_than_timeout_is_not_taken_for_a_hung_worker(tmp_path: Path) -> None:
    server = Server("asgi_apps:starts_by_signal", "--timeout", "2", folder=tmp_path)
    try:
        worker = int(server.log.wait_for(r"^starting (\d+)")[1])
        wire = server.connect(request("/hello", "Connection: close"))
        assert wire.stays_silent(3.5)
        assert "WORKER TIMEOUT" not in server.log
        server.signal(signal.SIGUSR2, worker)
        assert wire.reply().body == b"hello"
        server.signal(TERM)
        assert server.wait() == 0
    finally:
        server.hang_up()
        server.kill_everything()


@pytest.mark.parametrize("number", [TERM, QUIT])
def test_a_signal_during_the_startup_ends_it_promptly(tmp_path: Path, number: signal.Signals) -> None:
    server = Server("asgi_apps:never_starts", "--graceful-timeout", "60", folder=tmp_path)
    try:
        server.log.wait_for("^starting")
        began = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - began < 10
        server.assert_nothing_left()
        assert not server.log.lines(r"Traceback|\[ERROR\]")
    finally:
        server.hang_up()
        server.kill_everything()


# -- shutdown


def test_the_shutdown_is_behind_the_last_request_and_before_worker_exit(serve: Serve) -> None:
    server = serve(APP, "--keep-alive", "60", conf=HOOKS)
    worker = server.worker
    idle = server.connect()
    assert idle.ask("/hello").body == b"hello"
    busy = server.connect(request("/gate/last"))
    server.log.wait_for("^called http /gate/last")
    opener = server.connect()
    assert opener.ask("/hello").body == b"hello"
    server.signal(TERM)
    opener.send(request("/open/last"))  # at once: a connection with nothing to do is closed soon
    assert opener.reply().body == b"open"
    assert busy.reply().body == b"through"
    assert idle.rest() == b""
    assert server.wait() == 0
    called, shutdown, leaving = order_of(
        server, "called http /open/last", f"shutdown {worker}", f"worker_exit {worker}"
    )
    assert called < shutdown < leaving


def test_hup_shuts_the_old_worker_down_and_starts_a_new_one(serve: Serve) -> None:
    server = serve(APP, "--keep-alive", "60", conf=HOOKS)
    old = server.worker
    idle = server.connect()
    assert idle.ask("/hello").body == b"hello"
    start = server.log.position()
    server.signal(HUP)
    new = server.wait_for_new_worker(start)
    assert idle.rest() == b""
    server.log.wait_for(f"^worker_exit {old}", after=start)
    shutdown, leaving = order_of(server, f"shutdown {old}", f"worker_exit {old}")
    assert shutdown < leaving
    assert f"^startup {new}$" in server.log
    assert server.ask("/hello").body == b"hello"


def test_max_requests_shuts_the_worker_down(serve: Serve) -> None:
    server = serve(APP, "--keep-alive", "60", "--max-requests", "3", conf=HOOKS)
    old, start = server.worker, server.log.position()
    wire = server.connect()
    for _ in range(3):
        assert wire.ask("/hello").body == b"hello"
    new = server.wait_for_new_worker(start)
    server.log.wait_for(f"^worker_exit {old}", after=start)
    shutdown, leaving = order_of(server, f"shutdown {old}", f"worker_exit {old}")
    assert shutdown < leaving
    eventually(lambda: f"^startup {new}$" in server.log)
    assert "exited with code" not in server.log


def test_a_shutdown_that_fails_is_logged(serve: Serve) -> None:
    server = serve("asgi_apps:fails_to_stop")
    assert server.ask("/hello").body == b"hello"  # It has started.
    server.signal(TERM)
    assert server.wait() == 0
    assert len(server.log.lines(r"\[ERROR\] The application's shutdown failed: could not say goodbye$")) == 1


def test_a_shutdown_that_never_ends_is_bounded_by_graceful_timeout(serve: Serve) -> None:
    server = serve("asgi_apps:never_stops", "--graceful-timeout", "2", conf=HOOKS)
    assert server.ask("/hello").body == b"hello"
    server.signal(TERM)
    assert server.wait() == 0
    assert len(server.log.lines(r"\[ERROR\] The application's shutdown took longer than \d\.\d s$")) == 1
    assert f"^worker_exit {server.worker}$" in server.log  # SIGKILL would not have let it say so


def test_a_long_shutdown_is_not_taken_for_a_hung_worker(serve: Serve) -> None:
    server = serve("asgi_apps:stops_slowly", "--timeout", "2", "--graceful-timeout", "60", conf=HOOKS)
    assert server.ask("/hello").body == b"hello"  # It has started.
    old, start = server.worker, server.log.position()
    server.signal(TERM, old)
    server.log.wait_for("^stopped", after=start)
    server.log.wait_for(f"^worker_exit {old}", after=start)
    assert not server.log.lines("WORKER TIMEOUT|was sent SIG", after=start)


def test_the_shutdown_comes_though_a_call_does_not_let_itself_be_cancelled(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "4", conf=HOOKS)
    worker = server.worker
    server.connect(request("/stubborn"))
    server.log.wait_for("^called http /stubborn")
    server.signal(TERM)
    assert server.wait() == 0
    assert "^not cancelled /stubborn" in server.log
    shutdown, leaving = order_of(server, f"shutdown {worker}", f"worker_exit {worker}")
    assert shutdown < leaving
