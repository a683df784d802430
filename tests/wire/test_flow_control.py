"""Bounds of what a worker holds for a connection, in both directions."""

from __future__ import annotations

import asyncio

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .conftest import Serve
from .harness import Gate, Transport, chunked, get, hello, ok, post, read_body, turn

BOUND = 64 * 1024
SLICE = 16 * 1024
PIECE = 10_000


class Taker:
    """Receives one part of the body whenever a test says so."""

    def __init__(self) -> None:
        self.received = 0
        self._go_on = asyncio.Semaphore(0)

    async def __call__(self, message: dict, channels: dict) -> None:
        more_content = True
        while more_content:
            await self._go_on.acquire()
            part = await channels["body"].receive()
            self.received += len(part["content"])
            more_content = part["more_content"]
        await hello(message, channels)

    async def receive(self) -> None:
        self._go_on.release()
        await turn(40)


# Towards the worker.


@pytest.mark.parametrize("kind", ["sized", "chunked"])
async def test_an_unread_body_stops_the_socket_being_read(serve: Serve, kind: str) -> None:
    app = Taker()
    client = serve(app).connect()
    body = bytes(100 * PIECE)
    sent = post("/", body) if kind == "sized" else chunked("/", *[bytes(PIECE)] * 100)
    client.send(*(sent[start : start + PIECE] for start in range(0, len(sent), PIECE)))
    await turn()
    assert not client.transport.reading
    assert len(sent) - client.transport.unread <= BOUND + SLICE
    before = client.transport.unread
    await app.receive()
    assert app.received > BOUND - PIECE
    assert before - BOUND - SLICE - PIECE <= client.transport.unread < before
    assert not client.transport.reading
    while app.received < len(body):
        await app.receive()
        assert len(sent) - client.transport.unread - app.received <= 2 * (BOUND + SLICE)
    await app.receive()
    assert client.received.endswith(b"hello")
    assert client.transport.reading
    assert client.state == "open"


async def test_a_body_that_came_in_one_read_is_held_unparsed(serve: Serve) -> None:
    app = Taker()
    client = serve(app).connect()
    client.send(post("/", bytes(250_000)) + get("/"))
    await turn()
    await app.receive()
    assert BOUND <= app.received <= BOUND + 2 * SLICE
    while app.received < 250_000:
        await app.receive()


async def test_the_bound_of_an_unread_body_is_an_option(serve: Serve) -> None:
    client = serve(Gate(), request_body_buffer=100).connect()
    sent = post("/", bytes(1000))
    client.send(sent[:-900])
    await turn()
    assert client.transport.reading
    client.send(sent[-900:-899])
    assert not client.transport.reading


