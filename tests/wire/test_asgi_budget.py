"""What one request, and one message, of an ASGI 3 application may cost, in counts that do not depend on the machine."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from .asgi_apps import ACCEPT, CONNECT, Event, asgi_hello, last, sent, start
from .conftest import Serve
from .harness import HELLO, get, ok, post, turn
from .test_budget import calls_of, calls_of_parts
from .websocket_client import DEFLATE, TEXT, connect, frame, text

#: Calls of this package's functions for one small request on a kept connection. Raise it for a reason.
MOST_CALLS = 10

#: The same for one that asks for the body that there is not.
MOST_CALLS_WITH_RECEIVE = 11

#: The same with a small body that is received.
MOST_CALLS_WITH_BODY = 16

#: The same for a part of a response that is streamed.
MOST_CALLS_FOR_PART = 3

#: The same for a WebSocket message of 64 bytes that is sent back.
MOST_CALLS_FOR_MESSAGE = 15

cpython_only = pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")


@cpython_only
async def test_a_small_request_costs_few_calls_and_one_write(serve: Serve) -> None:
    client = serve.asgi(asgi_hello).connect()
    calls = await calls_of(client, get("/", "User-Agent: a", "Accept: */*"), HELLO)
    assert calls.total() <= MOST_CALLS, calls


@cpython_only
async def test_a_small_request_that_is_received_costs_few_calls_and_one_write(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        await receive()
        await asgi_hello(scope, receive, send)

    client = serve.asgi(app).connect()
    calls = await calls_of(client, get("/", "User-Agent: a", "Accept: */*"), HELLO)
    assert calls.total() <= MOST_CALLS_WITH_RECEIVE, calls


@cpython_only
async def test_a_small_body_costs_few_calls_more(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        event = await receive()
        await send(start())
        await send(last(event["body"]))

    calls = await calls_of(serve.asgi(app).connect(), post("/", b"hello"), ok("hello"))
    assert calls.total() <= MOST_CALLS_WITH_BODY, calls


@cpython_only
async def test_a_part_of_a_response_costs_few_calls(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(int(scope["query_string"])):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send(last(b""))

    assert await calls_of_parts(serve.asgi(app).connect(), 20) <= 20 * MOST_CALLS_FOR_PART


async def test_a_declared_length_costs_no_second_write(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"5"), (b"content-type", b"text/plain")))
        await send(last(b"hello"))

    client = serve.asgi(app).connect()
    client.send(get())
    await turn()
    assert client.take_writes() == [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
    ]


async def test_a_request_makes_one_task_and_no_other_callback_that_outlives_its_turn(serve: Serve) -> None:
    tasks: list[set[Any]] = []

    async def app(scope: Event, receive: Any, send: Any) -> None:
        tasks.append(asyncio.all_tasks())
        await receive()
        await asgi_hello(scope, receive, send)

    worker = serve.asgi(app)
    assert await worker.connect().ask(get()) == HELLO
    assert len(tasks[0]) == 2  # The test's own is the other.
    assert worker.service.held == []


async def echo(scope: Event, receive: Any, send: Any) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send(sent(event["text"]))


@cpython_only
@pytest.mark.parametrize("offer", [(), (DEFLATE,)])
async def test_a_message_of_a_websocket_costs_few_calls_and_one_write(serve: Serve, offer: tuple[str, ...]) -> None:
    socket = await connect(serve.asgi(echo), "/", *offer)
    content = "a" * 64
    calls = await calls_of(socket.client, text(content), frame(TEXT, content.encode(), mask=b""))
    assert calls.total() <= MOST_CALLS_FOR_MESSAGE, calls


async def test_messages_in_one_read_cost_one_write_each(serve: Serve) -> None:
    socket = await connect(serve.asgi(echo))
    socket.client.take_writes()
    socket.send(b"".join(text(str(number)) for number in range(10)))
    await turn()
    assert socket.client.take_writes() == [frame(TEXT, b"%d" % number, mask=b"") for number in range(10)]
