"""A worker that is told to stop reads no more of a WebSocket, lets its receive calls end, and closes with 1012."""

from __future__ import annotations

import asyncio

import pytest

from uvicorn_worker.errors import ClientDisconnected
from uvicorn_worker.websocket import protocol

from .conftest import Serve
from .harness import turn
from .websocket_client import (
    CLOSE,
    PING,
    SWITCH,
    TEXT,
    Hold,
    Sends,
    Talk,
    binary,
    close,
    close_payload,
    connect,
    frame,
    handshake,
    text,
)

RESTART = (CLOSE, close_payload(1012))
RESTARTED = (1012, "")


async def test_an_idle_websocket_is_closed_at_once(serve: Serve) -> None:
    app = Talk()
    worker = serve(app)
    socket = await connect(worker)
    worker.drain()
    await turn()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", RESTARTED]
    assert await socket.ask(close(1012)) == []
    assert socket.state == "half-closed"
    socket.client.end()
    await turn()
    assert not worker.service.connections
    assert not worker.service.running
    assert len(app.calls) == 2


async def test_calls_under_way_are_waited_for_and_nothing_more_is_read(serve: Serve) -> None:
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("1") + text("2"))
    worker.drain()
    socket.send(text("3"), frame(PING), close())
    await turn()
    assert socket.take() == []
    assert not socket.client.transport.reading
    await app.let_go()
    assert socket.take() == []
    await app.let_go()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", "1", "2", RESTARTED]
    assert socket.state == "half-closed"  # the client's close was read behind what is dropped


async def test_nothing_more_is_read_of_a_client_that_reads_on(serve: Serve) -> None:
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("1"), frame(PING, b"a" * 125) * 600)
    assert not socket.client.transport.reading
    worker.drain()
    socket.client.read()
    await turn()
    assert not socket.client.transport.reading
    await app.let_go()
    assert app.calls == ["connect", "1", RESTARTED]


async def test_what_was_held_back_is_dropped(serve: Serve) -> None:
    app = Hold()
    worker = serve(app, ws_max_queue=1)
    socket = await connect(worker)
    await socket.ask(text("1") + text("2") + text("3"), text("4"))
    worker.drain()
    await app.let_go()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", "1", RESTARTED]


async def test_calls_that_end_as_the_worker_stops_may_still_send(serve: Serve) -> None:
    go_on = asyncio.Event()

    class App(Talk):
        async def received(self, message: dict, reply: Talk) -> None:
            await go_on.wait()
            await reply.send({"text": "done"})

    worker = serve(App())
    socket = await connect(worker)
    await socket.ask(text("go"))
    worker.drain()
    go_on.set()
    await turn()
    assert socket.take() == [(TEXT, b"done"), RESTART]


async def test_calls_that_do_not_end_are_not_waited_for_longer_than_a_grace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_GRACE", 0.0)
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("1"))
    worker.drain()
    assert socket.take() == []
    await turn()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", "1", RESTARTED]
    assert worker.service.running
    await app.let_go()
    assert not worker.service.running


def test_the_grace_is_a_second() -> None:
    assert protocol.RECEIVE_GRACE == 1.0


async def test_a_stop_does_not_wait_for_the_call_of_the_handshake(serve: Serve) -> None:
    end, app, raised = asyncio.Event(), Talk(), []

    async def stays(message: dict, channels: dict) -> None:
        await app(message, channels)
        if message["channel"] == "websocket.connect":
            await end.wait()
            with pytest.raises(ClientDisconnected):
                await channels["reply"].send({"text": "late"})
            raised.append(message["channel"])

    worker = serve(stays)
    socket = await connect(worker)
    worker.drain()
    await turn()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", RESTARTED]
    end.set()
    await turn()
    assert raised == ["websocket.connect"]
    assert socket.take() == []


async def test_stopping_again_changes_nothing(serve: Serve) -> None:
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("1"))
    for _ in range(3):
        worker.drain()
        await worker.end_grace()
    await app.let_go()
    for _ in range(3):
        worker.drain()
        await worker.end_grace()
    assert socket.take() == [RESTART]
    assert app.calls == ["connect", "1", RESTARTED]


