"""Groups for ASGI 3 applications: an extension of the scope."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from uvicorn_worker.errors import InvalidGroupMessage

from .asgi_apps import Puppet
from .conftest import Serve
from .harness import Worker, get, ok, post, turn
from .websocket_client import TEXT, WebSocket, handshake

GROUPS = "uvicorn_worker.groups"


async def tell(worker: Worker, **message: Any) -> None:
    await worker.service.groups.send({"group": "chat", "send": message})
    await turn()


async def join(scope: dict[str, Any]) -> None:
    groups = scope["extensions"][GROUPS]
    await groups["send"]({"group": "chat", "add": groups["channel"]})


async def test_the_extension_is_a_mapping_of_the_channel_and_of_what_speaks_to_groups(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    await worker.connect().ask(get())
    extension = app.scopes[0]["extensions"][GROUPS]
    assert worker.service.groups.memberships == {}  # It has no name until somebody asks for that.
    assert dict(extension) == {"channel": extension["channel"], "send": extension["send"]}
    assert (extension.get("channel"), extension.get("other", 5), "send" in extension, "other" in extension) == (
        extension["channel"],
        5,
        True,
        False,
    )
    with pytest.raises(KeyError):
        extension["other"]
    assert copy.deepcopy(app.scopes[0])["extensions"][GROUPS] is extension
    with pytest.raises(InvalidGroupMessage):
        await extension["send"]({"group": "chat"})


class Consumer:
    """A WebSocket that joins the group before it accepts, as most do, and says what it receives to the group."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await join(scope)
        await self.go_on.wait()
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        while (event := await receive())["type"] == "websocket.receive":
            message = {"group": "chat", "send": {"text": event["text"]}}
            await scope["extensions"][GROUPS]["send"](message)


async def test_websockets_get_what_is_sent_to_their_group(serve: Serve) -> None:
    app = Consumer()
    app.go_on.set()
    worker = serve.asgi(app)
    asked = handshake("/", "Sec-WebSocket-Protocol: chat")
    sockets = [WebSocket(client, await client.ask(asked)) for client in [worker.connect() for _ in range(3)]]
    await tell(worker, text="hi")
    assert [socket.take() for socket in sockets] == [[(TEXT, b"hi")]] * 3
    sockets[0].client.reset()
    await turn()
    assert worker.service.groups.stats()["members"] == 2


async def test_what_is_sent_before_the_application_accepts_waits_for_that(serve: Serve) -> None:
    app = Consumer()
    worker = serve.asgi(app)
    client = worker.connect()
    assert await client.ask(handshake("/", "Sec-WebSocket-Protocol: chat")) == b""
    for text in ("one", "two"):
        await tell(worker, text=text)
    assert client.take() == b""
    app.go_on.set()
    await turn()
    answer, _, frames = client.take().partition(b"\r\n\r\n")
    assert b"Sec-WebSocket-Protocol: chat" in answer
    assert frames == b"\x81\x03one\x81\x03two"


async def test_too_much_that_waits_for_the_application_to_accept_rejects(serve: Serve) -> None:
    app = Consumer()
    worker = serve.asgi(app, groups_max_backlog=1000)
    client = worker.connect()
    await client.ask(handshake())
    for _ in range(4):
        await tell(worker, text="x" * 300)
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert worker.service.groups.stats()["members"] == 0
    app.go_on.set()  # It finds the client gone, which nobody needs to hear of.


async def test_a_handshake_that_is_left_unanswered_is_rejected_even_of_a_member(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await join(scope)

    worker = serve.asgi(app)
    assert (await worker.connect().ask(handshake())).startswith(b"HTTP/1.1 403 ")
    assert len(worker.log.take()) == 1


# Requests.


async def test_a_response_is_held_and_answered_through_the_group(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await join(scope)

    worker = serve.asgi(app)
    clients = [worker.connect(), worker.connect()]
    assert await clients[0].ask(get()) == await clients[1].ask(post("/", b"unread")) == b""
    await tell(worker, status=200, content=b"news")
    for client in clients:
        assert client.take() == ok("news")
        assert await client.ask(get()) == b""
    worker.drain()
    await turn()
    assert all(client.take().startswith(b"HTTP/1.1 503 ") for client in clients)


async def test_an_application_that_waits_is_told_when_the_group_has_answered(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    client = worker.connect()
    await client.ask(get())
    await join(app.scopes[0])
    assert (await app.receives())["type"] == "http.request"
    waiting = await app.begins(app.receive())
    assert not waiting.done()
    await tell(worker, status=200, content=b"news")
    assert client.take() == ok("news")
    assert await waiting == {"type": "http.disconnect"}


@pytest.mark.parametrize("named_first", [True, False])
async def test_a_name_is_given_up_with_the_response_whenever_it_was_asked_for(serve: Serve, named_first: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if named_first:
            await join(scope)
        await send({"type": "http.response.start", "status": 200})
        if not named_first:
            await join(scope)
        await send({"type": "http.response.body", "body": b"x"})

    worker = serve.asgi(app)
    assert await worker.connect().ask(get()) == ok("x")
    assert worker.service.groups.memberships == {}


async def test_a_response_that_has_begun_is_gone_on_with_through_the_group(serve: Serve) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await join(scope)
        await scope["extensions"][GROUPS]["send"]({"group": "chat", "send": {"content": b"x", "more_content": True}})

    worker = serve.asgi(app)
    client = worker.connect()
    assert await client.ask(get()) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
    await tell(worker, content=b"y")
    assert client.take() == b"1\r\ny\r\n0\r\n\r\n"
