"""What one request may cost, in counts that do not depend on the machine."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import uvicorn_worker
from uvicorn_worker.config import COPY_BOUND

from .conftest import Serve
from .harness import HELLO, Client, CollectorOff, get, hello, ok, post, turn
from .websocket_client import DEFLATE, TEXT, TalkBack, connect, frame, text

PACKAGE = str(Path(uvicorn_worker.__file__).parent)

#: Calls of this package's functions for one small request on a kept connection. Raise it for a reason.
MOST_CALLS = 8

#: The same with a small body that is received.
MOST_CALLS_WITH_BODY = 14

#: The same where nobody has sent such a head before.
MOST_CALLS_OF_NEW = 30

#: The same for a part of a response that is streamed.
MOST_CALLS_FOR_PART = 4

#: What there is for the collector to look at while a request is served, on Python 3.11; eight are the test's own.
MOST_OBJECTS = 24

#: The same for a WebSocket message of 64 bytes that is sent back.
MOST_CALLS_FOR_MESSAGE = 6


class Calls(Counter[str]):
    """Counts the calls of functions of the package within it."""

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self[frame.f_code.co_qualname] += 1

    def __enter__(self) -> Calls:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *args: object) -> None:
        sys.setprofile(None)


async def calls_of(client: Client, sent: bytes, reply: bytes) -> Calls:
    for _ in range(3):
        assert await client.ask(sent) == reply
    client.take_writes()
    with Calls() as calls:
        client.send(sent)
        await turn(6)
    assert client.take() == reply
    assert client.take_writes() == [reply]
    return calls


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_small_request_costs_few_calls_and_one_write(serve: Serve) -> None:
    calls = await calls_of(serve().connect(), get("/", "User-Agent: a", "Accept: */*"), HELLO)
    assert calls.total() <= MOST_CALLS, calls


async def calls_of_parts(client: Client, count: int) -> int:
    """Of so many parts of a response whose application sends as many as the query string says."""
    totals = []
    for parts in 10, 10 + count:
        with Calls() as calls:
            client.send(get(f"/?{parts}"))
            await turn(6)
        assert client.take().count(b"part") == parts
        totals.append(calls.total())
    return totals[1] - totals[0]


async def calls_of_new(client: Client, *fields: str) -> Calls:
    """Of a request with fields that nobody has sent before."""
    with Calls() as calls:
        client.send(get("/", *fields))
        await turn(6)
    return calls


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_request_with_a_new_head_costs_few_calls_more(serve: Serve) -> None:
    client = serve().connect()
    await client.ask(get("/"))
    calls = await calls_of_new(client, "User-Agent: a", "Accept: */*")
    assert calls.total() <= MOST_CALLS_OF_NEW, calls


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_part_of_a_response_costs_few_calls(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        send = channels["reply"].send
        await send({"status": 200, "content": b"", "more_content": True})
        for _ in range(int(message["query_string"])):
            await send({"content": b"part", "more_content": True})
        await send({"content": b""})

    assert await calls_of_parts(serve(app).connect(), 20) <= 20 * MOST_CALLS_FOR_PART


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each version of Python counts differently")
async def test_a_request_makes_few_objects(serve: Serve) -> None:
    counts: list[int] = []

    async def app(message: dict, channels: dict) -> None:
        counts.append(len(gc.get_objects()))
        await hello(message, channels)

    client = serve(app).connect()
    for _ in range(3):
        with CollectorOff():
            before = len(gc.get_objects())
            assert await client.ask(get("/", "User-Agent: a", "Accept: */*")) == HELLO
    assert 0 < counts[-1] - before <= MOST_OBJECTS


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_field_that_was_not_sent_before_costs_one_call(serve: Serve) -> None:
    client = serve().connect()
    await client.ask(get("/"))
    few = await calls_of_new(client, "X: a")
    many = await calls_of_new(client, *(f"X-{number}: a" for number in range(20)))
    assert many.total() - few.total() == 19


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_what_a_proxy_tells_costs_no_more_calls_than_other_fields(serve: Serve) -> None:
    client = serve().connect(client=("127.0.0.1", 50007))
    await client.ask(get("/"))
    other = await calls_of_new(client, "X-A: 203.0.113.7", "X-B: https")
    told = await calls_of_new(client, "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")
    assert told["HeadReader._on_header_list"] == other["HeadReader._on_header_list"] == 3


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_small_body_costs_few_calls_more(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        part = await channels["body"].receive()
        await channels["reply"].send({"status": 200, "content": part["content"]})

    calls = await calls_of(serve(app).connect(), post("/", b"hello"), ok("hello"))
    assert calls.total() <= MOST_CALLS_WITH_BODY, calls


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
@pytest.mark.parametrize("offer", [(), (DEFLATE,)])
async def test_a_message_of_a_websocket_costs_few_calls_and_one_write(serve: Serve, offer: tuple[str, ...]) -> None:
    socket = await connect(serve(TalkBack()), "/", *offer)
    content = "a" * 64
    calls = await calls_of(socket.client, text(content), frame(TEXT, content.encode(), mask=b""))
    assert calls.total() <= MOST_CALLS_FOR_MESSAGE, calls


@pytest.mark.parametrize("size", [126, COPY_BOUND])
async def test_a_message_that_is_worth_copying_is_one_write(serve: Serve, size: int) -> None:
    socket = await connect(serve(TalkBack()))
    socket.client.take_writes()
    await socket.ask(frame(TEXT, b"a" * size))
    assert socket.client.take_writes() == [frame(TEXT, b"a" * size, mask=b"")]


async def test_a_longer_message_is_not_copied_behind_its_head(serve: Serve) -> None:
    socket = await connect(serve(TalkBack()))
    socket.client.take_writes()
    await socket.ask(frame(TEXT, b"a" * (COPY_BOUND + 1)))
    assert list(map(len, socket.client.take_pieces())) == [4, COPY_BOUND + 1]


async def test_messages_in_one_read_cost_one_write_each(serve: Serve) -> None:
    socket = await connect(serve(TalkBack()))
    socket.client.take_writes()
    socket.send(b"".join(text(str(number)) for number in range(10)))
    await turn()
    assert socket.client.take_writes() == [frame(TEXT, b"%d" % number, mask=b"") for number in range(10)]


async def test_a_tick_looks_at_no_connection_that_is_not_due(serve: Serve) -> None:
    worker = serve(keepalive=75.0)
    for _ in range(200):
        await worker.connect().ask(get())
    with Calls() as calls:
        await worker.wait(1)
    assert calls.total() <= 20, calls