@pytest.mark.parametrize("linger", [2.0, 0.0])
async def test_a_client_that_does_not_answer_is_cut_off(serve: Serve, linger: float) -> None:
    app = Talk()
    worker = serve(app, linger_timeout=linger, ws_close_timeout=5.0)
    socket = await connect(worker)
    worker.drain()
    await worker.wait(8)
    assert socket.state in ("aborted", "closed")
    assert app.calls == ["connect", RESTARTED]
    assert not worker.service.connections


async def test_a_client_that_does_not_read_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_GRACE", 0.0)
    app = Sends(*[{"bytes": bytes(40_000)}] * 3)
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    worker.drain()
    await turn()
    assert app.calls == ["connect", "go", RESTARTED]
    await worker.wait(5)
    assert socket.state == "aborted"
    assert isinstance(app.error, ClientDisconnected)
    assert not worker.service.running


async def test_a_websocket_that_is_closing_goes_on_closing(serve: Serve) -> None:
    app = Sends({"close": 4000})
    worker = serve(app)
    socket = await connect(worker)
    assert await socket.ask(text("go")) == [(CLOSE, close_payload(4000))]
    worker.drain()
    assert await socket.ask(close(4000)) == []
    assert app.calls == ["connect", "go", (4000, "")]


async def test_a_websocket_that_lingers_can_be_told_to_stop(serve: Serve) -> None:
    app = Talk()
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(close())
    worker.drain()
    await worker.end_grace()
    assert socket.state == "half-closed"
    assert app.calls == ["connect", (1000, "")]


async def test_a_handshake_that_is_accepted_while_the_worker_stops_is_closed_with_its_next_look(serve: Serve) -> None:
    accept, app = asyncio.Event(), Talk()

    async def waits(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await accept.wait()
        await app(message, channels)

    worker = serve(waits)
    client = worker.connect()
    client.send(handshake())
    await turn()
    worker.drain()
    accept.set()
    await turn()
    assert client.take() == SWITCH
    worker.drain()
    await turn()
    assert client.take() == frame(*RESTART, mask=b"")
    assert app.calls == ["connect", RESTARTED]


async def test_a_handshake_that_is_not_answered_by_the_end_is_answered_for_with_503(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["channel"])
        if message["channel"] == "websocket.connect":
            await asyncio.Event().wait()

    worker = serve(app)
    client = worker.connect()
    client.send(handshake())
    await turn()
    worker.drain()
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    assert client.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert calls == ["websocket.connect", "websocket.disconnect"]


async def test_calls_that_are_left_at_the_end_are_cancelled_quietly(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_GRACE", 0.0)
    app = Hold()
    worker = serve(app)
    socket = await connect(worker, "/chat")
    await socket.ask(text("1"))
    worker.drain()
    await turn()
    assert [str(running) for running in worker.service.running] == ["WebSocket /chat"]
    for running in list(worker.service.running):
        running.cancel()
    await turn()
    assert not worker.service.running
    assert worker.log.take() == []


@pytest.mark.parametrize(
    "sent", [b"", text("a")[:3], frame(0x01, b"a"), text("1"), text("1") + close(), binary(b"a") * 50]
)
async def test_a_websocket_can_be_aborted_at_any_time(serve: Serve, sent: bytes) -> None:
    app = Hold()
    worker = serve(app)
    socket = await connect(worker)
    socket.send(sent)
    await turn()
    for connection in list(worker.service.connections):
        connection.abort()
    await turn()
    assert socket.state == "aborted"
    assert len([call for call in app.calls if type(call) is tuple]) == 1
    await app.let_all_go()


async def test_a_call_that_waits_for_ever_is_cancelled_when_the_last_has_ended(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each connection whose call for the handshake waits for news would hold a deploy up."""
    monkeypatch.setattr("uvicorn_worker.interfaces.channels.RECEIVE_GRACE", 0)
    ended: list[str] = []

    async def app(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("connect")
        ended.append(message["channel"])

    worker = serve(app)
    await connect(worker)
    worker.drain()
    while worker.service.running:
        await asyncio.sleep(0)
    assert ended == ["websocket.disconnect", "connect"]
