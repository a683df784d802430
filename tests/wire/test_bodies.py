"""The body of a request: as it is received, asked for, and left unread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .conftest import Serve
from .harness import HELLO, Echo, chunked, get, hello, ok, post, read_body, turn

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Reader:
    """Receives when a test says so, and keeps what it gets."""

    def __init__(self) -> None:
        self.parts: list[tuple[bytes, bool]] = []
        self.error: Exception | None = None
        self._go_on = asyncio.Semaphore(0)

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        while True:
            await self._go_on.acquire()
            try:
                part = await channels["body"].receive()
            except Exception as error:
                self.error = error
                raise
            assert set(part) == {"content", "more_content"}
            self.parts.append((part["content"], part["more_content"]))
            if not part["more_content"]:
                break
        await channels["reply"].send({"status": 204})

    async def receive(self) -> None:
        self._go_on.release()
        await turn()


async def test_there_is_no_body_channel_where_there_is_no_body(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(set(channels))
        await hello(message, channels)

    client = serve(app).connect()
    await client.ask(get(), post("/", b""), post("/", b"x"), chunked("/"))
    assert seen == [{"reply", "groups"}] * 2 + [{"reply", "groups", "body"}] * 2


async def test_a_body_that_came_whole_is_one_part(serve: Serve) -> None:
    app = Reader()
    client = serve(app).connect()
    client.send(post("/", b"hello"))
    await turn()
    await app.receive()
    assert app.parts == [(b"hello", False)]


async def test_a_body_is_received_as_it_comes(serve: Serve) -> None:
    app = Reader()
    client = serve(app).connect()
    sent = post("/", b"0123456789")
    client.send(sent[:-10], b"01", b"23")
    await turn()
    await app.receive()
    assert app.parts == [(b"0123", True)]
    await app.receive()
    assert len(app.parts) == 1
    client.send(b"4")
    await turn()
    assert app.parts[1:] == [(b"4", True)]
    client.send(b"56789")
    await app.receive()
    assert app.parts[2:] == [(b"56789", False)]


async def test_the_end_of_a_chunked_body_may_come_by_itself(serve: Serve) -> None:
    app = Reader()
    client = serve(app).connect()
    client.send(chunked("/", b"hello").removesuffix(b"0\r\n\r\n"))
    await turn()
    await app.receive()
    await app.receive()
    assert app.parts == [(b"hello", True)]
    client.send(b"0\r\n\r\n")
    await turn()
    assert app.parts == [(b"hello", True), (b"", False)]


async def test_after_the_last_part_there_are_empty_ones_at_once(serve: Serve) -> None:
    parts = []

    async def app(message: dict, channels: dict) -> None:
        await read_body(channels)
        for _ in range(3):
            parts.append(await channels["body"].receive())
        await hello(message, channels)

    assert await serve(app).connect().ask(post("/", b"x")) == HELLO
    assert parts == [{"content": b"", "more_content": False}] * 3


async def test_the_body_can_be_received_after_the_reply(serve: Serve) -> None:
    bodies = []

    async def app(message: dict, channels: dict) -> None:
        await hello(message, channels)
        bodies.append(await read_body(channels))

    client = serve(app).connect()
    sent = post("/", b"hello")
    assert await client.ask(sent[:-2]) == HELLO
    assert await client.ask(sent[-2:] + post("/", b"again")) == HELLO
    assert bodies == [b"hello", b"again"]


async def test_two_tasks_that_receive_share_the_parts(serve: Serve) -> None:
    outcomes = []

    async def app(message: dict, channels: dict) -> None:
        outcomes.extend(await asyncio.gather(channels["body"].receive(), channels["body"].receive()))
        await hello(message, channels)

    client = serve(app).connect()
    sent = post("/", b"xy")
    assert await client.ask(sent[:-2]) == b""
    assert await client.ask(b"x") == b""
    assert await client.ask(b"y") == HELLO
    assert outcomes == [{"content": b"x", "more_content": True}, {"content": b"y", "more_content": False}]


async def test_a_receive_that_was_cancelled_loses_nothing(serve: Serve) -> None:
    bodies = []

    async def app(message: dict, channels: dict) -> None:
        receive = asyncio.ensure_future(channels["body"].receive())
        await asyncio.sleep(0)
        receive.cancel()
        await asyncio.sleep(0)
        bodies.append(await read_body(channels))
        await hello(message, channels)

    client = serve(app).connect()
    sent = post("/", b"x")
    await client.ask(sent[:-1])
    assert await client.ask(sent[-1:]) == HELLO
    assert bodies == [b"x"]


async def test_a_body_that_is_received_after_the_application_has_ended_was_dropped(serve: Serve) -> None:
    tasks = []

    async def app(message: dict, channels: dict) -> None:
        if "body" in channels:
            tasks.append(asyncio.ensure_future(channels["body"].receive()))
        await hello(message, channels)

    client = serve(app).connect()
    sent = post("/", b"hello")
    assert await client.ask(sent[:-2]) == HELLO
    [outcome] = await asyncio.gather(*tasks, return_exceptions=True)
    assert type(outcome) is ClientDisconnected
    assert await client.ask(sent[-2:] + get("/")) == HELLO


async def test_a_client_that_goes_within_the_body_raises_out_of_receive(serve: Serve) -> None:
    for goes in ("reset", "end"):
        app = Reader()
        client = serve(app).connect()
        client.send(post("/", b"0123456789")[:-5])
        await turn()
        await app.receive()
        await app.receive()
        getattr(client, goes)()
        await turn()
        assert app.parts == [(b"01234", True)]
        assert type(app.error) is ClientDisconnected
        assert isinstance(app.error, OSError)
        assert client.received == b""
        assert client.has_ended


async def test_what_came_before_the_client_went_is_received_first(serve: Serve) -> None:
    app = Reader()
    client = serve(app).connect()
    client.send(post("/", b"0123456789")[:-5])
    await turn()
    client.reset()
    await turn()
    await app.receive()
    assert app.parts == [(b"01234", True)]
    await app.receive()
    assert type(app.error) is ClientDisconnected


# Expect: 100-continue (RFC 9110 section 10.1.1).

EXPECTING = post("/", b"hello", "Expect: 100-continue").removesuffix(b"hello")
EXPECTING_CHUNKS = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [(EXPECTING, b"hello"), (EXPECTING_CHUNKS, b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["sized", "chunked"],
)
async def test_100_is_sent_when_the_body_is_first_asked_for(serve: Serve, head: bytes, body: bytes) -> None:
    app = Reader()
    client = serve(app).connect()
    assert await client.ask(head) == b""
    await app.receive()
    assert client.take() == CONTINUE
    assert client.take_writes() == [CONTINUE]
    await app.receive()
    reply = await client.ask(body + get("/after")[:5])
    assert reply == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert b"".join(content for content, _ in app.parts) == b"hello"
    assert client.state == "open"


async def test_100_is_sent_once(serve: Serve) -> None:
    client = serve(Echo()).connect()
    assert await client.ask(EXPECTING) == CONTINUE
    assert await client.ask(b"he") == b""
    assert await client.ask(b"llo") == ok("POST / hello")


async def test_100_is_not_sent_where_the_body_comes_unasked(serve: Serve) -> None:
    client = serve(Echo()).connect()
    assert await client.ask(EXPECTING + b"hello") == ok("POST / hello")
    assert await client.ask(EXPECTING + b"h", b"ello") == ok("POST / hello")


async def test_100_is_not_sent_where_there_is_no_body(serve: Serve) -> None:
    client = serve(Echo()).connect()
    assert await client.ask(get("/", "Expect: 100-continue")) == ok("GET / ")
    assert await client.ask(post("/", b"", "Expect: 100-continue")) == ok("POST / ")


async def test_a_body_that_was_not_asked_for_ends_the_connection(serve: Serve) -> None:
    """What follows can't be told to be the body or a request."""
    client = serve().connect()
    assert await client.ask(EXPECTING) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    assert client.state == "half-closed"
    assert await client.ask(get("/smuggled")) == b""


