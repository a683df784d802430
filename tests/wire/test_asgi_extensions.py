"""What an ASGI 3 application can send beside a start and a body: early hints, trailers, and files by their path."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from uvicorn_worker.config import FILE_PIECE
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply

from .asgi_apps import DISCONNECT, NO_BODY, Event, Puppet, Script, hint, last, part, pathsend, start, trailers
from .conftest import Serve
from .harness import HELLO, ASGIWorker, Client, Transport, get, turn

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>\r\n\r\n"
LINKS = (b"</a.css>; rel=preload", b"</b.js>")


# Early hints.


async def test_early_hints_leave_at_once_before_the_response(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    await app.sends(hint(*LINKS))
    assert client.take() == HINTS
    await app.sends(hint(b"</c.js>"))
    assert client.take() == b"HTTP/1.1 103 Early Hints\r\nlink: </c.js>\r\n\r\n"
    await app.sends(start(), last(b"hello"))
    assert client.take() == HELLO


async def test_a_client_of_http_1_0_gets_no_early_hints(serve: Serve) -> None:
    app = Script(hint(*LINKS), start(), last())
    reply = await serve.asgi(app).connect().ask(OLD)
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    assert app.error is None


HINTS_TOO_LATE: dict[str, list[Event | None]] = {
    "after a start in the same turn": [start()],
    "after a start": [start(), None, None],
    "within the body": [start(), part(b"a")],
    "after the end": [start(), last()],
}


@pytest.mark.parametrize("before", HINTS_TOO_LATE.values(), ids=HINTS_TOO_LATE)
async def test_early_hints_come_before_the_start(serve: Serve, before: list[Event | None]) -> None:
    app = Script(*before, hint(*LINKS))
    worker = serve.asgi(app)
    reply = await worker.connect().ask(get())
    assert isinstance(app.error, IllegalMove)
    assert b"103" not in reply
    worker.log.take()


@pytest.mark.parametrize("link", [b"</a>\r\nx: y", b"</a>\0"])
async def test_a_link_that_would_break_out_of_its_line_is_refused(serve: Serve, link: bytes) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    with pytest.raises(InvalidReply):
        await app.sends(hint(b"</b>", link))
    assert client.take() == b""
    await app.sends(start(), last(b"hello"))
    assert client.take() == HELLO


# Trailers.

SUM = (b"x-sum", b"1")
TRAILED = CHUNKED_HEAD + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"

TRAILERS: dict[str, tuple[bytes, list[Event | None], bytes]] = {
    "behind a whole body": (get(), [start(trailers=True), last(b"hello"), trailers(SUM)], TRAILED),
    "in a later turn": (get(), [start(trailers=True), None, last(b"hello"), None, trailers(SUM)], TRAILED),
    "behind a body in parts": (
        get(),
        [start(trailers=True), part(b"he"), part(b"llo"), last(), trailers(SUM)],
        CHUNKED_HEAD + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n",
    ),
    "in several events": (
        get(),
        [start(trailers=True), last(b"hello"), trailers(SUM, more=True), None, trailers((b"X-B", b"2"))],
        CHUNKED_HEAD + b"5\r\nhello\r\n0\r\nx-sum: 1\r\nX-B: 2\r\n\r\n",
    ),
    "none after all": (
        get(),
        [start(trailers=True), last(b"hello"), {"type": "http.response.trailers"}],
        CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n",
    ),
    "dropped where there is a length": (
        get(),
        [start(200, (b"content-length", b"5"), trailers=True), last(b"hello"), trailers(SUM)],
        HELLO,
    ),
    "dropped for HEAD": (HEAD, [start(trailers=True), last(b"hello"), trailers(SUM)], CHUNKED_HEAD),
    "dropped for 204": (
        get(),
        [start(204, trailers=True), last(), trailers(SUM)],
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ),
    "dropped for HTTP/1.0": (
        OLD,
        [start(trailers=True), last(b"hello"), trailers(SUM)],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
    ),
}


@pytest.mark.parametrize(("request_", "events", "reply"), TRAILERS.values(), ids=TRAILERS)
async def test_trailers_end_a_response_in_chunks_and_are_dropped_otherwise(
    serve: Serve, request_: bytes, events: list[Event | None], reply: bytes
) -> None:
    app = Script(*events)
    client = serve.asgi(app).connect()
    assert await client.ask(request_) == reply
    assert app.error is None
    if request_ is not OLD:
        assert await client.ask(request_) == reply


WRONG_TRAILERS: dict[str, tuple[list[Event], Event, type[Exception]]] = {
    "before the start": ([], trailers(SUM), IllegalMove),
    "before the body": ([start(trailers=True)], trailers(SUM), IllegalMove),
    "before the end of the body": ([start(trailers=True), part(b"a")], trailers(SUM), IllegalMove),
    "a start that said nothing of them": ([start(), part(b"a")], trailers(SUM), IllegalMove),
    "after the end": ([start(trailers=True), last(b"a"), trailers(SUM)], trailers(SUM), IllegalMove),
    "a body where they are due": ([start(trailers=True), last(b"a")], last(b"b"), IllegalMove),
    "a part where they are due": ([start(trailers=True), last(b"a")], part(b"b"), IllegalMove),
    "a line feed": ([start(trailers=True), last(b"a")], trailers((b"x", b"a\nb: c")), InvalidReply),
    "a length": ([start(trailers=True), last(b"a")], trailers((b"Content-Length", b"5")), InvalidReply),
    "a coding": ([start(trailers=True), last(b"a")], trailers((b"transfer-encoding", b"gzip")), InvalidReply),
}


@pytest.mark.parametrize(("events", "wrong", "error"), WRONG_TRAILERS.values(), ids=WRONG_TRAILERS)
async def test_trailers_at_the_wrong_time_or_of_the_wrong_kind_are_refused(
    serve: Serve, events: list[Event], wrong: Event, error: type[Exception]
) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    if events:
        await app.sends(*events)
    client.take()
    with pytest.raises(error):
        await app.sends(wrong)
    assert client.take() == b""


async def test_the_last_trailers_end_the_wait_for_the_client(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    assert await app.receives() == NO_BODY
    received = asyncio.ensure_future(app.receive())
    await app.sends(start(trailers=True), last(b"hello"))
    assert not received.done()
    await app.sends(trailers(SUM))
    assert client.take() == TRAILED
    assert received.done()
    assert received.result() == await app.receives() == DISCONNECT


# Files.


class SendsFile:
    """Sends a start and a file, and tells a test when that is over."""

    def __init__(self, path: object, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        self.events = [start(status, *headers), pathsend(path)]
        self.done = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, scope: Event, receive: Any, send: Any) -> None:
        try:
            for event in self.events:
                await send(event)
        except Exception as error:
            self.error = error.with_traceback(None)
        finally:
            self.done.set()

    async def over(self) -> None:
        await asyncio.wait_for(self.done.wait(), 10)
        await turn()


async def file_sent(serve: Serve, request: bytes, app: SendsFile, **settings: Any) -> tuple[bytes, Client, ASGIWorker]:
    worker = serve.asgi(app, **settings)
    client = worker.connect()
    client.send(request)
    await app.over()
    return client.take(), client, worker


def file_of(tmp_path: Path, size: int) -> tuple[Path, bytes]:
    """A file in which each place can be told from others."""
    content = b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(content)
    return path, content


@pytest.mark.parametrize("size", [0, 1, 5, FILE_PIECE - 1, FILE_PIECE, FILE_PIECE + 1, 3 * FILE_PIECE])
async def test_a_file_is_sent_with_its_length(serve: Serve, tmp_path: Path, size: int) -> None:
    path, content = file_of(tmp_path, size)
    app = SendsFile(path)
    reply, client, _ = await file_sent(serve, get(), app)
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + content
    assert app.error is None
    app.done.clear()
    client.send(get())
    await app.over()
    assert client.take() == reply


async def test_a_file_may_have_fields_of_its_own_and_a_length(serve: Serve, tmp_path: Path) -> None:
    path, _ = file_of(tmp_path, 5)
    app = SendsFile(path, (b"Content-Length", b"5"), (b"content-type", b"text/plain"))
    reply, _, _ = await file_sent(serve, get(), app)
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n00000"


@pytest.mark.parametrize(
    ("request_", "status", "head"),
    [
        (HEAD, 200, b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n"),
        (get(), 304, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500000\r\n\r\n"),
    ],
)
async def test_a_response_without_a_body_says_the_length_of_the_file(
    serve: Serve, tmp_path: Path, request_: bytes, status: int, head: bytes
) -> None:
    path, _ = file_of(tmp_path, 500_000)
    app = SendsFile(path, status=status)
    reply, client, _ = await file_sent(serve, request_, app)
    assert reply == head
    assert client.state == "open"


async def test_a_client_of_http_1_0_gets_a_file(serve: Serve, tmp_path: Path) -> None:
    path, content = file_of(tmp_path, 5)
    reply, client, _ = await file_sent(serve, OLD, SendsFile(path))
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n" + content
    assert client.state == "closed"


async def test_a_file_is_read_no_faster_than_the_client_reads(serve: Serve, tmp_path: Path) -> None:
    path, content = file_of(tmp_path, 10 * FILE_PIECE)
    app = SendsFile(path)
    client = serve.asgi(app).connect()
    client.stop_reading()
    client.send(get())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while not client.transport.get_write_buffer_size():
            await turn()
    for _ in range(50):  # Time for more, through the threads that read.
        await loop.run_in_executor(None, os.getpid)
        await turn()
    assert not app.done.is_set()
    assert client.transport.get_write_buffer_size() <= FILE_PIECE + Transport.HIGH_WATER + 1000
    client.read()
    await app.over()
    assert client.take().partition(b"\r\n\r\n")[2] == content


@pytest.mark.parametrize("lacks", ["missing", "a directory"])
async def test_a_file_that_can_not_be_opened_lets_another_response_be_sent(
    serve: Serve, tmp_path: Path, lacks: str
) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        await send(start())
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            await send(pathsend(tmp_path / "missing" if lacks == "missing" else tmp_path))
        await send(start(404))
        await send(last(b"gone"))
        done.set()

    done = asyncio.Event()
    client = serve.asgi(app).connect()
    client.send(get())
    await asyncio.wait_for(done.wait(), 10)
    assert client.take() == b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"


@pytest.mark.parametrize("length", [b"4", b"6"])
async def test_a_file_of_another_length_than_was_declared_is_an_error(
    serve: Serve, tmp_path: Path, length: bytes
) -> None:
    path, _ = file_of(tmp_path, 5)
    app = SendsFile(path, (b"content-length", length))
    reply, client, worker = await file_sent(serve, get(), app)
    assert isinstance(app.error, InvalidReply)
    assert len(worker.log.take()) == 1
    assert reply.startswith(b"HTTP/1.1 500 ") or client.has_ended


async def test_a_client_that_goes_while_a_file_is_sent_ends_that(serve: Serve, tmp_path: Path) -> None:
    path, _ = file_of(tmp_path, 10 * FILE_PIECE)
    app = SendsFile(path)
    worker = serve.asgi(app)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    async with asyncio.timeout(10):
        while not client.transport.get_write_buffer_size():
            await turn()
    client.reset()
    await app.over()
    assert isinstance(app.error, ClientDisconnected)
    assert worker.log.take() == []


async def test_a_file_may_come_behind_a_start_that_has_left(serve: Serve, tmp_path: Path) -> None:
    """Middlewares pass it on in a later turn of the loop."""
    path, content = file_of(tmp_path, 5)
    client = serve.asgi(Script(start(), None, None, pathsend(path))).connect()
    client.send(get())
    async with asyncio.timeout(10):
        while not client.received.endswith(b"0\r\n\r\n"):
            await turn()
    assert client.received.endswith(b"\r\n\r\n5\r\n%b\r\n0\r\n\r\n" % content)


@pytest.mark.parametrize("before", [[], [start(), part(b"a")], [start(), None, part(b"a")], [start(), last()]])
async def test_a_file_comes_right_behind_the_start(
    serve: Serve, tmp_path: Path, before: list[Event | None]
) -> None:
    path, _ = file_of(tmp_path, 5)
    app = Script(*before, pathsend(path))
    worker = serve.asgi(app)
    await worker.connect().ask(get())
    assert isinstance(app.error, IllegalMove)
    worker.log.take()


async def test_the_end_of_a_file_ends_the_wait_for_the_client(serve: Serve, tmp_path: Path) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        assert await receive() == NO_BODY
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(start())
        await send(pathsend(path))
        sent.set()
        events.append(await waiting)

    events: list[Event] = []
    sent = asyncio.Event()
    path, content = file_of(tmp_path, 5)
    client = serve.asgi(app).connect()
    client.send(get())
    await asyncio.wait_for(sent.wait(), 10)
    await turn()
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + content
    assert events == [DISCONNECT]


async def test_trailers_can_follow_a_file(serve: Serve, tmp_path: Path) -> None:
    path, content = file_of(tmp_path, 5)
    app = SendsFile(path)
    app.events = [start(trailers=True), pathsend(path), trailers(SUM)]
    reply, client, _ = await file_sent(serve, get(), app)
    assert app.error is None
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + content
    assert client.state == "open"
