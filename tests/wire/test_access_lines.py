"""The access log where nothing but lines is made: one for each answer, the same as Gunicorn's logger would make."""

from __future__ import annotations

import gc
import re
import sys
from datetime import timedelta
from typing import Any

import pytest
from corpus import INVALID
from gunicorn.glogging import Logger, SafeAtoms

from uvicorn_worker.access_log import COMBINED, AccessLine, combined_line
from uvicorn_worker.observe import ObservedProtocol, Observer, Recorded
from uvicorn_worker.server import RecordedChannelsExchange, RecordedUpgrade
from uvicorn_worker.views import ResponseView, environ_of

from .access import access_logger, log_accesses, log_accesses_to
from .asgi_apps import asgi_hello
from .conftest import Serve
from .harness import HELLO, CollectorOff, Echo, Gate, Script, asyncio_only, chunked, get, hello, post, turn
from .test_budget import calls_of
from .test_replies import STREAMED, WHOLE
from .websocket_client import Talk, handshake

SHORT = "%(r)s %(s)s %(B)d"

END = b"\r\n\r\n"


@asyncio_only
@pytest.mark.parametrize(("request_", "message", "reply"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_reply_is_the_same_and_has_one_line(
    serve: Serve, request_: bytes, message: dict[str, Any], reply: bytes
) -> None:
    worker = serve(Script(message))
    stream = log_accesses(worker, SHORT)
    assert await worker.connect().ask(request_) == reply
    line = request_.split(b"\r\n")[0].decode()
    assert stream.take() == [f"{line} {message['status']} {len(reply.partition(END)[2])}"]


@asyncio_only
@pytest.mark.parametrize(("request_", "messages", "reply"), STREAMED.values(), ids=STREAMED)
async def test_a_reply_in_parts_is_the_same_and_has_one_line(
    serve: Serve, request_: bytes, messages: list[dict[str, Any]], reply: bytes
) -> None:
    worker = serve(Script(*messages))
    stream = log_accesses(worker, SHORT)
    assert await worker.connect().ask(request_) == reply
    assert len(stream.take()) == 1


# The same line, however it is made.

ATOMS = "\t".join(
    (
        *(f"%({letter})s" for letter in "hlusrmUqHbBfa"),
        "%({host}i)s %({x-a}i)s %({content-type}o)s %({x-b}o)s",
        *(f"%({{{name}}}e)s" for name in ("request_method", "RAW_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL")),
        *(f"%({{{name}}}e)s" for name in ("REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "HTTP_X_A", "wsgi.url_scheme")),
    )
)

ENTRIES = {
    "a reply": get("/a?b=c", "X-A: 1", "X-A: 2", "User-Agent: me", "Referer: b"),
    "a HEAD": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "a body that is refused": chunked("/a", b"b", b"c").replace(b"0\r\n", b"x\r\n"),
    "nothing but garbage": b"garbage\r\n\r\n",
    **{name: case.sent for name, case in INVALID.items() if not case.calls and not case.begun},
}


@asyncio_only
@pytest.mark.parametrize("sent", ENTRIES.values(), ids=ENTRIES)
async def test_a_line_is_what_gunicorns_logger_makes_of_what_it_is_shown(serve: Serve, sent: bytes) -> None:
    lines: list[tuple[str, ...]] = []

    def tell(entry: Any) -> None:
        environ = environ_of(entry, {})
        logger = Logger.__new__(Logger)  # Its __init__ would set up the loggers of this process.
        response = ResponseView(entry, entry.view, closes=False)
        shown = SafeAtoms(logger.atoms(response, entry.view, environ, timedelta(0)))
        own = AccessLine(ATOMS, lambda entry: environ)
        combined = AccessLine(COMBINED, lambda entry: environ)
        lines.append((ATOMS % shown, own.make(entry)))
        lines.append((COMBINED % shown, combined.make(entry), combined_line(entry)))

    worker = serve(Script({"status": 200, "headers": [(b"X-B", b'a "b"'), (b"x-b", b" c ")], "content": b"hello"}))
    worker.exchange_class = RecordedChannelsExchange
    worker.protocol_class = ObservedProtocol
    worker.service.upgrade_class = RecordedUpgrade
    worker.service.observer = Observer(worker.log, lambda *record: None)
    worker.service.observer.tell = tell
    await worker.connect().ask(sent)
    # But for the time, as a second may have passed.
    assert [len({re.sub(r"\[.*?\]", "", line) for line in made}) for made in lines] == [1, 1], lines


# What was refused.

REFUSED = {
    "no Host": (b"GET /a?b HTTP/1.1\r\n\r\n", "GET /a?b HTTP/1.1 400"),
    "two Hosts": (get("/a", "Host: b"), "GET /a HTTP/1.1 400"),
    "a version": (get("/a", version="1.2"), "- - - 505"),
    "a HEAD": (b"HEAD /a HTTP/1.1\r\n\r\n", "HEAD /a HTTP/1.1 400 0"),
    "a HEAD that is too long": (b"HEAD /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /aaa"),
    "a target that is too long": (get("/" + "a" * 70_000), "GET /aaa"),
    "too many fields": (get("/a", *["a: b"] * 1001), "GET /a HTTP/1.1 431"),
    "a coding": (get("/a", "Transfer-Encoding: gzip, chunked"), "GET /a HTTP/1.1 501"),
    "an expectation": (get("/a", "Expect: tea"), "GET /a HTTP/1.1 417"),
    "a method": (get("/a").replace(b"GET", b"FETCH"), "- - - 501"),
    "garbage": (b"garbage\r\n\r\n", "- - - "),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "- - - "),
}


@asyncio_only
@pytest.mark.parametrize(("sent", "line"), REFUSED.values(), ids=REFUSED)
async def test_a_request_that_is_refused_has_one_line_with_what_is_known_of_it(
    serve: Serve, sent: bytes, line: str
) -> None:
    worker = serve()
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    reply = await client.ask(sent)
    status = reply.split()[1].decode()
    size = len(reply.partition(b"\r\n\r\n")[2])
    client.reset()
    await turn()
    [written] = stream.take()
    assert written.startswith(line)
    assert written.endswith(f" {status} {size}")


async def test_a_refusal_behind_other_requests_has_its_line_when_it_is_sent(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate)
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    client.send(get("/1") + get("/2") + get("/3", "Host: b"))
    await turn()
    assert stream.take() == []
    await gate.open()
    await gate.open()
    assert [line[:18] for line in stream.take()] == ["GET /1 HTTP/1.1 20", "GET /2 HTTP/1.1 20", "GET /3 HTTP/1.1 40"]


async def test_a_body_that_is_refused_before_the_answer_has_one_line_with_the_refusal(serve: Serve) -> None:
    worker = serve(Echo())
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    await client.ask_slowly(chunked("/a", b"b")[:-5], b"x\r\n")
    client.reset()
    await turn()
    [line] = stream.take()
    assert line.startswith("POST /a HTTP/1.1 400 ")


async def test_a_body_that_is_refused_after_the_answer_has_the_line_of_the_answer(serve: Serve) -> None:
    worker = serve()
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    await client.ask_slowly(chunked("/a", b"b")[:-5], b"x\r\n")
    client.reset()
    await turn()
    assert stream.take() == ["POST /a HTTP/1.1 200 5"]


async def test_a_body_that_is_refused_within_the_answer_has_a_line_with_what_was_sent(serve: Serve) -> None:
    worker = serve(Script({"status": 200, "content": b"hello", "more_content": True}))
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    client.send(chunked("/a", b"b")[:-5])
    await turn()
    client.send(b"x\r\n")
    await turn()
    assert stream.take() == ["POST /a HTTP/1.1 200 5"]
    worker.log.take()


async def test_a_body_that_is_refused_while_its_request_waits_has_one_line(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate)
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    await client.ask_slowly(get("/1") + chunked("/2", b"b")[:-5], b"x\r\n")
    await gate.open()
    assert [line[:20] for line in stream.take()] == ["GET /1 HTTP/1.1 200 ", "POST /2 HTTP/1.1 400"]


async def test_a_body_that_stalls_has_one_line(serve: Serve) -> None:
    worker = serve(Echo(), timeout=2.0)
    stream = log_accesses(worker, SHORT)
    worker.connect().send(post("/a", b"bc")[:-1])
    await worker.wait(4)
    [line] = stream.take()
    assert line.startswith("POST /a HTTP/1.1 408 ")


async def test_a_head_that_takes_too_long_has_one_line(serve: Serve) -> None:
    worker = serve(head_timeout=2.0)
    stream = log_accesses(worker, SHORT)
    worker.connect().send(b"GET /a HTTP/1.1\r\nHos")
    worker.connect().send(b"GET /b HTTP/1.1\r\nHost: a\r\nA")
    await worker.wait(4)
    assert [line[:20] for line in stream.take()] == ["- - - 408 38", "GET /b HTTP/1.1 408 "]


# What has no answer.


async def test_a_connection_without_a_request_has_no_line(serve: Serve) -> None:
    worker = serve(head_timeout=2.0, keepalive=2.0)
    stream = log_accesses(worker, SHORT)
    worker.connect().reset()
    worker.connect().end()
    worker.connect()
    kept = worker.connect()
    await kept.ask(get("/a"))
    await worker.wait(5)
    assert kept.state == "closed"
    assert stream.take() == ["GET /a HTTP/1.1 200 5"]


async def test_a_client_that_leaves_before_the_answer_has_a_line_with_499(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate)
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    client.send(get("/1") + get("/2") + get("/3", "Host: b"))
    await turn()
    client.reset()
    await turn()
    await gate.open_all()
    assert stream.take() == ["GET /1 HTTP/1.1 499 0"]


async def test_a_client_that_leaves_within_the_answer_has_a_line_with_what_was_sent(serve: Serve) -> None:
    gate = Gate()

    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await channels["reply"].send({"status": 200, "content": b"hello", "more_content": True})
        await gate(message, channels)

    worker = serve(app)
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    client.send(get("/a"))
    await turn()
    assert stream.take() == []
    client.reset()
    await turn()
    assert stream.take() == ["GET /a HTTP/1.1 200 5"]
    await gate.open()
    assert stream.take() == []


# WebSockets.


@pytest.mark.parametrize(
    ("answer", "line"),
    [({"accept": True}, "101 0"), ({"accept": False}, "403 "), ({"status": 401, "content": b"who?"}, "401 4")],
    ids=["accepted", "rejected", "answered by a response"],
)
async def test_a_handshake_has_one_line_when_it_is_answered(serve: Serve, answer: dict[str, Any], line: str) -> None:
    worker = serve(Talk(answer))
    stream = log_accesses(worker, SHORT)
    client = worker.connect()
    await client.ask(handshake("/a?b"))
    [written] = stream.take()
    assert written.startswith(f"GET /a?b HTTP/1.1 {line}")
    client.end()
    await turn()
    assert stream.take() == []


# Writing.


async def test_the_lines_of_one_turn_are_one_write(serve: Serve) -> None:
    worker = serve()
    stream = log_accesses(worker, SHORT)
    first, second = worker.connect(), worker.connect()
    first.send(get("/1"))
    second.send(get("/2") + get("/3"))
    await turn()
    assert sorted(stream.take()) == [f"GET /{number} HTTP/1.1 200 5" for number in (1, 2, 3)]
    assert stream.writes < 3


async def test_a_log_that_can_not_be_written_is_an_error_and_serving_goes_on(serve: Serve) -> None:
    full = open("/dev/full", "w")
    worker = serve()
    log_accesses_to(worker, access_logger(full))
    client = worker.connect()
    assert await client.ask(get() + get()) == HELLO * 2
    assert await client.ask(get()) == HELLO
    assert client.state == "open"
    [line] = worker.log.take()
    assert line.startswith("The access log failed")
    with pytest.raises(OSError, match="No space left"):
        full.close()


async def test_what_an_application_does_to_its_message_does_no_harm_to_the_server(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        message["headers"][:] = [None]
        await hello(message, channels)

    worker = serve(app)
    stream = log_accesses(worker)
    assert await worker.connect().ask(get() + get()) == HELLO * 2
    assert stream.take() == []
    assert [line.partition(":")[0] for line in worker.log.take()] == ["The access log failed"] * 2


# Memory.


def count_living() -> int:
    """How many connections and records there are, among them those that wait for the collector."""
    return sum(isinstance(living, (ObservedProtocol, Recorded)) for living in gc.get_objects())


ENDINGS = {
    "answered": get(),
    "answered before its body came": post("/", b"hello")[:-1],
    "refused": get("/", "Host: b"),
    "a body refused after the answer": chunked("/", b"a")[:-5] + b"x\r\n",
    "in a queue": get() * 20,
}


@pytest.mark.parametrize("records", [False, True], ids=["lines", "records"])
@pytest.mark.parametrize("sent", ENDINGS.values(), ids=ENDINGS)
async def test_nothing_is_left_of_a_connection_for_the_collector(serve: Serve, sent: bytes, records: bool) -> None:
    worker = serve()
    log_accesses(worker, SHORT)
    if records:
        worker.exchange_class = RecordedChannelsExchange
        worker.service.observer = Observer(worker.log, lambda *record: None)
    with CollectorOff():
        client = worker.connect()
        await client.ask_slowly(sent[:-3], sent[-3:])
        assert count_living() > 0
        client.reset()
        await turn()
        worker.clients.clear()
        del client
        assert count_living() == 0


# Cost.

#: Calls of this package's functions for a small request with Gunicorn's own format, more than without a log.
MOST_CALLS_FOR_LINE = 7


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
@pytest.mark.parametrize("interface", ["channels", "asgi"])
async def test_a_line_costs_few_calls(serve: Serve, interface: str) -> None:
    plain, logging = (serve.asgi(asgi_hello) if interface == "asgi" else serve() for _ in range(2))
    stream = log_accesses(logging)
    sent = get("/", "User-Agent: a", "Referer: b")
    calls = await calls_of(logging.connect(), sent, HELLO)
    assert len(stream.take()) == 4
    assert calls.total() - (await calls_of(plain.connect(), sent, HELLO)).total() <= MOST_CALLS_FOR_LINE, calls
