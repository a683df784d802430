"""How long a worker waits for a client to read what it is sent, and to close, and how it ends a connection then."""

from __future__ import annotations

import socket

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .conftest import Serve
from .harness import get, turn


async def test_a_client_that_does_not_close_after_a_refusal_is_cut_off(serve: Serve) -> None:
    worker = serve(linger_timeout=2.0)
    client = worker.connect()
    await client.ask(b"\0")
    assert client.state == "half-closed"
    await worker.wait(1)
    client.send(b"x" * 100_000)
    assert client.transport.unread == 0
    await worker.wait(3)
    assert client.state == "aborted"


async def test_a_client_that_closes_after_a_refusal_has_closed_both_ways(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    await client.ask(b"\0")
    client.end()
    await turn()
    assert client.state == "closed"
    assert worker.waiting == 0


async def test_a_last_answer_that_is_not_read_is_waited_for_and_given_up(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": bytes(300_000)})

    worker = serve(app, timeout=30.0, keepalive=2.0)
    for request in (get("/", "Connection: close"), get("/")):
        client = worker.connect()
        client.stop_reading()
        client.send(request)
        await worker.wait(29)
        assert not client.transport.lost
        await worker.wait(8)
        assert client.state == "aborted"


async def test_a_last_answer_that_is_read_slowly_is_waited_for(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": bytes(300_000)})

    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get("/", "Connection: close"))
    for _ in range(20):
        await worker.wait(30)
        assert not client.transport.lost
        client.read(10_000)
    client.read()
    assert client.received.endswith(b"\r\n\r\n" + bytes(300_000))
    assert client.state == "closed"


async def test_a_client_that_reads_its_reply_slowly_is_not_idle(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": bytes(100_000)})

    worker = serve(app, timeout=30.0, keepalive=5.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    for _ in range(8):
        await worker.wait(10)
        client.read(10_000)
    assert client.state == "open"
    client.read()
    client.send(get())
    await turn()
    assert client.received.count(b"HTTP/1.1 200 OK") == 2
    assert await worker.seconds_until_end(client) in (5, 6, 7)
    assert client.state == "closed"


async def test_without_lingering_a_refused_connection_is_closed_at_once(serve: Serve) -> None:
    client = serve(linger_timeout=0.0).connect()
    assert (await client.ask(b"\0")).startswith(b"HTTP/1.1 501 ")
    assert client.state == "closed"


async def test_a_refusal_that_is_not_read_is_waited_for(serve: Serve) -> None:
    worker = serve(timeout=30.0, linger_timeout=2.0)
    client = worker.connect()
    client.stop_reading()
    client.send(b"\0")
    await worker.wait(29)
    assert not client.transport.lost
    client.read()
    await worker.wait(4)
    assert client.received.startswith(b"HTTP/1.1 501 ")
    await worker.wait(4)
    assert client.state == "aborted"


@pytest.mark.parametrize("pipelined", [1, 2])
async def test_a_client_that_never_reads_its_replies_is_given_up(serve: Serve, pipelined: int) -> None:
    """Be it idle, or with more requests behind the reply that it does not read."""

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": bytes(300_000)})

    worker = serve(app, timeout=30.0, keepalive=2.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get() * pipelined)
    await worker.wait(100)
    assert client.state == "aborted"


class Pours:
    """Sends a megabyte in pieces, and keeps how that ends."""

    error: Exception | None = None
    is_done = False

    async def __call__(self, message: dict, channels: dict) -> None:
        reply = channels["reply"]
        try:
            await reply.send({"status": 200, "more_content": True})
            for left in range(99, -1, -1):
                await reply.send({"content": bytes(10_000), "more_content": left > 0})
        except Exception as error:
            self.error = error
            raise
        self.is_done = True


async def test_a_client_that_never_reads_a_reply_under_way_is_given_up(serve: Serve) -> None:
    app = Pours()
    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await turn()
    client.read(10_000)
    assert await worker.seconds_until_end(client) in (60, 61, 62)  # It had read some in the first thirty.
    assert client.state == "aborted"
    assert type(app.error) is ClientDisconnected


async def test_a_client_that_reads_a_reply_under_way_slowly_is_waited_for(serve: Serve) -> None:
    app = Pours()
    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    for _ in range(120):
        await worker.wait(28)
        client.read(10_000)
    await turn(100)
    assert app.is_done
    assert client.received.endswith(b"\r\n0\r\n\r\n")


async def test_a_client_that_reads_on_in_time_has_as_long_for_the_next_part(serve: Serve) -> None:
    app = Pours()
    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await worker.wait(25)
    client.read(client.transport.get_write_buffer_size())
    await worker.wait(25)
    assert client.state == "open"
    await worker.wait(10)
    assert client.state == "aborted"


async def test_without_a_timeout_a_reply_may_be_read_when_the_client_likes(serve: Serve) -> None:
    app = Pours()
    worker = serve(app, timeout=0.0)
    client = worker.connect()
    client.stop_reading()
    client.send(get())
    await worker.wait(500)
    assert client.state == "open"
    client.read()
    await turn(500)
    assert app.is_done


async def test_a_reply_that_ends_with_its_connection_is_cut_by_a_reset(serve: Serve) -> None:
    """An orderly end would be the orderly end of the reply."""

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        raise ValueError("broken")

    worker = serve(app)
    client = worker.connect()
    await client.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert client.state == "aborted"
    [(level, option, value)] = client.transport.socket.options
    assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
    assert value == b"\1\0\0\0\0\0\0\0"
    assert worker.log.take() == ["The application raised: GET / [ValueError: broken]"]
