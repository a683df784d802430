"""WebSockets of ASGI 3 applications: the handshake, messages both ways, and how many may wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.errors import IllegalMove, InvalidReply

from .asgi_apps import (
    ACCEPT,
    CONNECT,
    Event,
    Puppet,
    close_event,
    denial,
    denial_body,
    disconnected,
    message,
    sent,
    start,
)
from .conftest import Serve
from .harness import ASGIWorker, Client, turn
from .websocket_client import (
    BINARY,
    DEFLATE,
    SWITCH,
    TEXT,
    WebSocket,
    binary,
    connect,
    fragments,
    handshake,
    text,
)


async def ask(serve: Serve, app: Any, *fields: str, path: str = "/", **settings: Any) -> tuple[ASGIWorker, Client]:
    """A client that has sent a handshake."""
    worker = serve.asgi(app, **settings)
    client = worker.connect()
    client.send(handshake(path, *fields))
    await turn()
    return worker, client


async def open_socket(serve: Serve, app: Puppet, *fields: str, **settings: Any) -> WebSocket:
    """A WebSocket that the application has accepted."""
    _, client = await ask(serve, app, *fields, **settings)
    assert await app.receives() == CONNECT
    await app.sends(ACCEPT)
    return WebSocket(client, client.take())


# The scope.


async def test_the_scope_is_that_of_the_specification(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app, "Sec-WebSocket-Protocol: a, b", "X-A: 1", path="/a%20b?c")
    [scope] = app.scopes
    headers = scope.pop("headers")
    groups = scope["extensions"].pop("uvicorn_worker.groups")
    assert list(groups) == ["channel", "send"]
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c",
        "root_path": "",
        "client": ("192.0.2.7", 50007),
        "server": ("192.0.2.1", 80),
        "subprotocols": ["a", "b"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }
    assert {type(pair) for pair in headers} == {tuple}
    assert (b"x-a", b"1") in headers
    assert (b"sec-websocket-version", b"13") in headers
    assert client.take() == b""


async def test_the_scope_has_the_root_path_and_a_copy_of_the_state(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app, root_path="/mount")
    pool: list[str] = []
    worker.service.state = {"pool": pool}
    await worker.connect().ask(handshake("/a"))
    [scope] = app.scopes
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/mount", "/mount/a", b"/mount/a")
    assert scope["subprotocols"] == []
    assert scope["state"] == {"pool": pool}
    assert scope["state"]["pool"] is pool
    assert scope["state"] is not worker.service.state


# The handshake.


async def test_accept_answers_the_handshake(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    assert await app.receives() == CONNECT
    assert client.take() == b""
    await app.sends(ACCEPT)
    assert client.take() == SWITCH
    assert client.state == "open"


@pytest.mark.parametrize("accept", [ACCEPT, ACCEPT | {"subprotocol": None, "headers": None}, ACCEPT | {"headers": []}])
async def test_accept_needs_no_more_than_its_type(serve: Serve, accept: Event) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    await app.sends(accept)
    assert client.take() == SWITCH


async def test_accept_may_choose_a_subprotocol_and_add_headers(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app, "Sec-WebSocket-Protocol: a, b")
    await app.sends(ACCEPT | {"subprotocol": "b", "headers": [(b"x-a", b"1"), [b"set-cookie", b"c=d"]]})
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    for line in (b"Sec-WebSocket-Protocol: b", b"x-a: 1", b"set-cookie: c=d"):
        assert answer.count(line + b"\r\n") == 1


WRONG_ACCEPTS: dict[str, Event] = {
    "a header that breaks its line": ACCEPT | {"headers": [(b"x-a", b"b\r\nc: d")]},
    "a header of text": ACCEPT | {"headers": [("x-a", "b")]},
    "the handshake's own header": ACCEPT | {"headers": [(b"Sec-WebSocket-Accept", b"a")]},
}


@pytest.mark.parametrize("wrong", WRONG_ACCEPTS.values(), ids=WRONG_ACCEPTS)
async def test_an_accept_that_can_not_be_sent_raises_and_another_can_be(serve: Serve, wrong: Event) -> None:
    app = Puppet()
    _, client = await ask(serve, app, "Sec-WebSocket-Protocol: a")
    with pytest.raises(InvalidReply):
        await app.sends(wrong)
    assert client.take() == b""
    await app.sends(ACCEPT)
    assert client.take() == SWITCH


EARLY: dict[str, list[Event]] = {
    "a message": [sent("a")],
    "the body of a denial": [denial_body(b"a")],
    "two starts of a denial": [denial(), denial()],
    "an accept after the start of a denial": [denial(), ACCEPT],
    "a close after the start of a denial": [denial(), close_event()],
    "a message after the start of a denial": [denial(), sent("a")],
    "an event of HTTP": [start()],
    "an event of another kind": [{"type": "websocket.other"}],
}


@pytest.mark.parametrize("events", EARLY.values(), ids=EARLY)
async def test_what_comes_before_its_time_raises_and_nothing_of_it_leaves(serve: Serve, events: list[Event]) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    for event in events[:-1]:
        await app.sends(event)
    with pytest.raises(IllegalMove):
        await app.sends(events[-1])
    assert client.take() == b""


LATE: dict[str, tuple[Event, type[Exception]]] = {
    "a second accept": (ACCEPT, IllegalMove),
    "a denial": (denial(), IllegalMove),
    "the body of a denial": (denial_body(b"a"), IllegalMove),
    "an event of another kind": ({"type": "websocket.other"}, IllegalMove),
    "neither text nor bytes": ({"type": "websocket.send"}, InvalidReply),
    "both as None": ({"type": "websocket.send", "text": None, "bytes": None}, InvalidReply),
    "text that is bytes": ({"type": "websocket.send", "text": b"a"}, InvalidReply),
    "bytes that are text": ({"type": "websocket.send", "bytes": "a"}, InvalidReply),
    "half of a surrogate pair": ({"type": "websocket.send", "text": "\ud800"}, InvalidReply),
    "a code that nobody may send": (close_event(1006), InvalidReply),
    "a code that is text": ({"type": "websocket.close", "code": "1000"}, InvalidReply),
    "a reason that is too long": (close_event(1000, "a" * 124), InvalidReply),
}


@pytest.mark.parametrize(("wrong", "error"), LATE.values(), ids=LATE)
async def test_what_can_not_be_sent_once_it_is_open_raises_and_it_stays_open(
    serve: Serve, wrong: Event, error: type[Exception]
) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    with pytest.raises(error):
        await app.sends(wrong)
    assert socket.take() == []
    await app.sends(sent("a"))
    assert socket.take() == [(TEXT, b"a")]


# Messages.


@pytest.mark.parametrize("offer", [(), (DEFLATE,)])
@pytest.mark.parametrize("content", ["", "a", "\xfc\u20ac\U0001f600", "a" * 5000, b"", b"\x00\xff", bytes(70_000)])
async def test_messages_are_received_as_they_were_sent(
    serve: Serve, content: str | bytes, offer: tuple[str, ...]
) -> None:
    app = Puppet()
    socket = await open_socket(serve, app, *offer)
    socket.send(text(content) if isinstance(content, str) else binary(content))
    await turn()
    event = await app.receives()
    assert {key: value for key, value in event.items() if value is not None} == message(content)


@pytest.mark.parametrize("content", ["", "a", "\xfc\u20ac\U0001f600", "a" * 5000, b"", b"\x00\xff", bytes(70_000)])
async def test_messages_are_sent(serve: Serve, content: str | bytes) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    await app.sends(sent(content))
    await app.sends(sent(content) | ({"bytes": None} if isinstance(content, str) else {"text": None}))
    frame = (TEXT, content.encode()) if isinstance(content, str) else (BINARY, content)
    assert socket.take() == [frame, frame]


@pytest.mark.parametrize("content", [bytearray(b"a.b"), memoryview(b"a.b")])
async def test_bytes_may_be_of_any_kind(serve: Serve, content: Any) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    await app.sends({"type": "websocket.send", "bytes": content})
    assert socket.take() == [(BINARY, b"a.b")]


async def test_messages_are_received_in_order_and_behind_the_handshake(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    client.send(handshake() + text("1") + fragments(TEXT, b"2", b"3"), binary(b"4"))
    await turn()
    assert await app.receives() == CONNECT
    await app.sends(ACCEPT)
    assert [await app.receives() for _ in range(3)] == [message("1"), message("23"), message(b"4")]


async def test_nothing_is_received_before_the_handshake_is_accepted(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    client.send(handshake() + text("1"))
    await turn()
    assert await app.receives() == CONNECT
    received = await app.begins(app.receive())
    assert not received.done()
    client.reset()
    await turn()
    assert received.result() == disconnected(1006)


async def test_receive_waits_for_a_message(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    received = await app.begins(app.receive())
    assert not received.done()
    await socket.ask(text("a"))
    assert received.result() == message("a")


@pytest.mark.parametrize("came", ["before", "after"])
async def test_a_receive_that_is_cancelled_loses_no_message(serve: Serve, came: str) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    waiting = asyncio.create_task(app.receive())  # type: ignore[arg-type]
    await turn()
    if came == "before":
        socket.send(text("a"))  # It wakes the receive in this turn of the loop.
    waiting.cancel()
    await turn()
    assert waiting.cancelled()
    if came == "after":
        socket.send(text("a"))
    assert await app.receives() == message("a")


async def test_a_second_task_that_receives_waits_for_the_next_message(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    received = await app.begins(app.receive())
    other = asyncio.ensure_future(app.receive())
    await turn()
    await socket.ask(text("a"))
    assert received.result() == message("a")
    assert not other.done()
    await socket.ask(text("b"))
    assert await other == message("b")


# How many may wait.


async def test_as_many_messages_wait_as_may_and_then_the_socket_is_not_read(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app, ws_max_queue=3)
    for number in range(10):
        socket.send(text(str(number)))
        await turn()
    transport = socket.client.transport
    assert not transport.reading
    unread = transport.unread
    assert unread >= 6 * len(text("0"))
    assert await app.receives() == message("0")
    await turn()
    assert transport.unread < unread
    assert not transport.reading
    assert [await app.receives() for _ in range(9)] == [message(str(number)) for number in range(1, 10)]
    await turn()
    assert transport.reading
    assert transport.unread == 0


async def test_messages_that_come_at_once_wait_no_more_than_others(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app, ws_max_queue=3)
    received = await app.begins(app.receive())
    socket.send(b"".join(text(str(number)) for number in range(10)))
    await turn()
    assert received.result() == message("0")
    assert not socket.client.transport.reading
    assert [await app.receives() for _ in range(9)] == [message(str(number)) for number in range(1, 10)]
    await turn()
    assert socket.client.transport.reading


async def test_messages_that_wait_have_no_more_bytes_than_one_may_have(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app, ws_max_size=100_000, ws_max_queue=1000)
    piece = binary(bytes(50_000))
    for _ in range(6):
        socket.send(piece)
        await turn()
    transport = socket.client.transport
    assert not transport.reading
    assert transport.unread >= 3 * len(piece)
    for _ in range(6):
        assert await app.receives() == message(bytes(50_000))
        await turn()
    assert transport.reading
    assert transport.unread == 0


async def test_a_message_that_is_too_large_closes_with_1009_behind_those_before(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app, ws_max_size=1000)
    frames = await socket.ask(text("a" * 1000), text("b" * 1001))
    assert frames[0][1][:2] == (1009).to_bytes(2, "big")
    assert await app.receives() == message("a" * 1000)
    event = await app.receives()
    assert (event["type"], event["code"]) == ("websocket.disconnect", 1009)


async def test_send_waits_while_the_client_does_not_read(serve: Serve) -> None:
    app = Puppet()
    socket = await open_socket(serve, app)
    socket.client.stop_reading()
    await app.sends(sent(bytes(60_000)))
    waiting = await app.begins(app.send(sent(bytes(60_000))))
    assert not waiting.done()
    socket.client.read()
    await turn()
    assert waiting.done()
    assert socket.take() == [(BINARY, bytes(60_000))] * 2


async def test_websockets_of_one_worker_do_not_mix(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            await send(sent(scope["path"] + event["text"]))

    worker = serve.asgi(app)
    sockets = [await connect(worker, f"/{number}") for number in range(5)]
    for socket in sockets:
        socket.send(text("a"))
    await turn()
    assert [socket.take() for socket in sockets] == [[(TEXT, b"/%da" % number)] for number in range(5)]


async def test_a_subprotocol_that_was_not_offered_is_left_out(serve: Serve) -> None:
    """Frameworks name one whatever the client has offered, which clients don't forgive."""
    app = Puppet()
    worker, client = await ask(serve, app, "Sec-WebSocket-Protocol: a, b")
    await app.sends(ACCEPT | {"subprotocol": "c"})
    assert client.take() == SWITCH
    assert ["subprotocol 'c'" in line for line in worker.log.take()] == [True]