async def test_100_is_not_sent_after_the_reply_has_begun(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        body = await read_body(channels)
        await channels["reply"].send({"content": body})

    client = serve(app).connect()
    reply = await client.ask(EXPECTING)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"1\r\na\r\n")
    assert await client.ask(b"hello") == b"5\r\nhello\r\n0\r\n\r\n"


async def test_100_waits_for_its_turn_in_a_pipeline(serve: Serve) -> None:
    app = Reader()

    async def first_slowly(message: dict, channels: dict) -> None:
        if "body" in channels:
            await read_body(channels)
        else:
            await app._go_on.acquire()
        await hello(message, channels)

    client = serve(first_slowly).connect()
    assert await client.ask(get() + EXPECTING) == b""
    app._go_on.release()
    await turn()
    assert client.take() == HELLO + CONTINUE
    assert await client.ask(b"hello") == HELLO


# What the application leaves unread.

LIMIT = 64 * 1024


@pytest.mark.parametrize("kind", ["sized", "chunked"])
async def test_an_unread_body_up_to_the_limit_is_dropped_and_the_connection_kept(serve: Serve, kind: str) -> None:
    body = bytes(LIMIT)
    sent = post("/", body) if kind == "sized" else chunked("/", body[:30_000], body[30_000:])
    client = serve().connect()
    for size in (len(sent), 40_000, 999):
        assert await client.ask(sent[:100]) == HELLO
        assert await client.ask(*(sent[start : start + size] for start in range(100, len(sent), size))) == b""
        assert client.state == "open"
        assert await client.ask(get()) == HELLO


