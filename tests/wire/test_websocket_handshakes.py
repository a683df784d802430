"""The handshake of a WebSocket: refused by the server, accepted or rejected by the application, or never answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .conftest import Serve
from .harness import HELLO, Gate, get, hello, ok, turn
from .websocket_client import (
    BINARY,
    CLOSE,
    SWITCH,
    TEXT,
    Talk,
    TalkBack,
    close_payload,
    frame,
    handshake,
    read_frames,
    text,
)

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\n%bcontent-length: %d\r\nConnection: close\r\n\r\n%b"
PLAIN_FORBIDDEN = FORBIDDEN % (b"content-type: text/plain; charset=utf-8\r\n", 9, b"Forbidden")

#: What an application is told of the end where nobody has said a code.
CUT_OFF = (1006, "")


# Asked for.


async def test_a_handshake_is_accepted_in_the_words_of_the_rfc(serve: Serve) -> None:
    app = Talk()
    client = serve(app).connect()
    assert await client.ask(handshake()) == SWITCH
    assert client.take_writes() == [SWITCH]
    assert app.calls == ["connect"]
    assert client.state == "open"


async def test_a_handshake_may_be_cut_anywhere(serve: Serve) -> None:
    app = TalkBack()
    worker = serve(app)
    sent = handshake() + text("hello")
    for cut in range(1, len(sent)):
        client = worker.connect()
        client.send(sent[:cut])
        await turn()
        client.send(sent[cut:])
        await turn()
        assert client.received == SWITCH + frame(TEXT, b"hello", mask=b"")
    assert app.calls == ["connect", "hello"] * (len(sent) - 1)


async def test_a_handshake_may_be_refused(serve: Serve) -> None:
    app = Talk()
    client = serve(app).connect()
    reply = await client.ask(handshake(key="short") + text("hello"))
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close\r\n" in reply.lower()
    assert app.calls == []
    assert client.has_ended


async def test_another_version_is_refused_with_the_one_that_is_spoken(serve: Serve) -> None:
    app = Talk()
    client = serve(app).connect()
    reply = await client.ask(handshake(version="8") + text("hello"))
    head, _, content = reply.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 426 Upgrade Required"
    assert b"Sec-WebSocket-Version: 13" in lines
    assert b"Upgrade: websocket" in lines
    assert b"Connection: close, Upgrade" in lines
    assert b"content-length: %d" % len(content) in lines
    assert app.calls == []
    assert client.has_ended


@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_handshake_with_a_body_is_refused(serve: Serve, body: str) -> None:
    app = Talk()
    client = serve(app).connect()
    assert (await client.ask(handshake("/", body) + b"hello")).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert app.calls == []
    assert client.has_ended


async def test_the_method_of_a_handshake_is_get(serve: Serve) -> None:
    app = Talk()
    client = serve(app).connect()
    assert (await client.ask(handshake().replace(b"GET", b"POST", 1))).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert app.calls == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_what_does_not_ask_for_an_upgrade_is_a_request(serve: Serve, version: str) -> None:
    """HTTP/1.0 knows no upgrades, and the field alone asks for none."""
    client = serve().connect()
    sent = handshake().replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    if version == "1.1":
        sent = sent.replace(b"Connection: Upgrade\r\n", b"")
    assert (await client.ask(sent)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_requests_before_a_handshake_are_answered_before_it(serve: Serve) -> None:
    talk, gate = TalkBack(), Gate()

    async def app(message: dict, channels: dict) -> None:
        await (gate if message["channel"] == "http.request" else talk)(message, channels)

    client = serve(app).connect()
    client.send(get("/1") + handshake() + text("hello"))
    await turn()
    assert talk.calls == []
    await gate.open()
    await turn()
    assert client.received == ok("/1") + SWITCH + frame(TEXT, b"hello", mask=b"")


async def test_nothing_is_http_behind_an_accepted_handshake(serve: Serve) -> None:
    app = Talk()
    client = serve(app).connect()
    answer = await client.ask(handshake() + get("/smuggled"))
    [(kind, payload)] = read_frames(answer.removeprefix(SWITCH))
    assert (kind, payload[:2]) == (CLOSE, close_payload(1002))
    assert len(app.calls) == 2


async def test_an_answered_request_goes_before_a_websocket_on_its_connection(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await (hello if message["channel"] == "http.request" else talk)(message, channels)

    talk = TalkBack()
    client = serve(app).connect()
    assert await client.ask(get()) == HELLO
    assert await client.ask(handshake()) == SWITCH
    assert read_frames(await client.ask(text("hello"))) == [(TEXT, b"hello")]


# Accepted.


ANSWERS: dict[str, tuple[list[dict[str, Any]], bytes]] = {
    "accept": ([{"accept": True}], SWITCH),
    "text": ([{"text": "hi"}], SWITCH + frame(TEXT, b"hi", mask=b"")),
    "empty text": ([{"text": ""}], SWITCH + frame(TEXT, b"", mask=b"")),
    "bytes": ([{"bytes": b"hi"}], SWITCH + frame(BINARY, b"hi", mask=b"")),
    "other bytes": ([{"bytes": bytearray(b"hi")}], SWITCH + frame(BINARY, b"hi", mask=b"")),
    "empty bytes": ([{"bytes": b""}], SWITCH + frame(BINARY, b"", mask=b"")),
    "accept with text": ([{"accept": True, "text": "hi"}], SWITCH + frame(TEXT, b"hi", mask=b"")),
    "text, and the other key unset": ([{"text": "hi", "bytes": None}], SWITCH + frame(TEXT, b"hi", mask=b"")),
    "a subprotocol": (
        [{"accept": True, "subprotocol": "chat"}],
        SWITCH.replace(b"Connection", b"Sec-WebSocket-Protocol: chat\r\nConnection"),
    ),
    "a subprotocol with text": (
        [{"text": "hi", "subprotocol": "chat", "headers": []}],
        SWITCH.replace(b"Connection", b"Sec-WebSocket-Protocol: chat\r\nConnection") + frame(TEXT, b"hi", mask=b""),
    ),
    "headers": (
        [{"accept": True, "headers": [(b"Set-Cookie", b"a=b"), [b"x", b""]]}],
        SWITCH.replace(b"Connection", b"Set-Cookie: a=b\r\nx: \r\nConnection"),
    ),
    "several messages": (
        [{"text": "a"}, {"bytes": b"b"}, {"text": "c"}],
        SWITCH + frame(TEXT, b"a", mask=b"") + frame(BINARY, b"b", mask=b"") + frame(TEXT, b"c", mask=b""),
    ),
}


@pytest.mark.parametrize(("answers", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_the_handshake_is_accepted_by(serve: Serve, answers: list[dict[str, Any]], expected: bytes) -> None:
    client = serve(Talk(*answers)).connect()
    assert await client.ask(handshake("/", "Sec-WebSocket-Protocol: chat")) == expected
    assert client.state == "open"


# Rejected.


REJECTIONS: dict[str, tuple[list[dict[str, Any]], bytes]] = {
    "accept: False": ([{"accept": False}], PLAIN_FORBIDDEN),
    "close": ([{"close": True}], PLAIN_FORBIDDEN),
    "close with a code": ([{"close": 4000, "reason": "no"}], PLAIN_FORBIDDEN),
    "accept: False with headers": ([{"accept": False, "headers": [(b"x", b"y")]}], FORBIDDEN % (b"x: y\r\n", 0, b"")),
    "a status": ([{"status": 401}], b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"),
    "a whole response": (
        [{"status": 200, "headers": [(b"x", b"y")], "content": b"not here"}],
        b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 8\r\nConnection: close\r\n\r\nnot here",
    ),
    "a redirect": (
        [{"status": 307, "headers": [(b"location", b"/b")]}],
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /b\r\ncontent-length: 0\r\nConnection: close\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("answers", "expected"), REJECTIONS.values(), ids=REJECTIONS)
async def test_the_handshake_is_rejected_by(serve: Serve, answers: list[dict[str, Any]], expected: bytes) -> None:
    app = Talk(*answers)
    client = serve(app).connect()
    assert (await client.ask(handshake())).lower() == expected.lower()
    assert client.has_ended
    assert app.calls == ["connect", CUT_OFF]


@pytest.mark.parametrize("late", [{"accept": True}, {"text": "a"}, {"accept": False}, {"status": 200}, {"close": True}])
async def test_nothing_can_be_sent_after_a_rejection(serve: Serve, late: dict[str, Any]) -> None:
    raised = []

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": False})
        with pytest.raises(ClientDisconnected):
            await channels["reply"].send(late)
        raised.append(message["channel"])

    client = serve(app).connect()
    assert (await client.ask(handshake())).count(b"HTTP/1.1") == 1
    assert raised == ["websocket.connect", "websocket.disconnect"]


async def test_an_interim_response_is_no_answer_to_the_handshake(serve: Serve) -> None:
    app = Talk({"status": 103, "headers": [(b"link", b"</a>")]}, {"accept": True})
    client = serve(app).connect()
    assert await client.ask(handshake()) == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + SWITCH


async def test_an_application_that_returns_without_an_answer_rejects_with_a_warning(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["channel"])

    worker = serve(app)
    client = worker.connect()
    assert (await client.ask(handshake("/chat"))).lower() == PLAIN_FORBIDDEN.lower()
    assert calls == ["websocket.connect", "websocket.disconnect"]
    [line] = worker.log.take()
    assert "without an answer" in line
    assert line.endswith("WebSocket /chat")


async def test_an_application_that_raises_before_its_answer_is_answered_for_with_500(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["channel"])
        if message["channel"] == "websocket.connect":
            raise ValueError("no")

    worker = serve(app)
    client = worker.connect()
    assert (await client.ask(handshake("/chat"))).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert client.has_ended
    assert calls == ["websocket.connect", "websocket.disconnect"]
    [line] = worker.log.take()
    assert line.endswith("GET /chat (Upgrade: websocket) [ValueError: no]")


@pytest.mark.parametrize("end", ["reset", "end"])
async def test_a_client_that_goes_before_the_answer_is_told_of(serve: Serve, end: str) -> None:
    go_on = asyncio.Event()
    seen: list[Any] = []

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.disconnect":
            seen.append((message["order"], message["code"], message["reason"]))
            return
        await go_on.wait()
        with pytest.raises(ClientDisconnected):
            await channels["reply"].send({"accept": True})
        seen.append("connect")

    worker = serve(app)
    client = worker.connect()
    client.send(handshake())
    await turn()
    getattr(client, end)()
    await turn()
    assert seen == [(1, *CUT_OFF)]
    go_on.set()
    await turn()
    assert seen == [(1, *CUT_OFF), "connect"]
    assert client.received == b""
    worker.log.take()


async def test_a_client_that_goes_before_the_call_has_begun_leaves_no_call_without_its_disconnect(serve: Serve) -> None:
    """The handshake is pipelined behind a request, and the client goes in the turn in which that is answered."""
    go_on, talk = asyncio.Event(), Talk()

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "http.request":
            await go_on.wait()
            await hello(message, channels)
        else:
            await talk(message, channels)

    client = serve(app).connect()
    client.send(get("/1") + handshake())
    await turn()
    go_on.set()
    client.reset()
    await turn()
    assert talk.calls in ([], ["connect", CUT_OFF])


@pytest.mark.parametrize("sent", [b"", text("a")])
async def test_a_client_that_goes_in_the_turn_in_which_it_is_accepted_is_told_of(serve: Serve, sent: bytes) -> None:
    accept, talk = asyncio.Event(), Talk({"accept": True}, {"text": "hi"})

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await accept.wait()
        await talk(message, channels)

    worker = serve(app)
    client = worker.connect()
    client.send(handshake() + sent)
    await turn()
    accept.set()
    client.reset()
    await turn()
    assert talk.calls in (["connect", CUT_OFF], ["connect", "a", CUT_OFF])
    assert not worker.service.connections
    assert not worker.service.running
