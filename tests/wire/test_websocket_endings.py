"""How WebSockets end: closed by either side, failed or cut off, and each with one disconnect."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected
from uvicorn_worker.server import ChannelsSession
from uvicorn_worker.websocket.protocol import WebSocketProtocol

from .conftest import Serve
from .harness import CollectorOff, turn
from .websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    SWITCH,
    TEXT,
    Hold,
    Sends,
    Talk,
    TalkBack,
    binary,
    close,
    close_payload,
    connect,
    frame,
    handshake,
    read_frames,
    text,
)

#: What an application is told of the end where nobody has said a code.
CUT_OFF = (1006, "")


# Closed by the client.


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4000, "€"), (None, "")])
async def test_a_close_of_the_client_is_answered_and_told(serve: Serve, code: int | None, reason: str) -> None:
    app = Talk()
    socket = await connect(serve(app))
    assert await socket.ask(close(code, reason)) == [(CLOSE, close_payload(code, reason))]
    assert app.calls == ["connect", (code or 1005, reason)]
    assert socket.state == "half-closed"
    socket.client.end()
    await turn()
    assert socket.state == "closed"
    assert len(app.calls) == 2


async def test_nothing_is_read_behind_a_close(serve: Serve) -> None:
    app = Talk()
    socket = await connect(serve(app))
    assert len(await socket.ask(close() + text("a"), text("b"), close(4000), frame(PING))) == 1
    assert app.calls == ["connect", (1000, "")]


async def test_a_disconnect_comes_behind_the_messages_before_it(serve: Serve) -> None:
    app = Talk()
    socket = await connect(serve(app))
    await socket.ask(text("a") + binary(b"b") + close())
    assert app.calls == ["connect", "a", b"b", (1000, "")]


async def test_a_disconnect_does_not_wait_for_the_calls_before_it(serve: Serve) -> None:
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("a") + text("b") + close())
    assert app.calls == ["connect", "a", "b", (1000, "")]
    assert app.held == 2
    assert worker.service.running
    await app.let_all_go()
    assert not worker.service.running


async def test_a_client_that_closes_gets_nothing_of_what_is_sent_later(serve: Serve) -> None:
    app = Sends({"text": "late"})
    socket = await connect(serve(app))
    assert await socket.ask(text("go") + close()) == [(CLOSE, close_payload(1000))]
    assert isinstance(app.error, ClientDisconnected)


@pytest.mark.parametrize("end", ["end", "reset"])
@pytest.mark.parametrize("unfinished", [b"", text("hello")[:3], frame(TEXT & ~FIN, b"a"), b"\x81\xfe"])
async def test_a_client_that_goes_without_a_close_is_told_of(serve: Serve, end: str, unfinished: bytes) -> None:
    app = Talk()
    worker = serve(app)
    socket = await connect(worker)
    socket.send(text("a") + unfinished)
    getattr(socket.client, end)()
    await turn()
    assert app.calls == ["connect", "a", CUT_OFF]
    assert socket.state == "closed"
    assert not worker.service.connections


async def test_a_send_after_the_client_has_gone_raises(serve: Serve) -> None:
    replies = []

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            replies.append(channels["reply"])
        await channels["reply"].send({"text": "a"})  # let through, which is nobody's fault

    socket = await connect(serve(app))
    socket.client.reset()
    await turn()
    with pytest.raises(ClientDisconnected):
        await replies[0].send({"text": "b"})


# Closed by the application.


CLOSES: dict[str, tuple[dict[str, Any], list[tuple[int, bytes]]]] = {
    "close": ({"close": True}, [(CLOSE, close_payload(1000))]),
    "a code": ({"close": 4000}, [(CLOSE, close_payload(4000))]),
    "a code and a reason": ({"close": 1001, "reason": "bye €"}, [(CLOSE, close_payload(1001, "bye €"))]),
    "a reason": ({"close": True, "reason": "bye"}, [(CLOSE, close_payload(1000, "bye"))]),
    "with text": ({"text": "last", "close": True}, [(TEXT, b"last"), (CLOSE, close_payload(1000))]),
    "with bytes": ({"close": 3000, "bytes": b""}, [(BINARY, b""), (CLOSE, close_payload(3000))]),
}


@pytest.mark.parametrize(("message", "frames"), CLOSES.values(), ids=CLOSES)
async def test_the_application_closes(
    serve: Serve, message: dict[str, Any], frames: list[tuple[int, bytes]]
) -> None:
    app = Sends(message, {"text": "too late"})
    socket = await connect(serve(app))
    assert await socket.ask(text("go")) == frames
    assert isinstance(app.error, ClientDisconnected)
    assert socket.state == "open"
    assert app.calls == ["connect", "go"]
    kind, payload = frames[-1]
    assert await socket.ask(frame(kind, payload)) == []
    assert app.calls[2:] == [(int.from_bytes(payload[:2], "big"), payload[2:].decode())]
    assert socket.state == "half-closed"


async def test_the_application_may_accept_and_close_at_once(serve: Serve) -> None:
    app = Talk({"accept": True, "text": "hi", "close": 4000})
    client = serve(app).connect()
    answer = await client.ask(handshake())
    assert read_frames(answer.removeprefix(SWITCH)) == [(TEXT, b"hi"), (CLOSE, close_payload(4000))]
    assert await client.ask(close(4000)) == b""
    assert app.calls == ["connect", (4000, "")]


@pytest.mark.parametrize("queue", [1, 32])
async def test_what_comes_after_the_server_has_closed_is_dropped_up_to_the_clients_close(
    serve: Serve, queue: int
) -> None:
    app = Sends({"close": 4000})
    socket = await connect(serve(app, ws_max_queue=queue))
    await socket.ask(text("go"))
    sent = [text("a"), frame(TEXT & ~FIN, b"b"), frame(PING), frame(CONTINUATION, b"c"), binary(b"d" * 1000)]
    assert await socket.ask(*sent) == []
    assert socket.state == "open"
    assert await socket.ask(close(4000) + text("e")) == []
    assert app.calls == ["connect", "go", (4000, "")]
    assert socket.state == "half-closed"


async def test_what_was_not_read_yet_is_dropped_too_when_the_server_closes(serve: Serve) -> None:
    app = Hold()
    replies = []

    async def watch(message: dict, channels: dict) -> None:
        replies.append(channels["reply"])
        await app(message, channels)

    socket = await connect(serve(watch, ws_max_queue=1))
    await socket.ask(text("a") + text("b") + text("c"), text("d"), close(4000))
    assert app.calls == ["connect", "a"]
    await replies[0].send({"close": 4000})
    await turn()
    assert socket.take() == [(CLOSE, close_payload(4000))]
    assert app.calls == ["connect", "a", (4000, "")]
    assert socket.state == "half-closed"
    await app.let_all_go()


@pytest.mark.parametrize("before", [b"", frame(TEXT & ~FIN, b"a")])
async def test_the_code_that_is_told_is_the_clients_own(serve: Serve, before: bytes) -> None:
    """As RFC 6455 section 7.1.5 has it: the code is that of the close frame that was received."""
    app = Sends({"close": 4000})
    socket = await connect(serve(app))
    await socket.ask(text("go"))
    await socket.ask(before + close(4001, "mine"))
    assert app.calls == ["connect", "go", (4001, "mine")]


async def test_the_close_of_the_client_may_cross_that_of_the_server(serve: Serve) -> None:
    app = Sends({"close": 4000})
    socket = await connect(serve(app))
    await socket.ask(text("go"))
    await socket.ask(frame(TEXT & ~FIN, b"a") + close(4000))
    assert app.calls == ["connect", "go", (4000, "")]
    assert socket.state == "half-closed"


@pytest.mark.parametrize("sent", [frame(TEXT, b"\xff"), b"\x83\x80", frame(BINARY, b"a", mask=b"")])
async def test_a_client_that_breaks_a_rule_while_it_is_closed_is_cut_off(serve: Serve, sent: bytes) -> None:
    app = Sends({"close": 4000})
    socket = await connect(serve(app))
    await socket.ask(text("go"))
    assert await socket.ask(sent + close(1000)) == []
    assert app.calls == ["connect", "go", (4000, "")]
    assert socket.state == "half-closed"


# Failures.


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no"), asyncio.CancelledError("no")])
async def test_a_call_that_raises_closes_with_1011_and_is_logged(serve: Serve, error: BaseException) -> None:
    class App(Talk):
        async def received(self, message: dict, reply: Any) -> None:
            raise error

    app = App()
    worker = serve(app)
    socket = await connect(worker, "/chat")
    assert await socket.ask(text("a") + text("b")) == [(CLOSE, close_payload(1011))]
    assert await socket.ask(text("c"), close(1011)) == []
    assert app.calls == ["connect", "a", "b", (1011, "")]
    lines = worker.log.take()
    assert len(lines) == 2
    assert set(lines) == {f"The application raised: WebSocket /chat [{type(error).__name__}: no]"}


async def test_the_disconnect_of_another_client_is_an_error_like_any_other(serve: Serve) -> None:
    class App(Talk):
        async def received(self, message: dict, reply: Any) -> None:
            raise ClientDisconnected("another")

    worker = serve(App())
    socket = await connect(worker)
    assert await socket.ask(text("a")) == [(CLOSE, close_payload(1011))]
    assert worker.log.take() == ["The application raised: WebSocket / [ClientDisconnected: another]"]


async def test_a_call_for_the_handshake_that_raises_after_its_answer_closes_with_1011(serve: Serve) -> None:
    app = Talk({"text": "hi"}, {"txt": "a mistake"})
    worker = serve(app)
    client = worker.connect()
    answer = await client.ask(handshake())
    assert read_frames(answer.removeprefix(SWITCH)) == [(TEXT, b"hi"), (CLOSE, close_payload(1011))]
    await client.ask(close(1011))
    assert app.calls == ["connect", (1011, "")]
    assert len(worker.log.take()) == 1


async def test_a_disconnect_that_raises_is_logged_and_that_is_all(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.disconnect":
            raise ValueError("no")
        await channels["reply"].send({"accept": True})

    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(close())
    assert worker.log.take() == ["The application raised: WebSocket / [ValueError: no]"]
    assert not worker.service.running


BROKEN = {
    "without mask": (frame(TEXT, b"a", mask=b""), 1002),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "too long": (frame(BINARY, bytes(101)), 1009),
}


@pytest.mark.parametrize(("sent", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_client_that_breaks_a_rule_is_told_and_cut_off(serve: Serve, sent: bytes, code: int) -> None:
    app = TalkBack()
    socket = await connect(serve(app, ws_max_size=100))
    [(kind, payload)] = await socket.ask(sent + text("behind"), text("behind"))
    assert (kind, payload[:2]) == (CLOSE, close_payload(code))
    assert app.calls == ["connect", (code, payload[2:].decode())]
    assert socket.state == "half-closed"


async def test_over_tls_a_websocket_ends_without_half_closing(serve: Serve) -> None:
    app = Talk()
    socket = await connect(serve(app))
    socket.client.transport.can_half_close = False
    assert await socket.ask(close()) == [(CLOSE, close_payload(1000))]
    assert socket.state == "closed"
    assert app.calls == ["connect", (1000, "")]


# Cancelled.


async def test_a_call_that_is_cancelled_before_it_has_begun_leaves_nothing(serve: Serve) -> None:
    app = Talk()
    worker = serve(app)
    socket = await connect(worker)
    socket.send(text("a"), text("b"))
    worker.service.draining = True
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    socket.client.reset()
    await turn()
    assert app.calls[0] == "connect"
    assert app.calls[-1] == CUT_OFF
    assert not worker.service.running


# What is left.


def count_living() -> int:
    """How many WebSockets and conversations there are, among them those that wait for the collector."""
    return sum(type(living) in (WebSocketProtocol, ChannelsSession) for living in gc.get_objects())


WAYS: dict[str, tuple[Callable[[], Talk], list[bytes]]] = {
    "closed by the client": (TalkBack, [text("a"), close()]),
    "closed by the application": (lambda: Sends({"close": True}), [text("a"), close()]),
    "not answered": (lambda: Sends({"close": True}), [text("a")]),
    "failed": (TalkBack, [text("a"), frame(TEXT, b"\xff")]),
    "cut off": (TalkBack, [text("a"), frame(TEXT & ~FIN, b"a")]),
    "rejected": (lambda: Talk({"accept": False}), []),
    "held back": (TalkBack, [text("a") * 5]),
    "waiting to send": (lambda: Sends({"bytes": bytes(100_000)}, {"text": "b"}), [text("a"), text("a")]),
}


async def test_what_lives_is_counted(serve: Serve) -> None:
    worker = serve(TalkBack())
    with CollectorOff():
        await connect(worker)
        assert count_living() == 2


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize(("make_app", "sent"), WAYS.values(), ids=WAYS)
async def test_nothing_is_left_of_a_websocket_for_the_collector(
    serve: Serve, make_app: Callable[[], Talk], sent: list[bytes], drained: bool
) -> None:
    app = make_app()
    worker = serve(app, ws_max_queue=1)
    with CollectorOff():
        client = worker.connect()
        await client.ask(handshake())
        client.stop_reading()
        for piece in sent:
            await client.ask(piece)
        if drained:
            worker.drain()
            await worker.wait(1)
        client.reset()
        await turn()
        assert count_living() == 0
    assert app.calls[0] == "connect"
    assert len([call for call in app.calls if type(call) is tuple]) == 1
