"""What an application sends, as the client gets it: heads, bodies, transport writes, and the errors out of ``send``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from uvicorn_worker.config import COPY_BOUND
from uvicorn_worker.errors import IllegalMove, InvalidReply

from .conftest import Serve
from .harness import Client, Script, assert_unfinished, asyncio_only, get, hello, turn

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"


def start(status: int = 200, *headers: tuple[bytes, bytes], content: bytes = b"") -> dict[str, Any]:
    return {"status": status, "headers": headers, "content": content, "more_content": True}


def part(content: bytes) -> dict[str, Any]:
    return {"content": content, "more_content": True}


def last(content: bytes = b"") -> dict[str, Any]:
    return {"content": content}


def whole(status: int = 200, *headers: tuple[bytes, bytes], content: bytes = b"") -> dict[str, Any]:
    return {"status": status, "headers": headers, "content": content}


async def reply_to(serve: Serve, request: bytes, *messages: dict[str, Any], **settings: Any) -> tuple[bytes, Client]:
    app = Script(*messages)
    client = serve(app, **settings).connect()
    reply = await client.ask(request)
    assert app.error is None
    return reply, client


# Whole replies.

LENGTH_5 = (b"content-length", b"5")

WHOLE = {
    "a status alone": (get(), {"status": 200}, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "content": (get(), whole(content=b"hello"), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "more_content false": (
        get(),
        whole(content=b"hello") | {"more_content": False},
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "fields in order, repeats and spelling kept": (
        get(),
        whole(201, (b"X-B", b"1"), (b"x-a", b"2"), (b"X-B", b"3"), (b"x-empty", b"")),
        b"HTTP/1.1 201 Created\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nx-empty: \r\ncontent-length: 0\r\n\r\n",
    ),
    "its own length": (
        get(),
        whole(200, (b"Content-Length", b"5"), content=b"hello"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "its own transfer coding, which is the server's to choose": (
        get(),
        whole(200, (b"transfer-encoding", b"chunked"), content=b"hello"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "keep-alive, which is the server's to say": (
        get(),
        whole(200, (b"connection", b"keep-alive")),
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    "the end of the connection": (
        get(),
        whole(200, (b"Connection", b"Close"), content=b"hello"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    ),
    "a status without a phrase": (get(), {"status": 299}, b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"),
    "the highest status": (get(), {"status": 599}, b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n"),
    "a bytearray": (get(), whole() | {"content": bytearray(b"ab")}, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"),
    "a memoryview": (
        get(),
        whole() | {"content": memoryview(b"ab")},
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
    ),
    "204": (get(), {"status": 204}, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with content": (get(), whole(204, content=b"hello"), b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a length": (get(), whole(204, (b"content-length", b"0")), b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (get(), {"status": 304}, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "304 with the length of what has not changed": (
        get(),
        whole(304, LENGTH_5),
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    ),
    "304 with content": (get(), whole(304, content=b"hello"), b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "HEAD": (HEAD, whole(content=b"hello"), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    "HEAD with the length of what is not sent": (
        HEAD,
        whole(200, LENGTH_5),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    ),
    "HEAD and 204": (HEAD, {"status": 204}, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "HTTP/1.0": (OLD, whole(content=b"hi"), b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"),
    "HTTP/1.0, kept": (
        OLD_KEPT,
        whole(content=b"hi"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi",
    ),
}


@asyncio_only
@pytest.mark.parametrize(("request_", "message", "reply"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_reply(serve: Serve, request_: bytes, message: dict[str, Any], reply: bytes) -> None:
    assert (await reply_to(serve, request_, message))[0] == reply


@asyncio_only
@pytest.mark.parametrize(("request_", "message", "reply"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_reply_is_one_write(
    serve: Serve, request_: bytes, message: dict[str, Any], reply: bytes
) -> None:
    _, client = await reply_to(serve, request_, message)
    assert client.take_writes() == [reply]


async def test_long_content_is_not_copied_behind_its_head(serve: Serve) -> None:
    content = bytes(100_000)
    for request in (get(), get("/", "Connection: close")):
        for fields in [], [(b"content-length", b"100000")]:
            _, client = await reply_to(serve, request, whole(200, *fields, content=content))
            head, rest = client.take_pieces()
            assert head.endswith(b"\r\n\r\n")
            assert rest is content


@pytest.mark.parametrize("messages", [[], [part(b"a")] * 300], ids=["alone", "behind others of the turn"])
async def test_long_content_is_not_copied_into_its_chunk(serve: Serve, messages: list[dict[str, Any]]) -> None:
    """Where the transport would take that piece by piece, it gets one, with what was small before it."""
    content = bytes(100_000)
    _, client = await reply_to(serve, get(), start(), *messages, last(content))
    [written] = client.take_writes()
    if type(asyncio.get_running_loop()) is uvloop.Loop:
        before, copied, after = written
        assert copied is content
    else:
        before, copied, after = written.partition(content)
    assert before == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b186a0\r\n" % (
        b"1\r\na\r\n" * len(messages)
    )
    assert after == b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(("size", "pieces"), [(COPY_BOUND, (1, 1, 1)), (COPY_BOUND + 1, (2, 2, 3))])
async def test_content_is_copied_up_to_a_bound(serve: Serve, size: int, pieces: tuple[int, int, int]) -> None:
    content = bytes(size)
    kinds = [whole(content=content)], [whole(200, (b"content-length", b"%d" % size), content=content)]
    for messages, number in zip((*kinds, [start(), last(content)]), pieces, strict=True):
        _, client = await reply_to(serve, get(), *messages)
        by_one_call = messages[0].get("more_content") and type(asyncio.get_running_loop()) is not uvloop.Loop
        assert len(client.take_pieces()) == (1 if by_one_call else number)


async def test_with_tls_a_long_chunk_is_one_write(serve: Serve) -> None:
    """Each piece would be a record of its own."""
    worker = serve(Script(start(), part(b"a"), last(bytes(100_000))))
    worker.service.scheme = "https"
    client = worker.connect()
    await client.ask(get())
    assert [type(write) for write in client.take_writes()] == [bytes]


async def test_long_content_is_left_out_of_the_reply_to_a_head(serve: Serve) -> None:
    for messages in [start(), part(bytes(100_000)), last(bytes(100_000))], [whole(content=bytes(100_000))]:
        received, _ = await reply_to(serve, HEAD, *messages)
        assert received.endswith(b"\r\n\r\n") and len(received) < 100


@pytest.mark.parametrize("status", [204, 304])
async def test_a_connection_is_kept_after_a_reply_without_body(serve: Serve, status: int) -> None:
    _, client = await reply_to(serve, get(), whole(status, content=b"hello"))
    assert await client.ask(get()) == client.received[: len(client.received) // 2]
    assert client.state == "open"


async def test_a_connection_is_kept_after_a_reply_to_head(serve: Serve) -> None:
    client = serve().connect()
    assert await client.ask(HEAD + get()) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" * 2 + b"hello"


# Replies in parts.

STREAMED = {
    "chunked": (
        get(),
        [start(), part(b"hello"), part(b"0123456789abcdef"), last(b"!")],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n1\r\n!\r\n0\r\n\r\n",
    ),
    "chunked, content with the head": (
        get(),
        [start(content=b"hello"), last()],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    "nothing, chunked": (
        get(),
        [start(), last()],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "an empty part, which would end the body": (
        get(),
        [start(), part(b"a"), part(b""), last(b"b")],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
    ),
    "sized": (
        get(),
        [start(200, LENGTH_5), part(b"he"), part(b""), part(b"llo"), last()],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "sized, finished with the last content": (
        get(),
        [start(200, LENGTH_5), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "to its end on 1.0": (
        OLD,
        [start(), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
    ),
    "to its end on 1.0, though the client would keep the connection": (
        OLD_KEPT,
        [start(), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
    ),
    "sized on 1.0, kept": (
        OLD_KEPT,
        [start(200, LENGTH_5), part(b"he"), last(b"llo")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello",
    ),
    "HEAD, chunked": (
        HEAD,
        [start(), part(b"hello"), last()],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "HEAD, sized": (
        HEAD,
        [start(200, LENGTH_5), part(b"hello"), last()],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    ),
    "204": (get(), [start(204), part(b"hello"), last()], b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (get(), [start(304), last(b"hello")], b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "the end of the connection": (
        get(),
        [start(200, (b"connection", b"close"), content=b"a"), last()],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
    "an interim response first": (
        get(),
        [whole(103, (b"link", b"</a>; rel=preload")), whole(content=b"hello")],
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "an interim response with more_content, and another": (
        get(),
        [start(103), whole(102), whole(content=b"hello")],
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "an interim response that says how long it is": (
        get(),
        [whole(103, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")), whole(content=b"hello")],
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ),
    "an interim response to 1.0, which knows none": (
        OLD,
        [whole(103), whole(content=b"hello")],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    ),
}


@asyncio_only
@pytest.mark.parametrize(("request_", "messages", "reply"), STREAMED.values(), ids=STREAMED)
async def test_a_reply_in_parts(
    serve: Serve, request_: bytes, messages: list[dict[str, Any]], reply: bytes
) -> None:
    received, client = await reply_to(serve, request_, *messages)
    assert received == reply
    assert client.has_ended is (b"connection: close" in reply)


async def test_the_head_and_the_content_of_the_same_turn_are_one_write(serve: Serve) -> None:
    for content_message in (part(b"hello"), last(b"hello")):
        app = Script(start(), content_message, last()) if content_message.get("more_content") else None
        app = app or Script(start(), content_message)
        client = serve(app).connect()
        await client.ask(get())
        assert client.take_writes()[0].startswith(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )


async def test_a_chunked_reply_of_one_turn_and_one_content_is_one_write(serve: Serve) -> None:
    _, client = await reply_to(serve, get(), start(), last(b"hello"))
    assert len(client.take_writes()) == 1


async def test_a_head_without_content_leaves_at_the_end_of_the_turn(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send(start())
        await go_on.wait()
        await channels["reply"].send(last(b"hello"))

    client = serve(app).connect()
    assert await client.ask(get()) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    go_on.set()
    await turn()
    assert client.take() == b"5\r\nhello\r\n0\r\n\r\n"
    assert len(client.take_writes()) == 2


async def test_parts_of_the_turn_in_which_a_reply_began_are_one_write(serve: Serve) -> None:
    received, client = await reply_to(serve, get(), start(), *(part(b"a") for _ in range(100)), last(b"b"))
    assert received == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b1\r\nb\r\n0\r\n\r\n" % (
        b"1\r\na\r\n" * 100
    )
    assert len(client.take_writes()) == 1


async def test_parts_leave_at_the_end_of_the_turn_and_later_ones_at_once(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        send = channels["reply"].send
        for message in (start(), part(b"a"), part(b"b")):
            await send(message)
        await asyncio.sleep(0)
        seen.append(client.take())
        await send(part(b"c"))
        seen.append(client.take())
        await send(last())

    client = serve(app).connect()
    client.send(get())
    await turn()
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert seen == [head + b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n"]


async def test_no_more_than_a_bound_waits_for_the_end_of_the_turn(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send(start())
        for _ in range(100):
            await channels["reply"].send(part(bytes(1000)))
            seen.append(len(client.take()))
        await channels["reply"].send(last())

    client = serve(app).connect()
    client.send(get())
    await turn()
    assert sum(map(bool, seen)) == 100 - COPY_BOUND // 1000
    assert max(seen) < 1.1 * COPY_BOUND


async def test_an_empty_part_has_what_is_before_it_leave(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        for message in (start(), part(b"a"), part(b"")):
            await channels["reply"].send(message)
        seen.append(client.take())
        await channels["reply"].send(last())

    client = serve(app).connect()
    client.send(get())
    await turn()
    assert seen == [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"]


async def test_what_was_sent_before_an_error_leaves(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send(start())
        await channels["reply"].send(part(b"hello"))
        raise ValueError

    worker = serve(app)
    client = worker.connect()
    reply = await client.ask(get())
    assert reply == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    assert client.state == "half-closed"
    assert len(worker.log.take()) == 1


# Fields that the server adds.


async def test_date_and_server_are_added(serve: Serve) -> None:
    worker = serve(server_header=b"uvicorn-worker", date_header=True)
    client = worker.connect()
    expected = b"HTTP/1.1 200 OK\r\nserver: uvicorn-worker\r\ndate: %b\r\ncontent-length: 5\r\n\r\nhello"
    assert await client.ask(get()) == expected % b"Thu, 01 Jan 1970 00:00:00 GMT"
    await worker.wait(1)
    assert await client.ask(get()) == expected % b"Thu, 01 Jan 1970 00:00:01 GMT"


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
async def test_date_and_server_of_the_application_stand_instead(serve: Serve, in_parts: bool) -> None:
    headers = ((b"Date", b"today"), (b"x-a", b"b"), (b"SERVER", b"mine"))
    messages = [start(200, *headers), last(b"hello")] if in_parts else [whole(200, *headers, content=b"hello")]
    reply, _ = await reply_to(serve, OLD_KEPT, *messages, server_header=b"uvicorn-worker", date_header=True)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\nDate: today\r\nx-a: b\r\nSERVER: mine\r\n")
    assert reply.lower().count(b"date:") == reply.lower().count(b"server:") == 1


async def test_fields_of_the_headers_option_are_in_every_response(serve: Serve) -> None:
    worker = serve(headers=((b"x-frame-options", b"DENY"), (b"x-a", b"b")))
    expected = b"\r\nx-frame-options: DENY\r\nx-a: b\r\n"
    client = worker.connect()
    assert expected in await client.ask(get())
    assert expected in await client.ask(b"\0")


async def test_fields_of_the_headers_option_do_not_double_those_of_the_server(serve: Serve) -> None:
    worker = serve(headers=((b"server", b"mine"),), server_header=b"uvicorn-worker")
    reply = await worker.connect().ask(get())
    assert reply.count(b"server: ") == 1


# Errors out of send. Nothing of what is refused reaches the client.

REFUSED = {
    "no status": ([{"content": b"hello"}], InvalidReply, "status"),
    "an empty message": ([{}], InvalidReply, "status"),
    "a status below 100": ([{"status": 99}], InvalidReply, "99"),
    "a status above 599": ([{"status": 600}], InvalidReply, "600"),
    "a status as text": ([{"status": "200"}], InvalidReply, "'200'"),
    "a status as bytes": ([{"status": b"200"}], InvalidReply, "b'200'"),
    "no number as status": ([{"status": None}], InvalidReply, "None"),
    "a list as status": ([{"status": [200]}], InvalidReply, "200"),
    "a fraction as status": ([{"status": 200.5}], InvalidReply, "200.5"),
    "a bad status beside a date": ([whole(999, (b"date", b"today"))], InvalidReply, "999"),
    "a bad status beside a length": ([whole(999, (b"content-length", b"0"))], InvalidReply, "999"),
    "a bad status in parts": ([start(600)], InvalidReply, "600"),
    "101": ([{"status": 101}], InvalidReply, "101"),
    "content as text": ([{"status": 200, "content": "hello"}], InvalidReply, "'hello'"),
    "no content": ([{"status": 200, "content": None}], InvalidReply, "None"),
    "a name with a space": ([whole(200, (b"x a", b"b"))], InvalidReply, "x a"),
    "a name with a colon": ([whole(200, (b"x:", b"b"))], InvalidReply, "x:"),
    "an empty name": ([whole(200, (b"", b"b"))], InvalidReply, "name"),
    "a name with CRLF": ([whole(200, (b"x\r\nevil", b"b"))], InvalidReply, "evil"),
    "a name beyond ASCII": ([whole(200, (b"x\xe9", b"b"))], InvalidReply, "name"),
    "a value with CRLF": ([whole(200, (b"x", b"a\r\nevil: b"))], InvalidReply, "evil"),
    "a value with LF": ([whole(200, (b"x", b"a\nevil: b"))], InvalidReply, "evil"),
    "a value with CR": ([whole(200, (b"x", b"a\rb"))], InvalidReply, "'x'"),
    "a value with NUL": ([whole(200, (b"x", b"a\0b"))], InvalidReply, "'x'"),
    "a date with CRLF": ([whole(200, (b"date", b"a\r\nevil: b"))], InvalidReply, "evil"),
    "a server with CRLF": ([whole(200, (b"Server", b"a\r\nevil: b"))], InvalidReply, "evil"),
    "an interim field with CRLF": ([whole(103, (b"x", b"a\r\nevil: b"))], InvalidReply, "evil"),
    "a name as text": ([{"status": 200, "headers": [("x", b"b")]}], InvalidReply, "'x'"),
    "a value as text": ([{"status": 200, "headers": [(b"x", "b")]}], InvalidReply, "'b'"),
    "a value as a number": ([{"status": 200, "headers": [(b"x", 1)]}], InvalidReply, "1"),
    "a value that can't be a key": ([{"status": 200, "headers": [(b"x", bytearray(b"1"))]}], InvalidReply, "bytes"),
    "a name alone": ([{"status": 200, "headers": [(b"x",)]}], InvalidReply, "pairs"),
    "the key of another interface": ([{"status": 200, "body": b"hello"}], InvalidReply, "'body'"),
    "headers as a number": ([{"status": 200, "headers": 5}], InvalidReply, "pairs"),
    "a length that is none": ([whole(200, (b"content-length", b"five"))], InvalidReply, "five"),
    "a signed length": ([whole(200, (b"content-length", b"+0"))], InvalidReply, "+0"),
    "two lengths": (
        [whole(200, (b"content-length", b"5"), (b"Content-Length", b"6"), content=b"hello")],
        InvalidReply,
        "5, 6",
    ),
    "more than the length": ([whole(200, (b"content-length", b"4"), content=b"hello")], InvalidReply, "1 bytes more"),
    "less than the length": ([whole(200, (b"content-length", b"7"), content=b"hello")], InvalidReply, "2 bytes less"),
}


@asyncio_only
@pytest.mark.parametrize(("messages", "error", "named"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("way", ["whole", "in parts", "on 1.0"])
async def test_what_can_not_be_sent_is_an_error_out_of_send(
    serve: Serve, messages: list[dict[str, Any]], error: type[Exception], named: str, way: str
) -> None:
    app = Script(*messages)
    if way == "in parts":
        if named.endswith(("less", "more")) or "content" in messages[-1] and named in ("'hello'", "None"):
            pytest.skip("the error is one of the content")
        app = Script(*[message | {"more_content": True} for message in messages])
    worker = serve(app)
    reply = await worker.connect().ask(get() if way != "on 1.0" else OLD_KEPT)
    assert type(app.error) is error
    assert named in str(app.error)
    assert reply.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"evil" not in reply
    assert_unfinished(worker, "GET /")


@asyncio_only
@pytest.mark.parametrize("message", [message[-1] for message, _, _ in REFUSED.values()], ids=REFUSED)
async def test_after_such_an_error_the_application_can_still_answer(serve: Serve, message: dict[str, Any]) -> None:
    async def app(request: dict, channels: dict) -> None:
        with pytest.raises(InvalidReply):
            await channels["reply"].send(message)
        await hello(request, channels)

    client = serve(app).connect()
    assert await client.ask(get()) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


async def test_a_refused_reply_that_would_have_ended_the_connection_does_not_end_it(serve: Serve) -> None:
    async def app(request: dict, channels: dict) -> None:
        with pytest.raises(InvalidReply):
            await channels["reply"].send(whole(200, (b"connection", b"close"), LENGTH_5, content=b"four"))
        await hello(request, channels)

    client = serve(app).connect()
    reply = await client.ask(get())
    assert client.has_ended is (b"connection: close" in reply)


ILLEGAL = {
    "a second whole reply": [whole(content=b"a"), whole(content=b"b")],
    "a start after a whole reply": [whole(content=b"a"), start()],
    "content after a whole reply": [whole(content=b"a"), last(b"b")],
    "an interim response after a whole reply": [whole(content=b"a"), whole(103)],
}

ILLEGAL_IN_PARTS = {
    "a second start in the same turn": [start(), start()],
    "a second start": [start(content=b"a"), start()],
    "a whole reply after a start": [start(content=b"a"), whole()],
    "an interim response after a start": [start(content=b"a"), whole(103)],
}


@asyncio_only
@pytest.mark.parametrize("messages", ILLEGAL.values(), ids=ILLEGAL)
async def test_nothing_can_be_sent_after_the_end(serve: Serve, messages: list[dict[str, Any]]) -> None:
    app = Script(*messages)
    client = serve(app).connect()
    reply = await client.ask(get())
    assert type(app.error) is IllegalMove
    assert "after the end of the reply" in str(app.error)
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"
    assert client.state == "open"


async def test_content_after_the_last_part_is_an_error(serve: Serve) -> None:
    app = Script(start(), last(b"a"), part(b"b"))
    reply = await serve(app).connect().ask(get())
    assert str(app.error) == "content after the end of the reply"
    assert reply.endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")


@asyncio_only
@pytest.mark.parametrize("messages", ILLEGAL_IN_PARTS.values(), ids=ILLEGAL_IN_PARTS)
async def test_a_reply_is_started_once(serve: Serve, messages: list[dict[str, Any]]) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send(messages[0])
        with pytest.raises(IllegalMove, match="after the start of the reply"):
            await channels["reply"].send(messages[1])
        await channels["reply"].send(last(b"b"))

    reply = await serve(app).connect().ask(get())
    assert reply.count(b"HTTP/1.1") == 1
    assert reply.endswith(b"1\r\nb\r\n0\r\n\r\n")


async def test_more_than_the_length_in_parts_does_not_leave(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send(start(200, LENGTH_5, content=b"abc"))
        with pytest.raises(InvalidReply, match="1 bytes more"):
            await channels["reply"].send(part(b"def"))
        await channels["reply"].send(last(b"DE"))

    reply = await serve(app).connect().ask(get())
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcDE"


async def test_less_than_the_length_in_parts_cuts_the_connection(serve: Serve) -> None:
    app = Script(start(200, LENGTH_5, content=b"abc"), last(b"d"))
    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get() + get()) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"
    assert type(app.error) is InvalidReply
    assert "1 bytes less" in str(app.error)
    assert client.state == "half-closed"
    assert_unfinished(worker, "GET /")


HEADERS_GIVEN_AS = {
    "lists": lambda pairs: [list(pair) for pair in pairs],
    "an iterator": iter,
    "a generator": lambda pairs: (pair for pair in pairs),
    "the items of a dictionary": lambda pairs: dict(pairs).items(),
}


@asyncio_only
@pytest.mark.parametrize("kind", HEADERS_GIVEN_AS.values(), ids=HEADERS_GIVEN_AS)
@pytest.mark.parametrize("more_content", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("decisive", [(b"content-length", b"5"), (b"date", b"today"), (b"x-z", b"z")])
async def test_headers_may_be_any_iterable(
    serve: Serve, kind: Any, more_content: bool, decisive: tuple[bytes, bytes]
) -> None:
    async def app(message: dict, channels: dict) -> None:
        headers = kind([(b"content-type", b"text/plain"), decisive, (b"x-last", b"1")])
        reply = {"status": 200, "headers": headers, "content": b"hello", "more_content": more_content}
        await channels["reply"].send(reply)
        if more_content:
            await channels["reply"].send(last())

    reply = await serve(app).connect().ask(get())
    assert b"content-type: text/plain\r\n" in reply
    assert b"x-last: 1\r\n" in reply
    assert b"%b: %b\r\n" % decisive in reply
