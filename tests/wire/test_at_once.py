"""Applications that begin in the turn of the loop in which their requests have come, as Python 3.12 and later allow."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import pytest

from uvicorn_worker.errors import WorkerExit

from .asgi_apps import asgi_hello
from .conftest import Serve
from .harness import BEGINS_AT_ONCE, HELLO, Client, Gate, Worker, chunked, get, hello, ok, post, run, turn

pytestmark = pytest.mark.skipif(not BEGINS_AT_ONCE, reason="before Python 3.12, tasks begin in the loop's next turn")

USER: contextvars.ContextVar[str] = contextvars.ContextVar("USER", default="nobody")


async def echo_path(message: dict, channels: dict) -> None:
    await channels["reply"].send({"status": 200, "content": message["path"].encode()})


async def test_an_application_that_never_waits_answers_in_the_same_turn(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    client.send(get())
    assert client.take() == HELLO
    assert not worker.service.running
    client.send(get("/", "X-Long: " + "a" * 1000))  # It is not read at once, but in slices.
    assert client.take() == HELLO


async def test_so_does_one_of_asgi(serve: Serve) -> None:
    client = serve.asgi(asgi_hello).connect()
    client.send(get())
    assert client.take_writes() == [HELLO]


async def test_a_refusal_in_one_piece_with_requests_comes_behind_their_replies(serve: Serve) -> None:
    worker = serve(echo_path)
    client = worker.connect()
    reply = await client.ask(get("/1") + get("/2") + b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert reply.startswith(ok("/1") + ok("/2") + b"HTTP/1.1 400 Bad Request\r\n")
    assert len(worker.log.refusals) == 1
    assert client.has_ended


async def test_a_body_that_comes_in_one_piece_with_its_head_is_received_in_one_part(serve: Serve) -> None:
    parts = []

    async def app(message: dict, channels: dict) -> None:
        parts.append(await channels["body"].receive())
        await hello(message, channels)

    body = b"a" * 50_000
    serve(app).connect().send(post("/", body))
    assert parts == [{"content": body, "more_content": False}]


async def test_a_bad_body_in_one_piece_with_its_head_is_refused_before_the_call_begins(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(client.take()[:12])

    client = serve(app).connect()
    client.send(chunked("/", b"a").replace(b"1\r\na", b"x\r\na"))
    await turn()
    assert seen == [b"HTTP/1.1 400"]


async def test_requests_in_one_piece_begin_one_behind_the_end_of_the_other(serve: Serve) -> None:
    steps = []

    async def app(message: dict, channels: dict) -> None:
        steps.append(f"{message['path']} begins as {USER.get()}")
        USER.set(message["path"])
        await echo_path(message, channels)
        steps.append(f"{message['path']} ends as {USER.get()}")

    client = serve(app).connect()
    assert await client.ask(get("/1") + get("/2") + get("/3")) == ok("/1") + ok("/2") + ok("/3")
    assert await client.ask(get("/4")) == ok("/4")
    assert steps == [
        step for path in ("/1", "/2", "/3", "/4") for step in (f"{path} begins as nobody", f"{path} ends as {path}")
    ]


async def test_a_thousand_requests_in_one_piece_take_no_more_of_the_stack_than_two(serve: Serve) -> None:
    depths = []

    async def app(message: dict, channels: dict) -> None:
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)
        await echo_path(message, channels)

    client = serve(app, pipelined_requests=2000).connect()
    client.send(b"".join(get(f"/{number}") for number in range(1000)))
    await turn(1100)
    assert client.take() == b"".join(ok(f"/{number}") for number in range(1000))
    assert max(depths[1:]) <= depths[0]


async def test_each_call_is_a_task_that_can_be_timed_out(serve: Serve) -> None:
    tasks = []

    async def app(message: dict, channels: dict) -> None:
        tasks.append(asyncio.current_task())
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            await hello(message, channels)

    client = serve(app).connect()
    for _ in range(2):
        client.send(get())
        assert asyncio.current_task() not in tasks
        while client.take() != HELLO:
            await asyncio.sleep(0)
    assert len({id(task) for task in tasks}) == 2


async def test_a_call_that_waits_is_under_way_and_can_be_cancelled(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    client = worker.connect()
    client.send(get())
    assert app.calls == ["/"]
    [running] = worker.service.running
    running.cancel()
    assert (await client.ask()).startswith(b"HTTP/1.1 500")
    assert worker.log.take() == ["The application raised: GET / [CancelledError: ]"]
    assert not worker.service.running


async def test_a_client_that_goes_between_two_requests_has_only_the_first_called(serve: Serve) -> None:
    calls = []
    clients: list[Client] = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        clients[0].reset()
        await echo_path(message, channels)

    worker = serve(app)
    clients.append(worker.connect())
    assert await clients[0].ask(get("/1") + get("/2")) == b""
    assert calls == ["/1"]
    assert not worker.service.running


def test_the_exit_of_the_worker_within_a_call_leaves_what_can_be_cancelled() -> None:
    running: list[Any] = []

    async def app(message: dict, channels: dict) -> None:
        raise WorkerExit(0)

    async def main() -> None:
        worker = Worker(app, {})
        try:
            worker.connect().send(get())
        finally:
            running.extend(worker.service.running)
            for call in running:
                call.cancel()

    with pytest.raises(WorkerExit):
        run(main())
    assert len(running) == 1
