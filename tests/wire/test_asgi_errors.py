"""ASGI 3 applications that raise, or return too early: what the client gets, and what the log says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .asgi_apps import Event, Puppet, last, part, pathsend, start, trailers
from .conftest import Serve
from .harness import HELLO, ASGIWorker, Client, get, turn

INTERNAL_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\n\r\nInternal Server Error"
)

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Group(BaseException):
    pass


ERRORS = [
    ValueError("broken"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    Group("broken"),
    OSError("broken"),
    ClientDisconnected("of another connection"),
    ExceptionGroup("several", [ValueError("broken")]),
]
IDS = [type(error).__name__ for error in ERRORS]

#: The turn of the loop is over between each of these.
Turns = list[list[Event]]

BEFORE: dict[str, Turns] = {
    "nothing": [],
    "a start": [[start(200, (b"x-a", b"b"))]],
    "a start with a length": [[start(200, (b"content-length", b"5"))]],
    "a start of 304": [[start(304)]],
}

WITHIN: dict[str, tuple[Turns, bytes]] = {
    "a start that has left": ([[start()], []], CHUNKED_HEAD),
    "a part in the turn of the start": ([[start(), part(b"a")]], CHUNKED_HEAD + b"1\r\na\r\n"),
    "a part": ([[start()], [part(b"a")]], CHUNKED_HEAD + b"1\r\na\r\n"),
    "some of what was declared": (
        [[start(200, (b"content-length", b"5")), part(b"a")], []],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\na",
    ),
    "all but the trailers": ([[start(trailers=True), last(b"a")]], CHUNKED_HEAD + b"1\r\na\r\n"),
    "some of the trailers": (
        [[start(trailers=True), last(b"a")], [trailers((b"x-a", b"b"), more=True)]],
        CHUNKED_HEAD + b"1\r\na\r\n",
    ),
}


class Ends:
    """Sends these events, turn by turn, and ends by an error or without one; a request for ``/good`` is answered."""

    def __init__(self, turns: Turns, error: BaseException | None) -> None:
        self.turns = turns
        self.error = error

    async def __call__(self, scope: Event, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            await send(start())
            await send(last(b"hello"))
            return
        for number, events in enumerate(self.turns):
            if number:
                await asyncio.sleep(0)
            for event in events:
                await send(event)
        if self.error is not None:
            raise self.error


def connect(serve: Serve, turns: Turns, error: BaseException | None) -> tuple[ASGIWorker, Client]:
    worker = serve.asgi(Ends(turns, error))
    return worker, worker.connect()


UNFINISHED = "The application returned without finishing its reply (does it reply, with each send awaited?): GET /bad"


@pytest.mark.parametrize("error", ERRORS, ids=IDS)
@pytest.mark.parametrize("turns", BEFORE.values(), ids=BEFORE)
async def test_an_error_before_anything_has_left_is_answered_with_500(
    serve: Serve, turns: Turns, error: BaseException
) -> None:
    worker, client = connect(serve, turns, error)
    assert await client.ask(get("/bad") + get("/good")) == INTERNAL_ERROR + HELLO
    assert client.state == "open"
    assert worker.log.take() == [f"The application raised: GET /bad [{type(error).__name__}: {error}]"]


@pytest.mark.parametrize("error", ERRORS, ids=IDS)
@pytest.mark.parametrize(("turns", "sent"), WITHIN.values(), ids=WITHIN)
async def test_an_error_within_the_reply_ends_the_connection(
    serve: Serve, turns: Turns, sent: bytes, error: BaseException
) -> None:
    worker, client = connect(serve, turns, error)
    assert await client.ask(get("/bad") + get("/good")) == sent
    assert client.has_ended
    assert worker.log.take() == [f"The application raised: GET /bad [{type(error).__name__}: {error}]"]


@pytest.mark.parametrize("turns", BEFORE.values(), ids=BEFORE)
async def test_a_return_before_anything_has_left_is_answered_with_500(serve: Serve, turns: Turns) -> None:
    worker, client = connect(serve, turns, None)
    assert await client.ask(get("/bad") + get("/good")) == INTERNAL_ERROR + HELLO
    assert client.state == "open"
    assert worker.log.take() == [UNFINISHED]


@pytest.mark.parametrize(("turns", "sent"), WITHIN.values(), ids=WITHIN)
async def test_a_return_within_the_reply_ends_the_connection(serve: Serve, turns: Turns, sent: bytes) -> None:
    worker, client = connect(serve, turns, None)
    assert await client.ask(get("/bad") + get("/good")) == sent
    assert client.has_ended
    assert worker.log.take() == [UNFINISHED]


async def test_a_reply_up_to_the_end_of_the_connection_that_breaks_off_is_reset(serve: Serve) -> None:
    worker, client = connect(serve, [[start(), part(b"a")]], ValueError("broken"))
    assert await client.ask(b"GET /bad HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\na"
    assert client.state == "aborted"
    assert client.transport.socket.options != []
    assert len(worker.log.take()) == 1


@pytest.mark.parametrize("error", ERRORS, ids=IDS)
async def test_an_error_after_the_reply_is_logged_and_the_connection_kept(serve: Serve, error: BaseException) -> None:
    worker, client = connect(serve, [[start(), last(b"hello")]], error)
    assert await client.ask(get("/bad") + get("/good")) == HELLO + HELLO
    assert client.state == "open"
    assert worker.log.take() == [f"The application raised: GET /bad [{type(error).__name__}: {error}]"]


async def test_the_error_of_a_file_that_is_not_there_is_answered_with_500(serve: Serve, tmp_path: Any) -> None:
    done = asyncio.Event()

    async def missing(scope: Event, receive: Any, send: Any) -> None:
        await send(start(200, (b"x-a", b"b")))
        try:
            await send(pathsend(tmp_path / "missing"))
        finally:
            done.set()

    worker = serve.asgi(missing)
    client = worker.connect()
    client.send(get("/bad"))
    await asyncio.wait_for(done.wait(), 10)
    await turn()
    assert client.take() == INTERNAL_ERROR
    [line] = worker.log.take()
    assert line.startswith("The application raised: GET /bad [FileNotFoundError: ")


async def test_an_error_while_the_worker_stops_is_answered_as_any_other(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    client = worker.connect()
    await client.ask(get())
    worker.drain()
    await app.raises(ValueError("broken"))
    assert client.take().startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert client.state == "closed"
    assert worker.log.take() == ["The application raised: GET / [ValueError: broken]"]


@pytest.mark.parametrize("began", [False, True])
async def test_a_call_that_is_cancelled_at_the_end_of_the_workers_time_is_answered_with_503_if_it_can_be(
    serve: Serve, began: bool
) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    client = worker.connect()
    await client.ask(get())
    if began:
        await app.sends(start(), part(b"a"))
    client.take()
    worker.drain()
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    assert app.was_cancelled
    assert client.take().startswith(b"" if began else b"HTTP/1.1 503 Service Unavailable\r\n")
    assert client.has_ended
    assert worker.log.take() == []
