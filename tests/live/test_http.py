"""What a client sees of HTTP/1.1, and an application of a request."""

import json
import re

import h11
import pytest

from .client import chunked, request
from .harness import Serve, Server


def test_hello_world_answers_with_a_complete_response(server: Server) -> None:
    reply = server.ask("/hello")
    assert (reply.status, reply.version) == (200, "1.1")
    assert reply.body == b"<h1>Hello World</h1>"
    assert reply.headers["content-type"] == "text/html"
    assert reply.headers["content-length"] == "20"
    assert reply.headers["server"] == "uvicorn-worker"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", reply.headers["date"])


def test_the_message_tells_the_application_what_was_asked(server: Server) -> None:
    wire = server.connect(request("/what/caf%C3%A9/a%2Fb?q=1&r=%20", "X-Many: 1", "x-many:  2 "))
    client = wire.socket.getsockname()
    assert json.loads(wire.reply().body) == {
        "channel": "http.request",
        "scheme": "http",
        "http_version": "1.1",
        "method": "GET",
        "root_path": "",
        "path": "/what/café/a/b",
        "raw_path": "/what/caf%C3%A9/a%2Fb",
        "query_string": "q=1&r=%20",
        "headers": [["host", "localhost"], ["x-many", "1"], ["x-many", "2"]],
        "server": ["127.0.0.1", server.port],
        "client": list(client),
    }


def test_the_authority_of_an_absolute_target_replaces_host(server: Server) -> None:
    wire = server.connect(request("http://example.org/what", host="other.example"))
    message = json.loads(wire.reply().body)
    assert message["path"] == "/what"
    assert ["host", "example.org"] in message["headers"]
    assert ["host", "other.example"] not in message["headers"]


# -- persistence


def test_a_connection_serves_request_after_request(server: Server) -> None:
    wire = server.connect()
    replies = [wire.ask(f"/path/{n}") for n in range(5)]
    assert [reply.text for reply in replies] == [f"/path/{n}" for n in range(5)]
    assert all("connection" not in reply.headers for reply in replies)


def test_connection_close_is_honoured_and_announced(server: Server) -> None:
    wire = server.connect(request("/hello", "Connection: close"))
    assert wire.reply().headers["connection"] == "close"
    assert wire.rest() == b""


def test_http_1_0_closes_after_one_reply(server: Server) -> None:
    wire = server.connect(request("/hello", version="1.0", host=None))
    assert wire.reply().body == b"<h1>Hello World</h1>"
    assert wire.rest() == b""


def test_http_1_0_stays_open_where_keep_alive_is_asked_for(server: Server) -> None:
    wire = server.connect()
    for _ in range(2):
        reply = wire.ask("/hello", "Connection: keep-alive", version="1.0", host=None)
        assert reply.body == b"<h1>Hello World</h1>"
        assert reply.headers["connection"].lower() == "keep-alive"


def test_a_streamed_reply_is_chunked_and_the_connection_lives_on(server: Server) -> None:
    wire = server.connect()
    reply = wire.ask("/stream")
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.body == b"one two three"
    assert wire.ask("/hello").status == 200


def test_a_streamed_reply_ends_with_the_connection_on_http_1_0(server: Server) -> None:
    wire = server.connect(request("/stream", "Connection: keep-alive", version="1.0"))
    head = wire.until(b"\r\n\r\n").lower()
    assert b"transfer-encoding" not in head
    assert wire.rest() == b"one two three"


@pytest.mark.parametrize(
    ("method", "path", "status", "length"),
    [
        ("HEAD", "/hello", 200, "20"),
        ("HEAD", "/stream", 200, None),
        ("GET", "/status/204", 204, None),
        ("GET", "/status/304", 304, None),
    ],
)
def test_a_reply_that_has_no_body_sends_none(
    server: Server, method: str, path: str, status: int, length: str | None
) -> None:
    wire = server.connect(request(path, method=method) + request("/path/next"))
    head = wire.until(b"\r\n\r\n").decode().lower()
    assert head.startswith(f"http/1.1 {status} ")
    if length:
        assert f"\r\ncontent-length: {length}\r\n" in head
    if status == 204:
        assert "content-length" not in head
        assert "transfer-encoding" not in head
    assert wire.reply().text == "/path/next"  # follows at once


