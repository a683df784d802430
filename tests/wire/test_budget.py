"""What one request may cost, in counts that do not depend on the machine."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import uvicorn_worker

from .conftest import Serve
from .harness import HELLO, Client, get, ok, post, turn

PACKAGE = str(Path(uvicorn_worker.__file__).parent)

#: Calls of this package's functions for one small request on a kept connection. Raise it for a reason.
MOST_CALLS = 17

#: The same with a small body that is received.
MOST_CALLS_WITH_BODY = 56


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


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_field_of_a_request_costs_one_call(serve: Serve) -> None:
    client = serve().connect()
    few = await calls_of(client, get("/"), HELLO)
    many = await calls_of(client, get("/", *(f"X-{number}: a" for number in range(20))), HELLO)
    assert many.total() - few.total() == 20


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
async def test_a_small_body_costs_few_calls_more(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        part = await channels["body"].receive()
        await channels["reply"].send({"status": 200, "content": part["content"]})

    calls = await calls_of(serve(app).connect(), post("/", b"hello"), ok("hello"))
    assert calls.total() <= MOST_CALLS_WITH_BODY, calls


async def test_a_tick_looks_at_no_connection_that_is_not_due(serve: Serve) -> None:
    worker = serve(keepalive=75.0)
    for _ in range(200):
        await worker.connect().ask(get())
    with Calls() as calls:
        await worker.wait(1)
    assert calls.total() <= 20, calls
