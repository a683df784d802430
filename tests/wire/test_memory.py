"""No memory left where the server itself sees to the end of a call: the connection ends at once, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from .asgi_apps import ACCEPT, Event, last, part, start
from .conftest import Serve
from .harness import HELLO, Log, Worker, get
from .websocket_client import handshake, text

NO_MEMORY = "Closed for want of memory: "


class NoTracebacks(Log):
    """There is memory for a line, and not for a traceback."""

    def error(self, line: str, *args: Any, **more: Any) -> None:
        if more.get("exc_info"):
            raise MemoryError
        super().error(line, *args, **more)


class NoErrors(Log):
    """There is not even memory for a line."""

    def error(self, line: str, *args: Any, **more: Any) -> None:
        raise MemoryError


class NoHeads(dict[int, bytes]):
    """In place of the beginnings of heads: there is no memory for one."""

    def __missing__(self, status: int) -> bytes:
        raise MemoryError


async def channels_app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    reply = channels["reply"]
    if message["channel"] == "websocket.connect":
        await reply.send({"accept": True})
    elif message["channel"] != "websocket.disconnect":
        if message["path"] == "/good":
            await reply.send({"status": 200, "content": b"hello"})
        elif message["path"] == "/late":
            await reply.send({"status": 200, "content": b"a", "more_content": True})
        if message["path"] != "/good":
            raise MemoryError


async def asgi_app(scope: Event, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send(ACCEPT)
        await receive()
    elif scope["path"] == "/good":
        await send(start())
        await send(last(b"hello"))
    elif scope["path"] == "/late":
        await send(start())
        await send(part(b"a"))
    if scope["path"] != "/good":
        raise MemoryError


def channels_worker(serve: Serve) -> Worker:
    return serve(channels_app)


def asgi_worker(serve: Serve) -> Worker:
    return serve.asgi(asgi_app)


both = pytest.mark.parametrize("make", [channels_worker, asgi_worker], ids=["channels", "asgi"])


def without(log: Log, worker: Worker) -> Log:
    worker.log = worker.service.log = log
    return log


@both
@pytest.mark.parametrize("path", ["/bad", "/late"])
async def test_an_error_that_can_not_be_logged_for_want_of_memory_ends_its_connection(
    serve: Serve, make: Any, path: str
) -> None:
    worker = make(serve)
    log = without(NoTracebacks(), worker)
    client, other = worker.connect(), worker.connect()
    await client.ask(get(path) + get("/good"))
    assert client.state == "aborted"
    assert b"hello" not in client.received
    assert log.take() == [f"{NO_MEMORY}GET {path}"]
    assert await other.ask(get("/good")) == HELLO


@both
async def test_an_answer_for_which_there_is_no_memory_is_none_and_ends_the_connection(serve: Serve, make: Any) -> None:
    worker = make(serve)
    service = worker.service
    prefixes = service.prefixes, service.usual_prefixes
    service.prefixes = service.usual_prefixes = NoHeads()
    client = worker.connect()
    assert await client.ask(get("/bad")) == b""
    assert client.state == "aborted"
    assert worker.log.take() == ["The application raised: GET /bad [MemoryError: ]", f"{NO_MEMORY}GET /bad"]
    service.prefixes, service.usual_prefixes = prefixes
    assert await worker.connect().ask(get("/good")) == HELLO


@both
async def test_the_connection_ends_though_there_is_no_memory_for_a_word(serve: Serve, make: Any) -> None:
    worker = make(serve)
    without(NoErrors(), worker)
    client = worker.connect()
    assert await client.ask(get("/bad")) == b""
    assert client.state == "aborted"
    assert await worker.connect().ask(get("/good")) == HELLO


@both
async def test_a_websocket_ends_whose_error_can_not_be_logged_for_want_of_memory(serve: Serve, make: Any) -> None:
    worker = make(serve)
    log = without(NoTracebacks(), worker)
    client, other = worker.connect(), worker.connect()
    assert (await client.ask(handshake("/bad"))).startswith(b"HTTP/1.1 101 ")
    assert await client.ask(text("go")) == b""
    assert client.state == "aborted"
    assert log.take() == [f"{NO_MEMORY}WebSocket /bad"]
    assert await other.ask(get("/good")) == HELLO


async def test_a_start_that_went_bad_and_can_not_be_logged_ends_its_connection_and_no_other_of_its_turn(
    serve: Serve,
) -> None:
    """The start is held back to the end of the turn, and has been changed since."""

    async def app(scope: Event, receive: Any, send: Any) -> None:
        headers = [[b"x-a", b"b"]]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/bad":
            headers[0][1] = b"\r\n"
        await receive()
        await receive()

    worker = serve.asgi(app)
    log = without(NoTracebacks(), worker)
    client, other = worker.connect(), worker.connect()
    client.send(get("/bad"))
    assert await other.ask(get("/good")) == b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n"
    assert client.received == b""
    assert client.state == "aborted"
    assert log.take() == [f"{NO_MEMORY}GET /bad"]