async def test_the_body_of_a_request_that_has_not_begun_is_bounded_too(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    sent = get("/first") + post("/second", bytes(300_000))
    client.send(*(sent[start : start + PIECE] for start in range(0, len(sent), PIECE)))
    await turn()
    assert not client.transport.reading
    assert len(sent) - client.transport.unread <= BOUND + SLICE
    await app.open()
    await turn(100)
    assert app.calls == ["/first", "/second"]
    assert len(sent) - client.transport.unread <= 3 * (BOUND + SLICE)


async def test_an_unread_body_that_is_dropped_lets_the_socket_be_read_again(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    sent = chunked("/", *[bytes(PIECE)] * 8)
    client.send(*(sent[start : start + 5000] for start in range(0, len(sent), 5000)))
    await turn()
    assert not client.transport.reading
    await app.open()
    await turn(50)
    assert client.take() == ok("/")
    assert client.transport.reading
    assert client.transport.unread == 0
    client.send(get("/next"))
    await turn()
    await app.open()
    assert client.take() == ok("/next")


async def test_a_complete_body_that_nobody_received_does_not_keep_the_socket_unread(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(post("/", bytes(BOUND + 100)))
    await turn()
    assert not client.transport.reading
    await app.open()
    await turn()
    assert client.take() == ok("/")
    assert client.transport.reading
    client.send(get("/next"))
    await turn()
    await app.open()
    assert client.take() == ok("/next")


# Towards the client.


class Sender:
    """Streams pieces for ever, and counts those that it has sent."""

    def __init__(self, size: int = PIECE) -> None:
        self.size = size
        self.sent = 0
        self.error: BaseException | None = None

    async def __call__(self, message: dict, channels: dict) -> None:
        reply = channels["reply"]
        try:
            await reply.send({"status": 200, "more_content": True})
            while True:
                await reply.send({"content": bytes(self.size), "more_content": True})
                self.sent += 1
                await asyncio.sleep(0)
        except BaseException as error:
            self.error = error
            raise


async def test_send_waits_while_the_client_does_not_read(serve: Serve) -> None:
    app = Sender()
    client = serve(app).connect()
    client.stop_reading()
    await client.ask(get())
    await turn(100)
    assert app.sent * PIECE <= Transport.HIGH_WATER
    buffered = client.transport.get_write_buffer_size()
    assert buffered <= Transport.HIGH_WATER + 2 * PIECE
    client.read(20_000)
    await turn(100)
    assert client.transport.get_write_buffer_size() < buffered
    client.read(buffered)
    await turn(100)
    assert app.sent > 6
    client.reset()


async def test_a_sender_that_waits_is_woken_when_the_client_goes(serve: Serve) -> None:
    app = Sender()
    worker = serve(app)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await turn(100)
    client.reset()
    await turn()
    assert type(app.error) is ClientDisconnected
    assert not worker.service.running


async def test_a_sender_that_never_waits_learns_that_the_client_has_gone(serve: Serve) -> None:
    errors = []

    async def app(message: dict, channels: dict) -> None:
        try:
            await channels["reply"].send({"status": 200, "more_content": True})
            client.reset()
            for _ in range(100):
                await channels["reply"].send({"content": bytes(1024), "more_content": True})
        except Exception as error:
            errors.append(error)
            raise

    worker = serve(app)
    client = worker.connect()
    client.send(get())
    await turn()
    assert [type(error) for error in errors] == [ClientDisconnected]


async def test_several_tasks_may_wait_to_send(serve: Serve) -> None:
    done = []

    async def app(message: dict, channels: dict) -> None:
        reply = channels["reply"]
        await reply.send({"status": 200, "content": bytes(100_000), "more_content": True})

        async def send(name: str) -> None:
            await reply.send({"content": name.encode(), "more_content": True})
            done.append(name)

        await asyncio.gather(send("a"), send("b"))
        await reply.send({})

    worker = serve(app)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await turn(30)
    assert done == []
    client.read()
    await turn(30)
    assert sorted(done) == ["a", "b"]
    assert client.received.endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


async def test_a_send_that_was_cancelled_while_it_waited_leaves_the_others_waiting(serve: Serve) -> None:
    done = []

    async def app(message: dict, channels: dict) -> None:
        reply = channels["reply"]
        await reply.send({"status": 200, "more_content": True})
        first = asyncio.ensure_future(reply.send({"content": bytes(100_000), "more_content": True}))
        second = asyncio.ensure_future(reply.send({"content": b"a", "more_content": True}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await second
        done.append("second")
        await reply.send({})

    worker = serve(app)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await turn(30)
    assert done == []
    client.read()
    await turn(30)
    assert done == ["second"]
    assert client.received.endswith(b"1\r\na\r\n0\r\n\r\n")


async def test_interim_responses_fill_no_buffer_of_a_client_that_does_not_read(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        for _ in range(2000):
            await channels["reply"].send({"status": 103, "headers": [(b"link", b"</a>" * 100)]})
        await hello(message, channels)

    client = serve(app).connect()
    client.stop_reading()
    client.send(get())
    await turn()
    assert client.transport.get_write_buffer_size() <= Transport.HIGH_WATER + 1000
    client.read()
    await turn(5000)
    assert client.received.endswith(ok("hello"))


async def test_no_request_begins_while_the_client_does_not_read(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        await channels["reply"].send({"status": 200, "content": bytes(100_000)})

    worker = serve(app, keepalive=2.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get("/1") + get("/2"), get("/3"))
    await turn()
    assert calls == ["/1"]
    client.read()
    await turn(40)
    assert calls == ["/1", "/2", "/3"]


async def test_a_request_that_arrives_while_the_client_does_not_read_is_answered_later(serve: Serve) -> None:
    """Though the reply before it takes longer to be read than a connection may be idle."""

    async def app(message: dict, channels: dict) -> None:
        await read_body(channels)
        await channels["reply"].send({"status": 200, "content": bytes(200_000)})

    worker = serve(app, keepalive=2.0, timeout=30.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get("/1"))
    await turn()
    client.send(post("/2", b"hello"))
    for _ in range(8):
        await worker.wait(5)
        client.read(10_000)
    client.read()
    await turn(40)
    assert client.received.count(b"HTTP/1.1 200 OK") == 2
    assert client.state == "open"
