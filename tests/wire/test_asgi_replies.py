"""What an ASGI 3 application sends, as the client gets it: heads, bodies, transport writes, and errors of ``send``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.config import COPY_BOUND
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply

from .asgi_apps import Event, Puppet, Receive, Script, Send, asgi_hello, last, part, start
from .conftest import Serve
from .harness import HELLO, Client, get, turn

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
LENGTH_5 = (b"content-length", b"5")
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def reply_to(serve: Serve, request: bytes, *events: Event | None, **settings: Any) -> tuple[bytes, Client]:
    app = Script(*events)
    client = serve.asgi(app, **settings).connect()
    reply = await client.ask(request)
    assert app.error is None
    return reply, client


WHOLE: dict[str, tuple[bytes, list[Event], bytes]] = {
    "a body": (get(), [start(), last(b"hello")], HELLO),
    "neither headers nor a body": (
        get(),
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}],
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    "fields in order, repeats and spelling kept": (
        get(),
        [start(201, (b"X-B", b"1"), (b"x-a", b"2"), (b"X-B", b"3"), (b"x-empty", b"")), last()],
        b"HTTP/1.1 201 Created\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nx-empty: \r\ncontent-length: 0\r\n\r\n",
    ),
    "fields as lists": (
        get(),
        [{"type": "http.response.start", "status": 200, "headers": [[b"x-a", b"1"]]}, last()],
        b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n",
    ),
    "its own length": (get(), [start(200, LENGTH_5), last(b"hello")], HELLO),
    "its own length, as it may be spelled": (get(), [start(200, (b"Content-Length", b"5")), last(b"hello")], HELLO),
    "its own length with zeros before": (get(), [start(200, (b"content-length", b"005")), last(b"hello")], HELLO),
    "its own length twice": (get(), [start(200, LENGTH_5, LENGTH_5), last(b"hello")], HELLO),
    "its own transfer coding, which is the server's to choose": (
        get(),
        [start(200, (b"transfer-encoding", b"chunked")), last(b"hello")],
        HELLO,
    ),
    "the end of the connection": (
        get(),
        [start(200, (b"Connection", b"close")), last(b"hello")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    ),
    "a status without a known phrase": (
        get(),
        [start(599), last()],
        b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n",
    ),
    "HEAD": (HEAD, [start(), last(b"hello")], b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    "HEAD with a length and no body": (
        HEAD,
        [start(200, LENGTH_5), last()],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    ),
    "204": (get(), [start(204), last()], b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a body": (get(), [start(204, LENGTH_5), last(b"hello")], b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (get(), [start(304), last()], b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "304 with the length of what it stands for": (
        get(),
        [start(304, LENGTH_5), last()],
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    ),
    "HTTP/1.0": (
        OLD,
        [start(), last(b"hello")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    ),
    "HTTP/1.0 that is kept": (
        OLD_KEPT,
        [start(), last(b"hello")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello",
    ),
    "an end that is empty": (get(), [start(200, LENGTH_5), part(b"hello"), last()], HELLO),
    "parts": (get(), [start(), part(b"a")], CHUNKED_HEAD + b"1\r\na\r\n"),
}


@pytest.mark.parametrize(("request_", "events", "reply"), WHOLE.values(), ids=WHOLE)
async def test_a_start_leaves_with_the_first_body_of_the_same_turn_in_one_write(
    serve: Serve, request_: bytes, events: list[Event], reply: bytes
) -> None:
    app = Script(*events)
    worker = serve.asgi(app)
    client = worker.connect()
    client.send(request_)
    await turn()
    worker.log.take()  # The application of parts has returned within them.
    assert app.error is None
    assert client.take_writes()[0] == reply


PARTS: dict[str, tuple[bytes, list[Event | None], bytes, str]] = {
    "chunks": (
        get(),
        [start(), part(b"hello"), part(b""), part(b" "), last(b"world")],
        CHUNKED_HEAD + b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n",
        "open",
    ),
    "a whole body in a later turn": (
        get(),
        [start(), None, last(b"hello")],
        CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n",
        "open",
    ),
    "a declared length": (
        get(),
        [start(200, LENGTH_5), None, part(b"he"), part(b"llo"), last()],
        HELLO,
        "open",
    ),
    "a declared length to HTTP/1.0": (
        OLD_KEPT,
        [start(200, LENGTH_5), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello",
        "open",
    ),
    "up to the end of the connection of HTTP/1.0": (
        OLD_KEPT,
        [start(), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
        "closed",
    ),
    "HEAD": (HEAD, [start(), part(b"he"), last(b"llo")], CHUNKED_HEAD, "open"),
    "204": (get(), [start(204), None, part(b"he"), last()], b"HTTP/1.1 204 No Content\r\n\r\n", "open"),
    "304": (get(), [start(304), part(b"he"), last()], b"HTTP/1.1 304 Not Modified\r\n\r\n", "open"),
}


@pytest.mark.parametrize(("request_", "events", "reply", "state"), PARTS.values(), ids=PARTS)
async def test_a_body_in_parts(
    serve: Serve, request_: bytes, events: list[Event | None], reply: bytes, state: str
) -> None:
    received, client = await reply_to(serve, request_, *events)
    assert received == reply
    assert client.state == state
    if state == "open":
        assert await client.ask(request_) == reply


async def test_a_start_without_a_body_leaves_at_the_end_of_the_turn(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    await app.sends(start(200, LENGTH_5))
    assert client.take_writes() == [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]
    await app.sends(last(b"hello"))
    assert client.take_writes() == [b"hello"]


async def test_starts_of_several_connections_in_one_turn_all_leave(serve: Serve) -> None:
    worker = serve.asgi(Script(start(), None, None, last()))
    clients = [worker.connect() for _ in range(10)]
    for client in clients:
        client.send(get())
    await turn()
    assert [client.take_writes() for client in clients] == [[CHUNKED_HEAD, b"0\r\n\r\n"]] * 10


async def test_a_client_that_has_gone_does_not_keep_other_starts_back(serve: Serve) -> None:
    app = Script(start(), None, None, last())
    worker = serve.asgi(app)
    clients = [worker.connect() for _ in range(3)]
    for client in clients:
        client.send(get())
    clients[1].reset()
    await turn()
    assert clients[0].take() == clients[2].take() == CHUNKED_HEAD + b"0\r\n\r\n"
    assert isinstance(app.error, ClientDisconnected)


@pytest.mark.parametrize("length", ["5", b"9" * 5000], ids=["text", "5000 digits"])
async def test_a_length_that_can_not_be_read_keeps_no_other_start_back(serve: Serve, length: Any) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        if scope["path"] == "/bad":
            with pytest.raises(InvalidReply):
                await send(start(200, (b"content-length", length)))
            await asyncio.sleep(0)
            await asgi_hello(scope, receive, send)
        else:
            await send(start(200, LENGTH_5))
            await asyncio.sleep(0)
            await send(last(b"hello"))

    worker = serve.asgi(app)
    clients = [worker.connect() for _ in range(3)]
    for client, path in zip(clients, ("/", "/bad", "/"), strict=True):
        client.send(get(path))
    await turn()
    assert [client.take() for client in clients] == [HELLO] * 3


async def test_a_long_body_is_not_copied_behind_its_head(serve: Serve) -> None:
    for size in (COPY_BOUND, COPY_BOUND + 1):
        _, client = await reply_to(serve, get(), start(), last(bytes(size)))
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
        pieces = client.take_pieces()
        assert b"".join(pieces) == head + bytes(size)
        assert len(pieces) == (1 if size == COPY_BOUND else 2)


@pytest.mark.parametrize("body", [bytearray(b"hello"), memoryview(b"hello"), memoryview(b"h.e.l.l.o")[::2]])
async def test_a_body_may_be_any_bytes(serve: Serve, body: Any) -> None:
    assert (await reply_to(serve, get(), start(), last(body)))[0] == HELLO
    reply, _ = await reply_to(serve, get(), start(200, LENGTH_5), part(body), last())
    assert reply == HELLO


async def test_a_body_that_changes_after_it_was_sent_is_sent_as_it_was(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    client.stop_reading()
    body = bytearray(b"hello")
    await app.sends(start(), last(body))  # type: ignore[arg-type]
    body[:] = b"other"
    client.read()
    assert client.take() == HELLO


async def test_the_send_of_a_whole_reply_waits_for_a_client_that_reads_too_slowly(serve: Serve) -> None:
    returned: list[None] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await send(start())
        await send(last(bytes(16_000)))
        returned.append(None)

    client = serve.asgi(app).connect()
    client.stop_reading()
    for _ in range(5):
        client.send(get())
        await turn()
    assert len(returned) == 4
    client.read()
    await turn()
    assert len(returned) == 5


async def test_fields_may_be_any_iterable(serve: Serve) -> None:
    for headers in (((b"x-a", b"1"),), iter([(b"x-a", b"1")]), {b"x-a": b"1"}.items()):
        begin = {"type": "http.response.start", "status": 200, "headers": headers}
        reply, _ = await reply_to(serve, get(), begin, last())
        assert reply == b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n"


async def test_what_the_server_adds_gives_way_to_what_the_application_says(serve: Serve) -> None:
    settings = {"server_header": b"mine", "headers": ((b"x-all", b"1"),)}
    reply, _ = await reply_to(serve, get(), start(), last(), **settings)
    assert reply == b"HTTP/1.1 200 OK\r\nserver: mine\r\nx-all: 1\r\ncontent-length: 0\r\n\r\n"
    reply, _ = await reply_to(serve, get(), start(200, (b"server", b"other")), last(), **settings)
    assert reply == b"HTTP/1.1 200 OK\r\nx-all: 1\r\nserver: other\r\ncontent-length: 0\r\n\r\n"


async def test_the_next_request_is_answered_as_soon_as_the_reply_is_complete(serve: Serve) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        await asgi_hello(scope, receive, send)
        await asyncio.get_running_loop().create_future()

    client = serve.asgi(app).connect()
    assert await client.ask(get() + get()) == HELLO * 2


# What can't be sent.

REFUSED: dict[str, tuple[list[Event | None], type[Exception]]] = {
    "a body without a start": ([last(b"a")], IllegalMove),
    "a part without a start": ([part(b"a")], IllegalMove),
    "a second start in the same turn": ([start(), start()], IllegalMove),
    "an event of another kind": ([{"type": "http.response.other"}], IllegalMove),
    "an event of a WebSocket": ([{"type": "websocket.accept"}], IllegalMove),
    "an interim status": ([start(103)], InvalidReply),
    "a switch of protocols": ([start(101)], InvalidReply),
    "a status that is none": ([start(99)], InvalidReply),
    "a status that is too high": ([start(600)], InvalidReply),
    "a status in words": ([{"type": "http.response.start", "status": "200"}], InvalidReply),
    "no status": ([{"type": "http.response.start"}], KeyError),
    "a line feed": ([start(200, (b"x-a", b"b\nc: d"))], InvalidReply),
    "a carriage return": ([start(200, (b"x-a", b"b\r"))], InvalidReply),
    "a NUL": ([start(200, (b"x-a", b"b\0"))], InvalidReply),
    "a name that is none": ([start(200, (b"x a", b"b"))], InvalidReply),
    "an empty name": ([start(200, (b"", b"b"))], InvalidReply),
    "text as a value": ([start(200, (b"x-a", "b"))], InvalidReply),  # type: ignore[arg-type]
    "text as a name": ([start(200, ("x-a", b"b"))], InvalidReply),  # type: ignore[arg-type]
    "text as a length": ([start(200, (b"content-length", "5"))], InvalidReply),  # type: ignore[arg-type]
    "headers that are none": ([{"type": "http.response.start", "status": 200, "headers": 5}], InvalidReply),
    "a triple": ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b", b"c")]}], InvalidReply),
    "a length that is none": ([start(200, (b"content-length", b"five"))], InvalidReply),
    "a negative length": ([start(200, (b"content-length", b"-5"))], InvalidReply),
    "two lengths": ([start(200, LENGTH_5, (b"content-length", b"6"))], InvalidReply),
    "text as a body": ([start(), last("hello")], InvalidReply),  # type: ignore[arg-type]
    "nothing as a body": ([start(), last(None)], InvalidReply),  # type: ignore[arg-type]
    "a whole body longer than declared": ([start(200, LENGTH_5), last(b"hello!")], InvalidReply),
    "a whole body shorter than declared": ([start(200, LENGTH_5), last(b"hell")], InvalidReply),
    "no body where some was declared": ([start(200, LENGTH_5), last()], InvalidReply),
}


@pytest.mark.parametrize(("events", "error"), REFUSED.values(), ids=REFUSED)
async def test_what_can_not_be_sent_raises_and_the_client_gets_500(
    serve: Serve, events: list[Event | None], error: type[Exception]
) -> None:
    app = Script(*events)
    worker = serve.asgi(app)
    client = worker.connect()
    reply = await client.ask(get())
    assert isinstance(app.error, error)
    assert reply.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert len(worker.log.take()) == 1
    assert worker.unexpected == []


@pytest.mark.parametrize(("events", "error"), REFUSED.values(), ids=REFUSED)
async def test_the_error_comes_from_the_event_that_is_wrong(
    serve: Serve, events: list[Event | None], error: type[Exception]
) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    await worker.connect().ask(get())

    async def send_all() -> int:
        for number, event in enumerate(events):
            assert event is not None
            try:
                await app.send(event)
            except error:
                return number
        return len(events)

    assert await app.does(send_all()) == len(events) - 1


TOO_LATE: dict[str, tuple[list[Event], Event, type[Exception]]] = {
    "a second start in a later turn": ([start()], start(), IllegalMove),
    "a start after a part": ([start(), part(b"a")], start(), IllegalMove),
    "a start after the end": ([start(), last()], start(), IllegalMove),
    "a body after the end": ([start(), last()], last(b"a"), IllegalMove),
    "a part after the end": ([start(), last()], part(b"a"), IllegalMove),
    "an unknown event after the end": ([start(), last()], {"type": "http.response.other"}, IllegalMove),
    "more than declared": ([start(200, LENGTH_5), part(b"hello")], part(b"!"), InvalidReply),
    "the end before all that was declared": ([start(200, LENGTH_5), part(b"hell")], last(), InvalidReply),
    "text as a part": ([start()], part("a"), InvalidReply),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("events", "wrong", "error"), TOO_LATE.values(), ids=TOO_LATE)
async def test_what_can_not_be_sent_any_more_raises_and_nothing_of_it_leaves(
    serve: Serve, events: list[Event], wrong: Event, error: type[Exception]
) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    for event in events:
        await app.sends(event)
    client.take()
    with pytest.raises(error):
        await app.sends(wrong)
    assert client.take() == b""


async def test_a_reply_can_go_on_after_an_event_that_could_not_be_sent(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    for wrong in (last(b"a"), start(99), start(200, (b"x-a", b"\n"))):
        with pytest.raises((IllegalMove, InvalidReply)):
            await app.sends(wrong)
    await app.sends(start(200, LENGTH_5), part(b"he"))
    with pytest.raises(InvalidReply):
        await app.sends(part(b"llo!"))
    await app.sends(last(b"llo"))
    assert client.take() == HELLO


# Flow control.


async def test_send_waits_while_the_client_does_not_read(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    client.stop_reading()
    await app.sends(start(200, (b"content-length", b"200000")), part(bytes(60_000)))
    waiting = await app.begins(app.send(part(bytes(60_000))))
    assert not waiting.done()
    client.read(100_000)
    await turn()
    assert not waiting.done()
    client.read(10_000)
    await turn()
    assert waiting.done()
    client.read()
    await app.sends(last(bytes(80_000)))
    assert len(client.take().partition(b"\r\n\r\n")[2]) == 200_000


async def test_send_that_waits_raises_when_the_client_goes(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    client.stop_reading()
    waiting = await app.begins(app.send(start()))
    assert waiting.done()
    waiting = await app.begins(app.send(part(bytes(100_000))))
    assert not waiting.done()
    client.reset()
    await turn()
    assert isinstance(waiting.exception(), ClientDisconnected)