# -- pipelining


def test_pipelined_requests_are_answered_in_order_one_at_a_time(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/wait/first") + request("/path/second") + request("/path/third"))
    server.log.wait_for("called GET /wait/first", after=start)
    server.ask("/admit/first")
    assert [wire.reply().text for _ in range(3)] == ["waited ", "/path/second", "/path/third"]
    called = [line.split()[-1] for line in server.log.lines("^called", after=start)]
    assert called == ["/wait/first", "/admit/first", "/path/second", "/path/third"]


def test_pipelining_past_the_bound_loses_nothing(server: Server) -> None:
    paths = [f"/path/{n}" for n in range(500)]
    wire = server.connect(b"".join(map(request, paths)))
    assert [wire.reply().text for _ in paths] == paths


def test_pipelined_requests_keep_their_own_bodies(server: Server) -> None:
    body = request("/body", "Transfer-Encoding: chunked", method="POST") + chunked(b"ab", b"c")
    unread = request("/path/unread", method="POST", body=b"GET /smuggled HTTP/1.1\r\n\r\n")
    wire = server.connect(body + unread + request("/body", method="PUT", body=b"last"))
    assert [wire.reply().text for _ in range(3)] == ["abc", "/path/unread", "last"]


# -- request bodies


def test_a_chunked_body_is_streamed_to_the_application(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/parts", "Transfer-Encoding: chunked", method="POST"))
    server.log.wait_for("called POST /parts", after=start)
    for part in (b"one", b"two", b"three"):
        wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        server.log.wait_for(f"part {part.decode()} True", after=start)  # before the next is sent
    wire.send(b"0\r\n\r\n")
    assert wire.reply().body == b"whole"


def test_a_sized_body_is_streamed_to_the_application(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/parts", "Content-Length: 6", method="POST") + b"one")
    server.log.wait_for("part one True", after=start)
    wire.send(b"two")
    server.log.wait_for("part two False", after=start)
    assert wire.reply().body == b"whole"


def test_trailers_and_chunk_extensions_are_accepted_and_dropped(server: Server) -> None:
    head = request("/body", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST")
    wire = server.connect(head + b"3;why=not\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n")
    assert wire.reply().body == b"abc"
    assert wire.ask("/hello").status == 200


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
def test_a_request_without_a_body_has_no_body_channel(server: Server, sized: bool) -> None:
    head = request("/body", "Content-Length: 0" if sized else "X-Nothing: here", method="POST")
    assert server.connect(head).reply().body == b""


@pytest.mark.parametrize("name", ["h2c", "foo/2, bar"])
@pytest.mark.parametrize("body", [b"", b"with a body"])
def test_an_upgrade_that_nobody_offers_is_ignored(server: Server, name: str, body: bytes) -> None:
    headers = ("Connection: Upgrade", f"Upgrade: {name}")
    wire = server.connect(request("/body", *headers, method="POST", body=body) + request("/path/next"))
    assert wire.reply().body == body
    assert wire.reply().text == "/path/next"


# -- Expect


def test_100_continue_is_sent_when_the_application_first_asks_for_the_body(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/wait/expect", "Expect: 100-continue", "Content-Length: 4", method="POST"))
    server.log.wait_for("called POST /wait/expect", after=start)
    server.ask("/hello")  # the worker had time enough
    assert wire.is_silent()
    server.ask("/admit/expect")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    wire.send(b"body")
    reply = wire.reply()
    assert (reply.status, reply.body, reply.interim) == (200, b"waited body", [])


def test_100_continue_is_never_sent_where_the_body_is_not_asked_for(server: Server) -> None:
    headers = ("Expect: 100-continue", "Content-Length: 4")
    reply = server.connect(request("/refuse", *headers, method="POST")).reply()
    assert (reply.status, reply.interim) == (413, [])


def test_100_continue_is_not_sent_where_the_body_came_unasked(server: Server) -> None:
    wire = server.connect(request("/body", "Expect: 100-continue", method="POST", body=b"body"))
    reply = wire.reply()
    assert (reply.status, reply.body) == (200, b"body")
    assert reply.interim in ([], [100])  # RFC 9110, 10.1.1: it may be omitted then


# -- applications that fail


@pytest.mark.parametrize("name", ["RuntimeError", "SystemExit", "KeyboardInterrupt", "CancelledError"])
def test_an_application_that_raises_gets_a_500_and_the_worker_lives(server: Server, name: str) -> None:
    pid = server.ask("/pid").text
    start = server.log.position()
    reply = server.ask(f"/fail/{name}")
    assert reply.status == 500
    assert "as the application likes" not in reply.text
    server.log.wait_for("Traceback", after=start)
    server.log.wait_for(f"{name}: as the application likes", after=start)
    assert server.ask("/pid").text == pid


@pytest.mark.parametrize("path", ["/fail_late", "/fail_sized", "/forget_the_end"])
def test_a_reply_that_fails_half_way_is_cut_off_without_a_clean_end(server: Server, path: str) -> None:
    start = server.log.position()
    wire = server.connect(request(path))
    with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
        wire.reply()
    server.log.wait_for("too late for a 500" if "fail" in path else "returned", after=start)


def test_a_failed_reply_that_the_end_of_the_connection_would_complete_is_reset(server: Server) -> None:
    wire = server.connect(request("/fail_late", version="1.0"))
    with pytest.raises(ConnectionResetError):
        wire.rest()


def test_an_application_that_returns_without_a_reply_gets_a_500(server: Server) -> None:
    start = server.log.position()
    assert server.ask("/forget").status == 500
    server.log.wait_for("returned", after=start)


def test_a_client_that_leaves_while_its_reply_is_sent_is_no_error(serve: Serve) -> None:
    server = serve("apps:app", "--graceful-timeout", "5")
    start = server.log.position()
    wire = server.connect(request("/endless"))
    wire.until(b"\r\n\r\n")
    wire.close()
    server.log.wait_for("send raised ClientDisconnected", after=start)
    server.ask("/hello")
    assert not server.log.lines("Traceback", after=start)


def test_a_client_that_leaves_while_its_body_is_awaited_is_no_error(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/careful", "Content-Length: 9", method="POST") + b"part")
    server.log.wait_for("called POST /careful", after=start)
    wire.close()
    server.log.wait_for("receive raised ClientDisconnected .*OSError", after=start)
    server.ask("/hello")
    assert not server.log.lines("Traceback", after=start)


def test_a_client_that_says_no_more_still_gets_its_reply(server: Server) -> None:
    wire = server.connect(request("/wait/half") + request("/path/next"))
    wire.say_no_more()
    server.ask("/admit/half")
    assert wire.reply().body == b"waited "
    assert wire.reply().text == "/path/next"
    assert wire.rest() == b""


# -- context variables


def test_requests_of_one_connection_do_not_share_context_variables(server: Server) -> None:
    wire = server.connect()
    texts = [wire.ask(f"/context/{name}").text for name in ("ann", "ben")]
    assert texts == ["nobody then ann", "nobody then ben"]


def test_pipelined_requests_do_not_share_context_variables(server: Server) -> None:
    wire = server.connect(b"".join(request(f"/context/{name}") for name in ("ann", "ben", "cid")))
    texts = [wire.reply().text for _ in range(3)]
    assert texts == ["nobody then ann", "nobody then ben", "nobody then cid"]
