"""How long a silent or slow client is waited for."""

from collections.abc import Iterator

import pytest

from .client import request
from .harness import Serve, Server


@pytest.fixture(scope="module")
def quick_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every deadline as short as it can be."""
    folder = tmp_path_factory.mktemp("quick")
    options = ("--keep-alive", "1", "--timeout", "2")
    with Server("apps:app", *options, folder=folder, env={"UVICORN_WORKER_HEAD_TIMEOUT": "1"}) as server:
        yield server


def test_a_connection_on_which_nothing_comes_is_closed_silently(quick_server: Server) -> None:
    assert quick_server.connect().rest() == b""


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: a", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_is_not_finished_in_time_gets_a_408(quick_server: Server, part: bytes) -> None:
    wire = quick_server.connect(part)
    reply = wire.reply()
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    assert wire.rest() == b""


def test_a_later_head_that_is_not_finished_in_time_gets_a_408(quick_server: Server) -> None:
    wire = quick_server.connect()
    assert wire.ask("/hello").status == 200
    wire.send(b"GET / HTTP/1.1\r\n")
    assert wire.reply().status == 408
    assert wire.rest() == b""


def test_a_head_that_drips_in_does_not_put_its_deadline_off(quick_server: Server) -> None:
    wire = quick_server.connect(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(50):
        if not wire.stays_silent(0.2):
            break
        wire.send(b"a")
    assert wire.reply().status == 408


def test_an_idle_connection_is_closed_after_keep_alive_seconds(quick_server: Server) -> None:
    wire = quick_server.connect()
    assert wire.ask("/hello").status == 200
    assert wire.rest() == b""


def test_a_request_that_came_in_time_is_answered_though_nobody_could_read_it(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "1")
    wire = server.connect()
    assert wire.ask("/hello").status == 200
    server.connect(request("/hold/3.2"))  # That is past the deadline, and the tick that would find it.
    server.log.wait_for("holding the loop")
    assert wire.ask("/path/late").text == "/path/late"


def test_a_request_that_takes_longer_than_every_deadline_is_not_disturbed(quick_server: Server) -> None:
    """The connection is idle for the client's part, not for ours."""
    slow = quick_server.connect(request("/wait/slow"))
    assert quick_server.connect(b"G").reply().status == 408
    idle = quick_server.connect()
    assert idle.ask("/hello").status == 200
    assert idle.rest() == b""
    quick_server.ask("/admit/slow")
    assert slow.reply().body == b"waited "


def test_a_body_that_stalls_makes_receive_raise_and_closes_the_connection(quick_server: Server) -> None:
    start = quick_server.log.position()
    wire = quick_server.connect(request("/careful", "Content-Length: 9", method="POST") + b"part")
    quick_server.log.wait_for("receive raised", after=start)
    wire.rest()
    assert quick_server.ask("/hello").status == 200


def test_keep_alive_0_closes_after_each_reply(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "0")
    wire = server.connect(request("/hello"))
    reply = wire.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert wire.rest() == b""
