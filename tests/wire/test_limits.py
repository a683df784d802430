"""Limits of a request, at their boundaries, and while what goes over them is still arriving."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Serve
from .harness import HELLO, Echo, asyncio_only, get, ok, post, turn

SLICE = 16 * 1024
KIB = 1024

#: The ways in which a request may arrive.
WAYS = {"whole": None, "in pieces of 1000": 1000, "in pieces of a slice": SLICE, "in pieces of 7": 7}


def cut(sent: bytes, size: int | None) -> list[bytes]:
    return [sent[start : start + size] for start in range(0, len(sent), size)] if size else [sent]


def with_line(length: int) -> bytes:
    """A request with a request line of so many bytes, without its end."""
    return get("/" + "a" * (length - len("GET / HTTP/1.1")))


def with_field(length: int) -> bytes:
    """A request with a field line of so many bytes, its end included."""
    return get("/", "X: " + "a" * (length - len("X: \r\n")))


def with_fields(count: int) -> bytes:
    return get("/", *(f"X-{number}: a" for number in range(count - 1)))  # beside Host


def with_head(length: int, field_length: int = 8000) -> bytes:
    """A request with a head of so many bytes, all line ends included, in fields of no great size."""
    fields = []
    while (missing := length - len(get("/", *fields))) > 0:
        size = missing if missing <= field_length else min(field_length, missing - 10)
        fields.append("X: " + "a" * (size - len("X: \r\n")))
    assert len(get("/", *fields)) == length
    return get("/", *fields)


BOUNDARIES = {
    "a line, set": ({"request_line_limit": 100}, with_line, 100, 414),
    "a line of 4094, set": ({"request_line_limit": 4094}, with_line, 4094, 414),
    "a line longer than a slice, set": ({"request_line_limit": 20_000}, with_line, 20_000, 414),
    "a field, set": ({"field_size_limit": 100}, with_field, 100, 431),
    "a field of 8190, set": ({"field_size_limit": 8190}, with_field, 8190, 431),
    "a field longer than a slice, set": ({"field_size_limit": 20_000}, with_field, 20_000, 431),
    "fields, set": ({"field_count_limit": 10}, with_fields, 10, 431),
    "fields by default": ({}, with_fields, 1000, 431),
    "fields, many, set": ({"field_count_limit": 1500}, with_fields, 1500, 431),
}


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("settings", "make", "limit", "status"), BOUNDARIES.values(), ids=BOUNDARIES)
async def test_a_limit_is_reached_and_not_gone_over(
    serve: Serve, settings: dict[str, Any], make: Any, limit: int, status: int, size: int | None
) -> None:
    app = Echo()
    worker = serve(app, **settings)
    for length in (limit - 1, limit):
        client = worker.connect()
        assert (await client.ask(*cut(make(length), size))).startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.state == "open"
    assert len(app.calls) == 2
    client = worker.connect()
    reply = await client.ask(*cut(make(limit + 1) + get("/smuggled"), size))
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert reply.count(b"HTTP/1.1") == 1
    assert client.has_ended
    assert len(app.calls) == 2


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("settings", "make", "limit", "status"), BOUNDARIES.values(), ids=BOUNDARIES)
async def test_a_limit_holds_for_a_request_behind_others(
    serve: Serve, settings: dict[str, Any], make: Any, limit: int, status: int, size: int | None
) -> None:
    worker = serve(**settings)
    client = worker.connect()
    assert await client.ask(*cut(get("/") + make(limit) + make(limit), size)) == HELLO * 3
    reply = await client.ask(*cut(get("/") + make(limit + 1) + get("/"), size))
    assert reply.startswith(HELLO + b"HTTP/1.1 %d " % status)
    assert reply.count(b"HTTP/1.1") == 2


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
async def test_a_head_may_have_64_kib(serve: Serve, size: int | None) -> None:
    worker = serve()
    client = worker.connect()
    assert await client.ask(*cut(with_head(64 * KIB), size)) == HELLO
    assert await client.ask(*cut(with_head(64 * KIB) + with_head(64 * KIB), size)) == HELLO * 2
    reply = await client.ask(*cut(with_head(64 * KIB + 16) + get("/smuggled"), size))
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert client.has_ended


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
async def test_one_field_or_the_line_may_take_most_of_the_head(serve: Serve, size: int | None) -> None:
    worker = serve()
    for long in (with_line(60 * KIB), with_field(60 * KIB)):
        assert await worker.connect().ask(*cut(long, size)) == HELLO
    assert (await worker.connect().ask(*cut(with_line(66 * KIB), size))).startswith(b"HTTP/1.1 414 ")
    assert (await worker.connect().ask(*cut(with_field(66 * KIB), size))).startswith(b"HTTP/1.1 431 ")


async def test_limits_that_are_set_do_not_add_up_to_less_than_each(serve: Serve) -> None:
    """As :func:`settings_under` has it, the head has room for all fields at their limit."""
    worker = serve(field_size_limit=8190, field_count_limit=100, head_limit=100 * 8190)
    fields = ["X: " + "a" * (8190 - len("X: \r\n"))] * 99
    assert await worker.connect().ask(get("/", *fields)) == HELLO
    assert (await worker.connect().ask(get("/", *fields, "X: a"))).startswith(b"HTTP/1.1 431 ")


# What never ends is refused while it arrives. Nobody waits for a line or a head to be complete.


FLOODS = {
    "a line": ({}, (b"GET /", b"a" * 1000), 64 * KIB, 414),
    "a line, with a limit": ({"request_line_limit": 4094}, (b"GET /", b"a" * 1000), 4094, 414),
    "spaces behind the target": ({}, (b"GET / ", b" " * 1000), 64 * KIB, None),
    "a field name": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a" * 1000), 64 * KIB, 431),
    "a field value": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 1000), 64 * KIB, 431),
    "a field value, with a limit": (
        {"field_size_limit": 8190},
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 1000),
        8190,
        431,
    ),
    "a field name, with a limit": (
        {"field_size_limit": 8190},
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a" * 1000),
        8190,
        431,
    ),
    "white space before a value": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\nX:", b" " * 1000), 64 * KIB, 431),
    "white space behind a value": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\nX: a", b" " * 1000), 64 * KIB, 431),
    "white space before a value, with a limit": (
        {"field_size_limit": 8190},
        (b"GET / HTTP/1.1\r\nHost: a\r\nX:", b" " * 1000),
        8190,
        431,
    ),
    "fields": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 100), 6 * 1000, 431),
    "long fields": ({}, (b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: " + b"b" * 995 + b"\r\n"), 64 * KIB, 431),
    "fields, with a limit": ({"field_count_limit": 10}, (b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n"), 60, 431),
    "the first field": ({}, (b"GET / HTTP/1.1\r\nX: ", b"a" * 1000), 64 * KIB, None),
    "the name of the first field": ({}, (b"GET / HTTP/1.1\r\n", b"a" * 1000), 64 * KIB, None),
    "line ends before the request": ({}, (b"", b"\r\n" * 500), 16, 400),
    "spaces before the target": ({}, (b"GET ", b" " * 1000), 32, 400),
    "trailers": (
        {},
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 100),
        16 * KIB + SLICE,
        400,
    ),
    "a trailer": (
        {},
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", b"a" * 1000),
        16 * KIB + SLICE,
        400,
    ),
    "an extension of a chunk": (
        {},
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 1000),
        16 * KIB + SLICE,
        400,
    ),
    "extensions of many chunks": (
        {},
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            (b"1;" + b"a" * 100 + b"\r\nb\r\n") * 10,
        ),
        (16 * KIB + SLICE) * 5 // 4,
        400,
    ),
    "an extension of the last chunk": (
        {},
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0;", b"a" * 1000),
        16 * KIB + SLICE,
        400,
    ),
    "zeros of a size": (
        {},
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
        16 * KIB + SLICE,
        400,
    ),
}


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("before", [b"", get("/")], ids=["first", "behind a request"])
@pytest.mark.parametrize(("settings", "flood", "bound", "status"), FLOODS.values(), ids=FLOODS)
async def test_what_never_ends_is_refused_while_it_arrives(
    serve: Serve,
    settings: dict[str, Any],
    flood: tuple[bytes, bytes],
    bound: int,
    status: int | None,
    before: bytes,
    size: int | None,
) -> None:
    async def app(message: dict, channels: dict) -> None:
        while (await channels["body"].receive())["more_content"] if "body" in channels else False:
            pass
        await channels["reply"].send({"status": 200, "content": b"hello"})

    client = serve(app, **settings).connect()
    # One slice beyond the bound is allowed, and one more before it where its beginning can't be told.
    begin, more = flood
    sent = before + begin + more * ((bound + 2 * SLICE) // len(more) + 1)
    for piece in cut(sent, size):
        client.send(piece)
    await turn()
    reply = client.take()
    assert reply.count(b"HTTP/1.1") == 1 + bool(before)
    if before:
        assert reply.startswith(HELLO)
    refusal = reply.removeprefix(HELLO)
    assert refusal.startswith(b"HTTP/1.1 %d " % status if status else b"HTTP/1.1 4")
    assert client.has_ended


async def test_a_few_line_ends_before_each_request_are_no_flood(serve: Serve) -> None:
    client = serve().connect()
    for _ in range(20):
        assert await client.ask(*[b"\r\n"] * 8, get("/")) == HELLO
    assert await client.ask(*[b"\r\n"] * 17) != b""
    assert client.has_ended


CHUNKED = b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
async def test_small_extensions_and_trailers_are_no_flood(serve: Serve, size: int | None) -> None:
    app = Echo()
    client = serve(app).connect()
    sent = CHUNKED % 1 + b"3;name=value\r\nabc\r\n" * 100 + b"0\r\n" + b"Trailer: dropped\r\n" * 100 + b"\r\n"
    for _ in range(20):
        assert await client.ask(*cut(sent, size)) == ok(b"POST /1 " + b"abc" * 100)


@asyncio_only
@pytest.mark.parametrize("size", WAYS.values(), ids=WAYS)
async def test_a_long_body_in_small_chunks_is_no_flood(serve: Serve, size: int | None) -> None:
    client = serve(Echo()).connect()
    sent = CHUNKED % 2 + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    assert await client.ask(*cut(sent, size)) == ok(b"POST /2 " + b"x" * 5000)


async def test_trailers_are_dropped(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        while (await channels["body"].receive())["more_content"] if "body" in channels else False:
            pass
        seen.append((message["path"], message["headers"]))
        await channels["reply"].send({"status": 200, "content": b"hello"})

    client = serve(app).connect()
    sent = CHUNKED % 3 + b"1\r\nx\r\n0\r\nHost: evil\r\nExpect: tea\r\nX: y\r\n\r\n" + get("/after")
    for size in (None, 50, 1):
        assert await client.ask(*cut(sent, size)) == HELLO * 2
    assert seen == [
        ("/3", [[b"host", b"a"], [b"transfer-encoding", b"chunked"]]),
        ("/after", [[b"host", b"a"]]),
    ] * 3


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: gzip, chunked", b"Connection: close"])
async def test_a_trailer_that_would_change_the_framing_changes_nothing_or_is_refused(
    serve: Serve, trailer: bytes
) -> None:
    app = Echo()
    client = serve(app).connect()
    reply = await client.ask(CHUNKED % 4 + b"1\r\nx\r\n0\r\n" + trailer + b"\r\n\r\n" + get("/after"))
    if reply != ok("POST /4 x") + ok("GET /after "):
        assert reply.removeprefix(ok("POST /4 x")).startswith(b"HTTP/1.1 400 ")
        assert client.has_ended
        assert app.calls == ["POST /4"]


async def test_fields_that_came_with_a_refusal_are_let_go(serve: Serve) -> None:
    client = serve().connect()
    await client.ask(*cut(with_head(80 * KIB), 4000))
    assert client.has_ended
    assert await client.ask(*[b"x" * 60_000] * 10) == b""
    assert client.transport.unread == 0


async def test_a_head_whose_method_ends_a_slice_is_held_to_the_limits(serve: Serve) -> None:
    client = serve(Echo(), request_line_limit=20).connect()
    head_size = len(post("/", b"a" * 10000)) - 10000
    body = b"a" * (SLICE - len("G") - head_size)
    reply = await client.ask(post("/", body) + with_line(21))
    assert reply.startswith(ok(b"POST / " + body) + b"HTTP/1.1 414 ")
