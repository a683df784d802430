"""Protocols of a subclass of the worker, that connections are upgraded to."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import TEXT, Wire, frame, handshake, request
from .harness import Serve, Server, run_to_its_end

pytestmark = pytest.mark.unmeasured

APP = "upgrade_apps:app"
COMMAND = ("-m", "gunicorn", "-k", "upgrade_apps.Worker")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--keep-alive", "30", "--access-logfile", "-", "--access-logformat", "access %(U)s %(s)s")
    with Server(APP, *options, folder=tmp_path_factory.mktemp("upgrades"), command=COMMAND) as server:
        yield server


@pytest.fixture
def upgrading(shared: Server) -> Iterator[Server]:
    """One worker with a protocol of its own."""
    yield shared
    shared.hang_up()


def asking(path: str = "/switch", protocol: str = "reverse", **options: str) -> bytes:
    return request(path, "Connection: keep-alive, Upgrade", f"Upgrade: {protocol}", **options)


def assert_logged_once(server: Server, start: int, text: str) -> None:
    server.log.wait_for(rf"\[ERROR\].*{text}", after=start)
    assert len(server.log.lines(r"\[(WARNING|ERROR|CRITICAL)\]", after=start)) == 1


# -- what a handler can do


def test_a_handler_switches_and_gets_what_was_sent_with_the_head(upgrading: Server) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(request("/hello") + asking() + b"one\ntw")
    assert wire.reply().status == 200
    status, *fields = wire.until(b"\r\n\r\n").decode().lower().splitlines()
    assert status == "http/1.1 101 switching protocols"
    assert {"connection: upgrade", "upgrade: reverse", "x-extra: yes"} <= set(fields)
    assert wire.until(b"\n") == b"eno\n"
    wire.send(b"o\nbye\n")
    assert wire.rest() == b"owt\neyb\n"
    upgrading.log.wait_for("^upgraded connection lost", after=start)
    assert upgrading.log.lines("^access", after=start) == ["access /hello 200", "access /switch 101"]


def test_bytes_that_come_before_the_switch_wait_for_it(serve: Serve) -> None:
    server = serve(APP, command=COMMAND)
    wire = server.connect(asking("/wait") + b"one\n")
    server.log.wait_for("^asked GET /wait")
    wire.send(b"two\n")
    server.ask("/admit/upgrade")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.until(b"owt\n") == b"eno\nowt\n"
    said = [line.split()[0] for line in server.log.lines("^(asked|called|received)")]
    assert said[:3] == ["asked", "called", "received"]


@pytest.mark.parametrize("protocol", ["reverse", "REVERSE", "Reverse, other", "other, reVerse", "a/1, reverse, b"])
def test_the_name_of_a_protocol_is_found_in_any_case_and_among_others(upgrading: Server, protocol: str) -> None:
    wire = upgrading.connect(asking(protocol=protocol) + b"here\n")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.until(b"\n") == b"ereh\n"


def test_a_handler_may_refuse(upgrading: Server) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(asking("/refuse") + b"never read\n")
    reply = wire.reply()
    assert (reply.status, reply.body, reply.headers["x-why"]) == (418, b"No.", "teapot")
    assert reply.headers["connection"] == "close"
    assert wire.rest() == b""
    assert upgrading.ask("/hello").status == 200
    assert not upgrading.log.lines("^received", after=start)
    assert not upgrading.log.lines(r"\[(WARNING|ERROR)\]", after=start)


@pytest.mark.parametrize("path", ["/raise", "/bad-field"])
def test_a_handler_that_raises_is_a_500_and_logged_once(upgrading: Server, path: str) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(asking(path) + b"never read\n")
    reply = wire.reply()
    assert (reply.status, reply.headers["connection"]) == (500, "close")
    assert wire.rest() == b""
    assert_logged_once(upgrading, start, f"GET {path}")
    assert upgrading.log.lines("^Traceback", after=start)


def test_a_handler_that_returns_without_an_answer_is_a_500_and_logged(upgrading: Server) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(asking("/nothing"))
    assert wire.reply().status == 500
    assert wire.rest() == b""
    assert_logged_once(upgrading, start, "GET /nothing")


def test_a_handler_that_raises_after_the_switch_does_not_harm_the_connection(upgrading: Server) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(asking("/raise-late"))
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert_logged_once(upgrading, start, "GET /raise-late")
    wire.send(b"still\n")
    assert wire.until(b"\n") == b"llits\n"


# -- who is asked


def test_a_request_to_switch_with_a_body_is_a_400(upgrading: Server) -> None:
    start = upgrading.log.position()
    wire = upgrading.connect(request("/switch", "Connection: Upgrade", "Upgrade: reverse", method="POST", body=b"x"))
    assert wire.reply().status == 400
    assert wire.rest() == b""
    assert upgrading.ask("/hello").status == 200
    assert not upgrading.log.lines("^asked", after=start)


@pytest.mark.parametrize(
    "sent",
    [
        request("/hello", "Connection: Upgrade", "Upgrade: reverse2"),
        request("/hello", "Upgrade: reverse"),
        request("/hello", "Connection: Upgrade, keep-alive", "Upgrade: reverse", version="1.0"),
    ],
    ids=["another protocol", "no connection option", "HTTP/1.0"],
)
def test_what_asks_for_no_switch_is_a_request_as_any_other(upgrading: Server, sent: bytes) -> None:
    wire = upgrading.connect(sent)
    assert wire.reply().body == b"<h1>Hello World</h1>"
    assert wire.ask("/hello").status == 200


def test_websockets_are_served_beside_it(upgrading: Server) -> None:
    wire = upgrading.raw_websocket("/echo", data=frame("hello"))
    assert wire.frame() == (0x80 | TEXT, b"hello")


def test_without_websocket_in_the_table_a_handshake_is_a_request_as_any_other(serve: Serve) -> None:
    conf = "import upgrade_apps\nclass worker_class(upgrade_apps.Worker):\n    UPGRADES = {}\n"
    server = serve(APP, command=("-m", "gunicorn"), conf=conf)
    wire = server.connect(handshake("/hello"))
    assert wire.reply().body == b"<h1>Hello World</h1>"
    assert wire.ask("/hello").status == 200


# -- the worker's life


def upgraded(server: Server) -> Wire:
    wire = server.connect(asking() + b"here\n")
    wire.until(b"ereh\n")
    return wire


def test_term_closes_an_upgraded_connection(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600", command=COMMAND)
    wire = upgraded(server)
    server.signal(signal.SIGTERM)
    assert wire.rest() == b""
    assert server.wait() == 0
    assert "upgraded connection lost" in server.log
    assert not server.log.lines("Traceback|graceful_timeout")


def test_an_upgraded_connection_counts_as_one_of_worker_connections(serve: Serve) -> None:
    server = serve(APP, "--worker-connections", "1", command=COMMAND)
    first = upgraded(server)
    second = server.connect(request("/hello"))
    server.log.wait_for("worker_connections")
    first.send(b"still\n")
    assert first.until(b"\n") == b"llits\n"
    assert second.is_silent()
    first.close()
    assert second.reply().status == 200


# -- bad tables


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("{'two words': upgrade_apps.reverse}", "'two words'"),
        ("{'': upgrade_apps.reverse}", "''"),
        ("{b'reverse': upgrade_apps.reverse}", "b'reverse'"),
        ("{'reverse': upgrade_apps.not_a_coroutine_function}", "not_a_coroutine_function"),
        ("{'reverse': 'upgrade_apps.reverse'}", "'upgrade_apps.reverse'"),
        ("[('reverse', upgrade_apps.reverse)]", "UPGRADES"),
    ],
    ids=["a space", "no name", "bytes", "no coroutine function", "a text", "no table"],
)
def test_a_bad_table_stops_the_start_with_one_line(tmp_path: Path, table: str, told: str) -> None:
    conf = f"import upgrade_apps\nclass worker_class(upgrade_apps.UvicornWorker):\n    UPGRADES = {table}\n"
    ended = run_to_its_end(APP, folder=tmp_path, command=("-m", "gunicorn"), conf=conf)
    assert (ended.status, ended.boots) == (1, 0)
    (line,) = ended.log.lines("UPGRADES")
    assert told in line
    assert "Traceback" not in ended.log