async def test_an_unread_body_past_the_limit_is_announced_where_its_length_is_known(serve: Serve) -> None:
    client = serve().connect()
    sent = post("/", bytes(LIMIT + 1))
    head = sent[: -LIMIT - 1]
    reply = await client.ask(head)
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    assert client.state == "half-closed"
    assert await client.ask(bytes(LIMIT + 1) + get("/smuggled")) == b""
    assert client.transport.unread == 0


async def test_an_unread_body_past_the_limit_ends_the_connection_where_its_length_is_not_known(serve: Serve) -> None:
    client = serve().connect()
    sent = chunked("/", *[bytes(10_000)] * 20)
    assert await client.ask(sent[:100]) == HELLO
    assert await client.ask(sent[100:60_000]) == b""
    assert client.state == "open"
    assert await client.ask(sent[60_000:80_000]) == b""
    assert client.state == "half-closed"
    assert await client.ask(sent[80_000:] + get("/smuggled")) == b""
    assert client.transport.unread == 0


async def test_what_the_application_has_left_of_a_long_body_is_measured_when_it_replies(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        received = 0
        while "body" in channels and received < 200_000:
            received += len((await channels["body"].receive())["content"])
        await hello(message, channels)

    client = serve(app).connect()
    sent = post("/", bytes(200_000 + LIMIT))
    client.send(sent[:-LIMIT])
    await turn(100)
    assert client.take() == HELLO
    assert await client.ask(sent[-LIMIT:] + get("/")) == HELLO
    assert client.state == "open"


async def test_the_limit_of_an_unread_body_is_an_option(serve: Serve) -> None:
    worker = serve(unread_body_limit=0)
    client = worker.connect()
    assert await client.ask(post("/", b"x")) == HELLO  # It has been read, if not by the application.
    assert client.state == "open"
    reply = await client.ask(post("/", b"xy")[:-2])
    assert b"connection: close" in reply
    assert client.has_ended


async def test_a_request_behind_an_unread_body_is_answered(serve: Serve) -> None:
    client = serve().connect()
    assert await client.ask(post("/", bytes(50_000)) + get() + chunked("/", bytes(50_000)) + get()) == HELLO * 4
    assert client.state == "open"


async def test_a_reply_without_the_body_waits_for_neither(serve: Serve) -> None:
    client = serve().connect()
    sent = post("/", b"0123456789")
    assert await client.ask(sent[:-10]) == HELLO
    assert await client.ask(sent[-10:] + get()) == HELLO
