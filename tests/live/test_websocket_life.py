"""WebSockets and the life of their worker: how it stops and reloads, what it counts, logs and allows."""

import re
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from .client import PING, PONG, TEXT, frame, handshake
from .harness import Serve, needs_setting, run_to_its_end

#: Signals come amid it.
pytestmark = pytest.mark.unmeasured

TERM, HUP = signal.SIGTERM, signal.SIGHUP
APP = "websocket_apps:app"


# -- TERM


def test_term_closes_idle_websockets_with_1012_and_the_master_leaves(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    wire = server.raw_websocket("/echo/idle")
    with server.websocket("/echo/used") as client, server.websocket("/ticking/term") as ticking:
        assert client.ask("hello") == "hello"
        assert ticking.recv() == "tick"
        server.signal(TERM)
        assert client.closing() == (1012, "")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                ticking.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 1012
    assert wire.closing() == (1012, "")
    server.hang_up()  # or the worker would wait for this client's part in closing
    assert server.wait() == 0
    for path, order in (("/echo/idle", 1), ("/echo/used", 2), ("/ticking/term", 1)):
        assert server.log.lines(f"^websocket.disconnect {path} ") == [f"websocket.disconnect {path} {order} 1012 ''"]
    assert "send raised ClientDisconnected /ticking/term" in server.log
    assert not server.log.lines(r"Traceback|graceful_timeout|\[(WARNING|ERROR)\] (?!Worker)")


def test_term_lets_receive_calls_finish_before_the_close(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    waiting = server.raw_websocket("/wait/calls", data=frame("go") * 3)
    server.log.wait_for("^websocket.receive /wait/calls 3")
    idle = server.raw_websocket("/open/calls")  # The worker's end of this lets those calls go on.
    server.signal(TERM)
    assert idle.closing() == (1012, "")
    assert [waiting.frame() for _ in range(3)] == [(0x80 | TEXT, b"waited")] * 3
    assert waiting.closing() == (1012, "")
    server.hang_up()
    assert server.wait() == 0
    server.log.wait_for("^websocket.disconnect /wait/calls 4 1012 ''")


def test_term_does_not_wait_for_a_receive_call_that_never_ends(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    wire = server.raw_websocket("/stuck/for/ever", data=frame("go"))
    server.log.wait_for("^websocket.receive /stuck/for/ever 1")
    start = server.log.position()
    server.signal(TERM)
    assert wire.closing() == (1012, "")
    server.hang_up()
    server.log.wait_for("^receive ended")
    said = server.log.lines("^(receive ended|websocket)", after=start)
    assert said == ["websocket.disconnect /stuck/for/ever 2 1012 ''", "receive ended /stuck/for/ever"]
    assert server.wait() == 0


def test_term_does_not_wait_long_for_clients_that_answer_no_close(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600", env={"UVICORN_WORKER_WS_CLOSE_TIMEOUT": "600"})
    idle = server.raw_websocket("/echo/idle")
    server.raw_websocket("/endless/unread", receive_buffer=65536)
    server.log.wait_for("^send waits after")
    server.signal(TERM)
    assert idle.closing() == (1012, "")
    assert server.wait() == 0
    for path in ("/echo/idle", "/endless/unread"):
        assert server.log.lines(f"^websocket.disconnect {path} ") == [f"websocket.disconnect {path} 1 1012 ''"]
    assert "send raised ClientDisconnected /endless/unread" in server.log
    assert not server.log.lines("Traceback|graceful_timeout")


def test_messages_that_come_after_term_are_not_read(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    busy = server.raw_websocket("/wait/late", data=frame("go"))
    server.log.wait_for("^websocket.receive /wait/late 1")
    idle = server.raw_websocket("/echo/idle")
    server.signal(TERM)
    assert idle.closing() == (1012, "")
    busy.send(frame("too late") * 3)
    assert busy.closing() == (1012, "")
    server.log.wait_for("^websocket.disconnect /wait/late 2 1012 ''")
    server.hang_up()
    server.signal(signal.SIGQUIT, server.worker)  # That call would wait for ever.
    assert server.wait() == 0


def test_a_receive_call_past_graceful_timeout_is_cancelled_and_named(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "2")
    server.raw_websocket("/wait/cancelled", data=frame("go"))
    server.log.wait_for("^websocket.receive /wait/cancelled 1")
    start = server.log.position()
    server.signal(TERM)
    assert server.wait() == 0
    assert server.log.lines(r"graceful_timeout: WebSocket /wait/cancelled", after=start)
    server.log.wait_for(rf"Worker exiting \(pid: {server.worker}\)")  # SIGKILL would not have let it say so


def test_a_handshake_that_was_under_way_at_term_is_still_answered(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    idle = server.raw_websocket("/open/late")
    asked = server.connect(handshake("/late/late"))
    server.log.wait_for("^websocket.connect /late/late")
    server.signal(TERM)
    assert idle.closing() == (1012, "")
    assert asked.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert asked.closing() == (1012, "")
    server.hang_up()
    assert server.wait() == 0
    assert "websocket.disconnect /late/late 1 1012 ''" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_waits_for_no_websocket(serve: Serve, number: signal.Signals) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    wire = server.raw_websocket("/wait/quick", data=frame("go"))
    server.log.wait_for("^websocket.receive /wait/quick 1")
    server.signal(number)
    assert server.wait(within=20) == 0
    assert wire.rest() == b""  # No close frame: that is 1006 to a client.
    server.log.wait_for(rf"Worker exiting \(pid: {server.worker}\)")


# -- other ends of a worker


def test_hup_has_clients_come_back_to_the_new_worker(serve: Serve) -> None:
    server = serve(APP)
    start = server.log.position()
    with server.websocket("/pid") as client:
        old = client.recv()
        server.signal(HUP)
        assert client.closing() == (1012, "")
    with server.websocket("/pid") as client:
        assert client.recv() == str(server.wait_for_new_worker(start)) != old
    server.log.wait_for(rf"Worker exiting \(pid: {old}\)", after=start)


def test_max_requests_counts_a_websocket_as_one(serve: Serve) -> None:
    server = serve(APP, "--max-requests", "3")
    start = server.log.position()
    assert server.ask("/hello").status == 200
    wires = [server.raw_websocket("/echo")]
    for number in range(10):
        wires[0].send(frame(str(number)))
        assert wires[0].frame()[1] == b"%d" % number
    assert not server.log.lines("Autorestarting", after=start)
    wires.append(server.raw_websocket("/echo"))
    server.log.wait_for("Autorestarting", after=start)
    assert [wire.closing() for wire in wires] == [(1012, "")] * 2
    server.hang_up()
    assert server.wait_for_new_worker(start)
    assert server.ask("/hello").status == 200


# -- what is counted and logged


def test_websockets_count_as_worker_connections(serve: Serve) -> None:
    server = serve(APP, "--worker-connections", "2")
    with server.websocket("/echo") as first, server.websocket("/echo") as second:
        third = server.connect(handshake("/echo"))
        server.log.wait_for("worker_connections")
        for _ in range(5):
            assert first.ask("hello") == second.ask("hello") == "hello"
        assert third.is_silent()
        first.close()
        assert third.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert second.ask("still here") == "still here"


def test_the_access_log_has_one_line_for_each_handshake_when_it_is_answered(serve: Serve) -> None:
    form = "access %(m)s %(U)s %(s)s %({upgrade}i)s"
    server = serve(APP, "--access-logfile", "-", "--access-logformat", form)
    with server.websocket("/echo/access") as client:
        server.log.wait_for("^access GET /echo/access 101 websocket$")
        assert client.ask("hello") == "hello"
    assert server.connect(handshake("/reject/access")).reply().status == 403
    assert server.connect(handshake("/fail/connect")).reply().status == 500
    assert server.connect(handshake("/version", version="7")).reply().status == 426
    gone = server.connect(handshake("/late/access"))
    server.log.wait_for("^websocket.connect /late/access")
    gone.close()
    server.log.wait_for("^websocket.disconnect /late/access")
    server.log.wait_for("^websocket.disconnect /echo/access")
    server.ask("/admit/access")
    server.log.wait_for("^access GET /admit/access")
    assert sorted(server.log.lines("^access")) == [
        "access GET /admit/access 200 -",
        "access GET /echo/access 101 websocket",
        "access GET /fail/connect 500 websocket",
        "access GET /late/access 499 websocket",
        "access GET /reject/access 403 websocket",
        "access GET /version 426 websocket",
    ]


# -- pings


def test_a_client_is_pinged_and_one_that_does_not_answer_is_closed_with_1011(serve: Serve) -> None:
    env = {"UVICORN_WORKER_WS_PING_INTERVAL": "1", "UVICORN_WORKER_WS_PING_TIMEOUT": "1"}
    server = serve(APP, env=env)
    silent, answering = server.raw_websocket("/echo/silent"), server.raw_websocket("/echo/answering")
    for wire in (silent, answering):
        assert wire.frame() == (0x80 | PING, b"")
    answering.send(frame(b"", PONG))
    assert answering.frame() == (0x80 | PING, b"")
    code, reason = silent.closing()
    assert (code, "ping" in reason) == (1011, True)
    assert silent.rest() == b""
    server.log.wait_for("^websocket.disconnect /echo/silent 1 1011 ")
    assert not server.log.lines("^websocket.disconnect /echo/answering")
    assert not server.log.lines(r"Traceback|\[ERROR\]")


def test_pings_can_be_turned_off_and_an_idle_websocket_has_no_deadline_then(serve: Serve) -> None:
    env = {"UVICORN_WORKER_WS_PING_INTERVAL": "0", "UVICORN_WORKER_WS_PING_TIMEOUT": "1"}
    env["UVICORN_WORKER_HEAD_TIMEOUT"] = "1"
    server = serve(APP, "--keep-alive", "1", "--timeout", "2", env=env)
    wire = server.raw_websocket("/echo")
    assert wire.stays_silent(4)  # With any of these for a deadline it would have ended by now.
    wire.send(frame("hello"))
    assert wire.frame() == (0x80 | TEXT, b"hello")


# -- options


NEEDS_SIZE = needs_setting("websocket_max_message_size")


@pytest.mark.parametrize(
    ("options", "env"),
    [
        pytest.param(("--websocket-max-message-size", "1000"), {}, marks=NEEDS_SIZE),
        ((), {"UVICORN_WORKER_WS_MAX_SIZE": "1000"}),
        pytest.param(
            ("--websocket-max-message-size", "10"), {"UVICORN_WORKER_WS_MAX_SIZE": "1000"}, marks=NEEDS_SIZE
        ),
    ],
    ids=["gunicorn", "environment", "both"],
)
def test_a_message_past_the_largest_that_is_allowed_is_closed_with_1009(
    serve: Serve, options: tuple[str, ...], env: dict[str, str]
) -> None:
    server = serve(APP, *options, env=env)
    fragments = ["x" * 600, "x" * 600]
    for name, too_long in (("whole", "x" * 1001), ("fragments", iter(fragments)), ("short frame", "é" * 501)):
        with server.websocket(f"/echo/{name[0]}", compression=None) as client:
            assert client.ask("x" * 1000) == "x" * 1000, name
            client.send(too_long)
            assert client.closing()[0] == 1009, name
        server.log.wait_for(f"^websocket.disconnect /echo/{name[0]} 2 1009")
    assert not server.log.lines(r"Traceback|\[ERROR\]")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ws_ping_interval", "abc"),
        ("ws_ping_timeout", "-1"),
        ("ws_max_size", "1.5"),
        ("ws_max_queue", "0"),
        ("ws_per_message_deflate", "perhaps"),
    ],
)
def test_a_bad_option_stops_the_start_with_one_line(tmp_path: Path, name: str, value: str) -> None:
    variable = f"UVICORN_WORKER_{name.upper()}"
    ended = run_to_its_end(APP, folder=tmp_path, env={variable: value})
    assert (ended.status, ended.boots) == (1, 0)
    (line,) = ended.log.lines(re.escape(variable))
    assert repr(value) in line
    assert "Traceback" not in ended.log
