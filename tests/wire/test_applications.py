"""Errors of applications, and what applications can and can't see of one another."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected, WorkerExit

from .conftest import Serve
from .harness import HELLO, Worker, asyncio_only, get, hello, ok, post, run, turn

REFUSED = (
    b"HTTP/1.1 500 Internal Server Error\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\n\r\nInternal Server Error"
)

STARTED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"

UNFINISHED = "The application returned without finishing its reply (does it reply, with each send awaited?): GET /bad"


class Group(BaseException):
    pass


ERRORS = [
    ValueError("broken"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    Group("broken"),
    OSError("broken"),
    ConnectionResetError("its database's"),
    ClientDisconnected("of another connection"),
    StopAsyncIteration(),
    ExceptionGroup("several", [ValueError("broken")]),
]
IDS = [type(error).__name__ for error in ERRORS]


@pytest.mark.parametrize("error", ERRORS, ids=IDS)
async def test_an_error_before_the_reply_is_answered_with_500(serve: Serve, error: BaseException) -> None:
    async def app(message: dict, channels: dict) -> None:
        if message["path"] == "/bad":
            raise error
        await hello(message, channels)

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/bad") + get("/good")) == REFUSED + HELLO
    assert client.state == "open"
    assert worker.log.take() == [f"The application raised: GET /bad [{type(error).__name__}: {error}]"]


@pytest.mark.parametrize("error", ERRORS, ids=IDS)
async def test_an_error_within_the_reply_ends_the_connection(serve: Serve, error: BaseException) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        raise error

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/bad") + get("/after")) == STARTED
    assert client.has_ended
    assert worker.log.take() == [f"The application raised: GET /bad [{type(error).__name__}: {error}]"]


async def test_an_error_behind_the_head_of_the_same_turn_is_answered_with_500(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        headers = [(b"content-length", b"5"), (b"x-a", b"b")]
        await channels["reply"].send({"status": 200, "headers": headers, "more_content": True})
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get()) == REFUSED
    assert await client.ask(get()) == REFUSED
    assert len(worker.log.take()) == 2


async def test_an_error_after_the_reply_is_logged(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await hello(message, channels)
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/a") + get("/b")) == HELLO * 2
    assert client.state == "open"
    assert worker.log.take() == [f"The application raised: GET /{path} [ValueError: broken]" for path in "ab"]


async def test_an_application_that_returns_without_a_reply_is_answered_for(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        pass

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/bad?q")) == REFUSED
    assert client.state == "open"
    assert worker.log.take() == [UNFINISHED]


async def test_an_application_that_returns_within_its_reply_ends_the_connection(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/bad")) == STARTED
    assert client.has_ended
    assert worker.log.take() == [UNFINISHED]


async def test_a_500_to_a_head_request_has_no_body(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n") == REFUSED.removesuffix(b"Internal Server Error")
    worker.log.take()


async def test_a_500_behind_an_unread_body_keeps_the_connection(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(post("/", b"hello") + get()) == REFUSED * 2
    worker.log.take()


async def test_that_the_client_has_gone_is_swallowed(serve: Serve) -> None:
    outcomes = []

    async def app(message: dict, channels: dict) -> None:
        await go_on.wait()
        try:
            await channels["reply"].send({"status": 200})
        except ClientDisconnected as error:
            outcomes.append(error)
            raise

    go_on = asyncio.Event()
    worker = serve(app)
    client = worker.connect()
    client.send(get())
    await turn()
    client.reset()
    await turn()
    assert len(worker.service.running) == 1  # An application goes on when its client has gone.
    go_on.set()
    await turn()
    assert len(outcomes) == 1
    assert worker.log.take() == []


async def test_an_error_after_the_client_has_gone_is_logged(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def app(message: dict, channels: dict) -> None:
        await go_on.wait()
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    client.send(get("/bad"))
    await turn()
    client.reset()
    await turn()
    go_on.set()
    await turn()
    assert worker.log.take() == ["The application raised: GET /bad [ValueError: broken]"]


def test_the_exit_of_the_worker_is_no_error_of_the_application() -> None:
    async def app(message: dict, channels: dict) -> None:
        raise WorkerExit(0)

    async def main() -> None:
        await Worker(app, {}).connect().ask(get())

    with pytest.raises(WorkerExit):
        run(main())


# Context variables.

USER: contextvars.ContextVar[str] = contextvars.ContextVar("USER", default="nobody")


async def test_context_variables_of_a_request_are_its_own(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(USER.get())
        USER.set(message["path"])
        await asyncio.sleep(0)
        seen.append(USER.get())
        await hello(message, channels)

    worker = serve(app)
    client = worker.connect()
    await client.ask(get("/1"))
    await client.ask(get("/2"), get("/3") + get("/4") + get("/5"))
    await worker.connect().ask(get("/6"))
    assert seen == [value for number in range(1, 7) for value in ("nobody", f"/{number}")]
    assert USER.get() == "nobody"


async def test_context_variables_do_not_leak_through_flow_control(serve: Serve) -> None:
    """Be the next request begun by what was received, by what was read, or by what had waited unparsed."""
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(USER.get())
        USER.set(message["path"])
        while "body" in channels and (await channels["body"].receive())["more_content"]:
            pass
        await channels["reply"].send({"status": 200, "content": bytes(100_000)})

    worker = serve(app, pipelined_requests=1)
    client = worker.connect()
    client.stop_reading()
    client.send(post("/1", bytes(200_000)) + get("/2") * 2 + post("/3", bytes(200_000)) + get("/4") * 3, get("/5"))
    for _ in range(20):
        await turn(100)
        client.read(150_000)
    client.read()
    await turn(100)
    assert client.received.count(b"HTTP/1.1 200 OK") == 8
    assert seen == ["nobody"] * 8


async def test_requests_see_the_context_in_which_the_server_was_started(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(USER.get())
        await hello(message, channels)

    token = USER.set("the server's")
    try:
        worker = serve(app)
    finally:
        USER.reset(token)
    await worker.connect().ask(get() + get())
    assert seen == ["the server's"] * 2


async def test_a_task_factory_of_the_loop_makes_the_tasks(serve: Serve) -> None:
    made = []

    def factory(loop: Any, coroutine: Any, **more: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        assert await serve().connect().ask(get() + get()) == HELLO * 2
    finally:
        loop.set_task_factory(None)
    assert len(made) == 2


@asyncio_only  # uvloop passes more to a task factory than that of Python 3.13.0 takes
@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 and later")
async def test_tasks_may_begin_eagerly(serve: Serve) -> None:
    """An application then runs, and may end, within the parser's own callback."""

    async def app(message: dict, channels: dict) -> None:
        path = message["path"]
        body = b""
        if "body" in channels and path != "/unread":
            body = (await channels["body"].receive())["content"]
        await channels["reply"].send({"status": 200, "content": path.encode() + body})

    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        worker = serve(app)
        client = worker.connect()
        sent = get("/1") + post("/2", b"hello") + post("/unread", b"hello") + get("/3", "Connection: close")
        reply = await client.ask(sent + get("/after"))
        assert reply.startswith(ok("/1") + ok("/2hello") + ok("/unread"))
        assert reply.endswith(b"connection: close\r\n\r\n/3")
        assert client.has_ended
        assert not worker.service.running
    finally:
        loop.set_task_factory(None)
