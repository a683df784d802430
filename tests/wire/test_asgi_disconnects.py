"""What an ASGI 3 application is told of the end of its client, and what becomes of its call then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .asgi_apps import DISCONNECT, NO_BODY, Puppet, Script, hint, last, part, pathsend, request, start, trailers
from .conftest import Serve
from .harness import HELLO, get, post, turn


async def test_receive_waits_for_a_client_that_stays(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    assert await app.receives() == NO_BODY
    received = await app.begins(app.receive())
    assert not received.done()
    client.reset()
    await turn()
    assert received.result() == DISCONNECT
    assert await app.receives() == await app.receives() == DISCONNECT


async def test_a_client_that_ends_its_side_is_told_of_and_still_gets_its_answer(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    assert await app.receives() == NO_BODY
    received = await app.begins(app.receive())
    client.end()
    await turn()
    assert received.result() == DISCONNECT
    assert await app.receives() == DISCONNECT
    await app.sends(start(), last(b"hello"))
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    assert client.state == "closed"


async def test_an_end_that_comes_with_the_request_is_told(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    client.send(get())
    client.end()  # Before the application's call has begun.
    await turn()
    assert await app.receives() == NO_BODY
    assert await app.receives() == DISCONNECT


async def test_an_end_is_told_to_each_of_pipelined_requests(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get("/1") + get("/2"))
    client.end()
    await turn()
    assert (await app.receives(), await app.receives()) == (NO_BODY, DISCONNECT)
    await app.sends(start(), last())  # The next call has begun then.
    assert [scope["path"] for scope in app.scopes] == ["/1", "/2"]
    assert (await app.receives(), await app.receives()) == (NO_BODY, DISCONNECT)


@pytest.mark.parametrize("ends", ["reset", "end"])
async def test_a_client_that_goes_within_its_body_is_told_of_behind_what_has_come(serve: Serve, ends: str) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(post("/", b"hello")[:-2])
    getattr(client, ends)()
    await turn()
    assert await app.receives() == request(b"hel", more=True)
    assert await app.receives() == DISCONNECT
    assert await app.receives() == DISCONNECT


async def test_a_body_that_stalls_is_a_disconnect_for_good(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app, timeout=5)
    client = worker.connect()
    await client.ask(post("/", b"hello")[:-5])
    received = await app.begins(app.receive())
    await worker.wait(7)
    assert received.result() == DISCONNECT
    assert await app.receives() == DISCONNECT


@pytest.mark.parametrize("ends", ["reset", "end"])
async def test_who_returns_because_the_body_broke_off_is_not_blamed(serve: Serve, ends: str) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    worker = serve.asgi(app)
    client = worker.connect()
    await client.ask(post("/", b"hello")[:-2])
    getattr(client, ends)()
    await turn()
    assert worker.log.take() == []
    assert not worker.service.running
    assert client.has_ended


async def test_who_returns_because_the_body_stalled_is_not_blamed_and_the_client_is_told(serve: Serve) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    worker = serve.asgi(app, timeout=5)
    client = worker.connect()
    await client.ask(post("/", b"hello")[:-2])
    await worker.wait(7)
    assert worker.log.take() == []
    assert client.take().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert client.has_ended


async def test_several_tasks_can_wait_for_the_end_of_the_client(serve: Serve) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        assert await receive() == NO_BODY
        waiting = [asyncio.create_task(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        events.extend(await asyncio.gather(*waiting, return_exceptions=True))

    events: list[Any] = []
    client = serve.asgi(app).connect()
    await client.ask(get())
    client.reset()
    await turn()
    assert isinstance(events[0], asyncio.CancelledError)
    assert events[1:] == [DISCONNECT, DISCONNECT]


# After the response.


async def test_a_complete_response_ends_the_wait_for_the_client(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(get())
    assert await app.receives() == NO_BODY
    received = asyncio.ensure_future(app.receive())
    await turn()
    assert not received.done()
    await app.sends(start(), last(b"hello"))
    assert client.take() == HELLO
    assert received.done()
    assert await received == await app.receives() == DISCONNECT


@pytest.mark.parametrize("sent", [get(), post("/", b"hello"), post("/", b"hello")[:-2]], ids=["none", "all", "some"])
async def test_after_a_complete_response_there_is_nothing_to_receive_but_the_disconnect(
    serve: Serve, sent: bytes
) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    await client.ask(sent)
    await app.sends(start(), last(b"hello"))
    assert client.take() == HELLO
    assert await app.receives() == await app.receives() == DISCONNECT


# The task.


async def test_a_call_is_not_cancelled_for_a_client_that_has_gone(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    client = worker.connect()
    await client.ask(get())
    client.reset()
    await worker.wait(60)
    assert worker.service.running
    for event in (start(), last(), part(b"a"), hint(b"</a>"), pathsend("/a"), trailers()):
        with pytest.raises(OSError) as error:
            await app.sends(event)
        assert isinstance(error.value, ClientDisconnected)
    assert not app.was_cancelled
    await app.returns()
    assert not worker.service.running


async def test_a_grace_period_cancels_a_call_whose_client_has_gone_and_says_nothing(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app, disconnect_grace=0.0)
    client = worker.connect()
    await client.ask(get())
    client.reset()
    await turn(50)
    assert app.was_cancelled
    assert not worker.service.running
    assert worker.log.take() == []


async def test_a_grace_period_ends_a_call_quietly_whose_client_has_only_ended_its_part(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app, disconnect_grace=0.0)
    client = worker.connect()
    await client.ask(get())
    client.end()
    await turn()
    assert app.was_cancelled
    assert client.take() == b""
    assert client.has_ended
    assert worker.log.take() == []


async def test_a_call_that_ends_within_the_grace_period_is_not_cancelled(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app, disconnect_grace=60.0)
    client = worker.connect()
    await client.ask(get())
    client.reset()
    await turn()
    assert (await app.receives(), await app.receives()) == (NO_BODY, DISCONNECT)
    await app.returns()
    assert not app.was_cancelled
    assert not worker.service.running


async def test_an_error_for_a_client_that_has_gone_is_not_logged(serve: Serve) -> None:
    app = Script(start(), None, *[part(b"a"), None] * 5)
    worker = serve.asgi(app)
    client = worker.connect()
    client.send(get())
    await asyncio.sleep(0)
    client.reset()
    await turn(30)
    assert isinstance(app.error, ClientDisconnected)
    assert worker.log.take() == []
