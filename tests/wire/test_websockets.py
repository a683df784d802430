"""WebSockets: what an application is told of them, and what it can send."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply

from .conftest import Serve
from .harness import asyncio_only, turn
from .websocket_client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    SWITCH,
    TEXT,
    Sends,
    Talk,
    TalkBack,
    WebSocket,
    binary,
    close,
    close_payload,
    connect,
    fragments,
    frame,
    handshake,
    text,
)

# What the application is told.


async def test_the_messages_say_what_has_happened(serve: Serve) -> None:
    messages = []

    async def app(message: dict, channels: dict) -> None:
        messages.append((dict(message), channels, set(channels)))
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})

    socket = await connect(serve(app, root_path="/mount"), "/a%20b?q=%20", "Sec-WebSocket-Protocol: chat, tea", "X: y")
    await socket.ask(text("hello") + binary(b"\0"), close(4000, "bye"))
    connected, channels, names = messages[0]
    assert names == {"reply", "groups"}
    assert all(message[1] is channels for message in messages)
    assert connected.pop("headers")[-2:] == [[b"sec-websocket-protocol", b"chat, tea"], [b"x", b"y"]]
    assert connected == {
        "channel": "websocket.connect",
        "scheme": "ws",
        "http_version": "1.1",
        "root_path": "/mount",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"q=%20",
        "server": ("192.0.2.1", 80),
        "client": ("192.0.2.7", 50007),
        "order": 0,
        "subprotocols": ["chat", "tea"],
    }
    assert [message for message, _, _ in messages[1:]] == [
        {"channel": "websocket.receive", "path": "/a b", "order": 1, "text": "hello", "bytes": None},
        {"channel": "websocket.receive", "path": "/a b", "order": 2, "text": None, "bytes": b"\0"},
        {"channel": "websocket.disconnect", "path": "/a b", "order": 3, "code": 4000, "reason": "bye"},
    ]


async def test_the_scheme_says_whether_there_is_tls(serve: Serve) -> None:
    schemes = []

    async def app(message: dict, channels: dict) -> None:
        schemes.append(message.get("scheme"))

    worker = serve(app)
    worker.service.scheme = "https"
    client = worker.connect()
    await client.ask(handshake())
    assert schemes == ["wss", None]
    assert len(worker.log.take()) == 1


async def test_the_names_of_channels_are_unique_and_last(serve: Serve) -> None:
    names = []

    async def app(message: dict, channels: dict) -> None:
        names.append(channels["reply"].name)
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})

    worker = serve(app)
    for _ in range(2):
        await (await connect(worker)).ask(text("a"), close())
    assert names[0] == names[1] == names[2] != names[3] == names[4] == names[5]


async def test_empty_messages_are_messages(serve: Serve) -> None:
    app = TalkBack()
    socket = await connect(serve(app))
    sent = text("") + binary(b"") + fragments(TEXT, b"", b"") + fragments(BINARY, b"", b"", b"")
    assert await socket.ask(sent) == [(TEXT, b""), (BINARY, b"")] * 2
    assert app.calls == ["connect", "", b"", "", b""]


async def test_messages_behind_the_handshake_wait_until_it_is_accepted(serve: Serve) -> None:
    accept = asyncio.Event()
    talk = TalkBack()

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await accept.wait()
        await talk(message, channels)

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(handshake() + text("1"), text("2")) == b""
    assert not client.transport.reading
    client.send(text("3"), text("4"))
    await turn()
    accept.set()
    await turn()
    assert talk.calls == ["connect", "1", "2", "3", "4"]
    assert client.take() == SWITCH + b"".join(frame(TEXT, content, mask=b"") for content in (b"1", b"2", b"3", b"4"))
    assert client.transport.reading


async def test_calls_start_in_order_and_do_not_wait_for_one_another(serve: Serve) -> None:
    """An application may stay in the call for the handshake as long as the connection lives."""
    started, end = [], asyncio.Event()

    async def app(message: dict, channels: dict) -> None:
        started.append(message["order"])
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})
        await end.wait()

    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("a") + text("b") + frame(PING), text("c"), close())
    assert started == [0, 1, 2, 3, 4]
    assert worker.service.running
    end.set()


async def test_each_call_has_its_own_context(serve: Serve) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(variable.get())
        variable.set(message["channel"])
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})

    socket = await connect(serve(app, ws_max_queue=1))
    await socket.ask(text("a") + text("b"), text("c"), close())
    assert seen == ["unset"] * 5


async def test_a_ping_is_answered_without_the_application(serve: Serve) -> None:
    app = Talk()
    socket = await connect(serve(app))
    assert await socket.ask(frame(PING, b"are you there?")) == [(PONG, b"are you there?")]
    assert app.calls == ["connect"]


# What the application can send.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 16_384, 16_385, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
async def test_messages_of_any_size_go_both_ways(serve: Serve, size: int, kind: int) -> None:
    app = TalkBack()
    socket = await connect(serve(app))
    assert await socket.ask(frame(kind, b"a" * size)) == [(kind, b"a" * size)]
    assert app.calls[1] == ("a" * size if kind == TEXT else b"a" * size)


@pytest.mark.parametrize("content", ["€ and 😀", "\0", "\ufeff", "\U0010ffff"])
async def test_text_is_sent_as_utf_8(serve: Serve, content: str) -> None:
    socket = await connect(serve(TalkBack()))
    assert await socket.ask(text(content)) == [(TEXT, content.encode())]


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, InvalidReply, "asks for nothing"),
    "nothing, in words": ({"text": None, "bytes": None, "close": None}, InvalidReply, "asks for nothing"),
    "nothing that is known": ({"txt": "a"}, InvalidReply, "no 'txt'; its keys are accept, "),
    "an unknown key": ({"text": "a", "txt": "b"}, InvalidReply, "no 'txt'; its keys are accept, bytes, "),
    "text and bytes": ({"text": "a", "bytes": b"b"}, InvalidReply, "either text or bytes"),
    "bytes as text": ({"text": b"a"}, InvalidReply, "text must be a str"),
    "text as bytes": ({"bytes": "a"}, InvalidReply, "bytes must be bytes"),
    "a number as bytes": ({"bytes": 5}, InvalidReply, "bytes must be bytes"),
    "half of a surrogate pair": ({"text": "\ud800"}, InvalidReply, "UTF-8"),
    "a code that is none": ({"close": 1005}, InvalidReply, "can't be closed with 1005"),
    "a code that is 0": ({"close": 0}, InvalidReply, "can't be closed with 0"),
    "a code that is text": ({"close": "1000"}, InvalidReply, "close must be true or a code"),
    "a reason that is too long": ({"close": 1000, "reason": "a" * 124}, InvalidReply, "123 bytes"),
    "a reason without close": ({"reason": "why"}, InvalidReply, "goes with close"),
    "a reason with close: False": ({"close": False, "reason": "why"}, InvalidReply, "goes with close"),
    "text with a bad close": ({"text": "a", "close": 1}, InvalidReply, "can't be closed with 1"),
}

BAD_WHEN_OPEN: dict[str, tuple[dict[str, Any], type[Exception], str]] = BAD | {
    "a second accept": ({"accept": True}, IllegalMove, "accepted already"),
    "a late rejection": ({"accept": False}, IllegalMove, "accepted already"),
    "a late rejection with text": ({"text": "a", "accept": False}, IllegalMove, "accepted already"),
    "a late response": ({"status": 200}, IllegalMove, "accepted already"),
    "late headers": ({"text": "a", "headers": []}, IllegalMove, "accepted already"),
    "a late subprotocol": ({"text": "a", "subprotocol": "chat"}, IllegalMove, "accepted already"),
}

BAD_WHEN_ASKED: dict[str, tuple[dict[str, Any], type[Exception], str]] = BAD | {
    "a subprotocol that was not offered": ({"accept": True, "subprotocol": "tea"}, InvalidReply, "it has: chat"),
    "headers that are none": ({"accept": True, "headers": [(b"a b", b"c")]}, InvalidReply, ""),
    "headers of the handshake": ({"text": "a", "headers": [(b"Upgrade", b"b")]}, InvalidReply, "the handshake's own"),
    "text with a rejection": ({"text": "a", "accept": False}, InvalidReply, "rejects the handshake"),
    "a rejection with a subprotocol": ({"accept": False, "subprotocol": "chat"}, InvalidReply, "no 'subprotocol'"),
    "an accept that is neither true nor false": ({"accept": 1}, InvalidReply, "accept must be true or false"),
    "a response in parts": ({"status": 200, "more_content": True}, InvalidReply, "sent whole"),
    "a response that accepts": ({"status": 200, "accept": True}, InvalidReply, "no 'accept'"),
    "a response with text as content": ({"status": 200, "content": "a"}, InvalidReply, "content must be bytes"),
    "a status that is none": ({"status": 600}, InvalidReply, "600"),
    "a switch": ({"status": 101}, InvalidReply, "101"),
}


@pytest.mark.parametrize(("message", "error", "match"), BAD_WHEN_OPEN.values(), ids=BAD_WHEN_OPEN)
async def test_what_can_not_be_sent_raises_and_nothing_is_sent(
    serve: Serve, message: dict[str, Any], error: type[Exception], match: str
) -> None:
    app = Sends(message)
    socket = await connect(serve(app))
    assert await socket.ask(text("go")) == []
    assert type(app.error) is error
    assert match in str(app.error)
    app.error, app.messages = None, ({"text": "still here"},)
    assert await socket.ask(text("go")) == [(TEXT, b"still here")]


@pytest.mark.parametrize(("message", "error", "match"), BAD_WHEN_ASKED.values(), ids=BAD_WHEN_ASKED)
async def test_what_can_not_answer_a_handshake_raises_and_leaves_it_to_be_answered(
    serve: Serve, message: dict[str, Any], error: type[Exception], match: str
) -> None:
    raised: list[Exception] = []

    async def app(given: dict, channels: dict) -> None:
        if given["channel"] == "websocket.connect":
            try:
                await channels["reply"].send(message)
            except Exception as caught:
                raised.append(caught)
            await channels["reply"].send({"accept": True, "subprotocol": "chat"})

    client = serve(app).connect()
    reply = await client.ask(handshake("/", "Sec-WebSocket-Protocol: chat"))
    assert [type(caught) for caught in raised] == [error]
    assert match in str(raised[0])
    assert reply == SWITCH.replace(b"Connection", b"Sec-WebSocket-Protocol: chat\r\nConnection")


async def test_anything_may_be_sent_from_another_task(serve: Serve) -> None:
    """As a chat does: one call answers what another has received."""
    replies = []

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            replies.append(channels["reply"])
            await channels["reply"].send({"accept": True})

    worker = serve(app)
    sockets = [await connect(worker), await connect(worker)]
    for number, reply in enumerate(replies):
        await reply.send({"text": str(number)})
    assert [socket.take() for socket in sockets] == [[(TEXT, b"0")], [(TEXT, b"1")]]
    await sockets[0].ask(close())
    with pytest.raises(ClientDisconnected):
        await replies[0].send({"text": "too late"})


@asyncio_only
@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 and later")
async def test_calls_may_begin_eagerly(serve: Serve) -> None:
    """The handshake is then answered, and messages are sent back, within the callbacks of parser and transport."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        worker = serve(TalkBack(), ws_max_queue=1)
        client = worker.connect()
        answer = await client.ask(handshake() + text("0"))
        assert answer == SWITCH + b"\x81\x010"
        socket = WebSocket(client, answer)
        assert await socket.ask(text("1") + text("2") + fragments(TEXT, b"3", b"4") + close()) == [
            (TEXT, b"1"),
            (TEXT, b"2"),
            (TEXT, b"34"),
            (CLOSE, close_payload(1000)),
        ]
        assert not worker.service.running
    finally:
        loop.set_task_factory(None)
