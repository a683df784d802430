"""A worker that is told to stop closes each connection as soon as no client could tell."""

from __future__ import annotations

import asyncio

from .conftest import Serve
from .harness import HELLO, Echo, Gate, get, post, turn

CLOSE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"


async def test_an_idle_connection_is_closed_after_a_grace(serve: Serve) -> None:
    worker = serve()
    clients = [worker.connect(), worker.connect()]
    await clients[0].ask(get())
    worker.drain()
    await turn()
    assert [client.state for client in clients] == ["open", "open"]
    await worker.end_grace()
    assert [client.state for client in clients] == ["closed", "closed"]


async def test_a_request_that_was_on_its_way_is_answered(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    await client.ask(get())
    worker.drain()
    assert await client.ask(get() + get()) == CLOSE
    assert client.has_ended
    await worker.end_grace()


async def test_a_connection_that_is_made_late_has_its_request_answered(serve: Serve) -> None:
    worker = serve()
    accepted = worker.accept()
    worker.drain()
    await worker.end_grace()
    client = worker.make(accepted)
    assert await client.ask(get()) == CLOSE
    assert client.has_ended


async def test_a_connection_that_is_made_late_and_is_idle_has_a_grace_of_its_own(serve: Serve) -> None:
    worker = serve()
    accepted = worker.accept()
    worker.drain()
    client = worker.make(accepted)
    await worker.end_grace()
    assert client.state == "open"
    worker.drain()
    await worker.end_grace()
    assert client.state == "closed"


async def test_a_head_that_has_begun_is_waited_for(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    client.send(get()[:20])
    worker.drain()
    await worker.end_grace()
    assert client.state == "open"
    assert await client.ask(get()[20:]) == CLOSE
    assert client.state == "closed"


async def test_a_reply_that_has_not_begun_announces_the_end(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    client = worker.connect()
    client.send(get("/1"))
    await turn()
    worker.drain()
    await app.open()
    assert client.received == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/1"
    assert client.state == "closed"


async def test_a_reply_that_has_begun_is_finished_and_its_connection_closed(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        await go_on.wait()
        await channels["reply"].send({})

    worker = serve(app, keepalive=75.0)
    client = worker.connect()
    await client.ask(get())
    worker.drain()
    await worker.end_grace()
    assert client.state == "open"
    go_on.set()
    await turn()
    assert client.received.endswith(b"1\r\na\r\n0\r\n\r\n")
    for _ in range(3):  # as with each tick of a server
        worker.drain()
        await worker.end_grace()
    assert client.state == "closed"


async def test_a_body_that_is_being_received_is_received(serve: Serve) -> None:
    worker = serve(Echo())
    client = worker.connect()
    sent = post("/", b"hello")
    client.send(sent[:-2])
    await turn()
    worker.drain()
    reply = await client.ask(sent[-2:])
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\nPOST / hello"
    assert client.state == "closed"


async def test_a_new_connection_is_still_answered_once(serve: Serve) -> None:
    worker = serve()
    worker.service.draining = True
    client = worker.connect()
    worker.drain()
    assert await client.ask(get() + get()) == CLOSE
    assert client.has_ended
    await worker.end_grace()


async def test_an_application_that_is_cancelled_at_the_end_is_answered_for_with_503(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await asyncio.Event().wait()

    worker = serve(app)
    client = worker.connect()
    client.send(get())
    await turn()
    worker.drain()
    for running in list(worker.service.running):
        assert str(running) == "GET /"
        running.cancel()
    await turn()
    assert client.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"connection: close\r\n" in client.received
    assert client.state == "closed"


async def test_a_reply_that_is_cancelled_at_the_end_is_cut(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        await asyncio.Event().wait()

    worker = serve(app)
    client = worker.connect()
    client.send(get())
    await turn()
    worker.drain()
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    assert client.received.endswith(b"1\r\na\r\n")
    assert client.has_ended


async def test_draining_again_changes_nothing(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    client = worker.connect()
    client.send(get("/1"))
    await turn()
    for _ in range(5):
        worker.drain()
    await app.open()
    assert client.received.count(b"connection: close") == 1
    assert client.state == "closed"


async def test_a_connection_that_lingers_can_be_drained(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    await client.ask(b"\0")
    worker.drain()
    await worker.end_grace()
    assert client.state == "half-closed"
    client.end()
    await turn()
    assert client.state == "closed"


async def test_pipelined_requests_may_go_unanswered_where_the_reply_before_them_says_so(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    client = worker.connect()
    client.send(get("/1") + get("/2"))
    await turn()
    worker.drain()
    await app.open()
    assert client.received == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/1"
    assert app.calls == ["/1"]
    assert client.state == "half-closed"


async def test_a_connection_can_be_aborted_at_any_time(serve: Serve) -> None:
    worker = serve(Gate())
    for sent in (b"", get()[:10], get(), post("/", b"hello")[:-2], b"\0", get() * 30):
        client = worker.connect()
        client.send(sent)
        await turn()
        for connection in list(worker.service.connections):
            connection.abort()
        await turn()
        assert client.state == "aborted"
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    assert set(worker.log.take()) == {
        "The application raised: GET / [CancelledError: ]",
        "The application raised: POST / [CancelledError: ]",
    }


async def test_an_idle_connection_answers_until_it_is_closed(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    assert await client.ask(get()) == HELLO
    assert await client.ask(get()) == HELLO
