"""Bounds of what a worker holds for a WebSocket, in both directions."""

from __future__ import annotations

import asyncio

import pytest

from uvicorn_worker.errors import ClientDisconnected

from .conftest import Serve
from .harness import Transport, turn
from .websocket_client import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Hold,
    Sends,
    Talk,
    TalkBack,
    binary,
    close,
    close_payload,
    connect,
    fragments,
    frame,
    handshake,
    text,
)

PIECE = bytes(10_000)


def numbers(*which: int) -> list[bytes]:
    return [text(str(number)) for number in which]


# Towards the worker.


async def test_the_socket_is_not_read_past_the_bound_of_unfinished_calls(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=3))
    socket.send(*numbers(*range(10)))
    await turn()
    assert app.calls == ["connect", "0", "1", "2"]
    assert not socket.client.transport.reading
    assert socket.client.transport.unread == 7 * len(text("0"))
    await app.let_go()
    assert app.calls == ["connect", "0", "1", "2", "3"]
    assert socket.client.transport.unread == 6 * len(text("0"))
    assert not socket.client.transport.reading
    await app.let_all_go()
    assert app.calls == ["connect", *map(str, range(10))]
    assert socket.client.transport.reading


async def test_one_less_than_the_bound_is_read_without_a_pause(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=3))
    await socket.ask(*numbers(1, 2))
    assert socket.client.transport.reading
    await app.let_all_go()


@pytest.mark.parametrize("bound", [1, 2, 5])
async def test_what_one_read_brought_beyond_the_bound_is_kept(serve: Serve, bound: int) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=bound))
    sent = b"".join([*numbers(*range(12)), fragments(TEXT, b"a", b"b"), binary(b"c" * 200), text("d")])
    expected = [*map(str, range(12)), "ab", b"c" * 200, "d"]
    socket.send(sent[:-3])
    socket.send(sent[-3:])
    await turn()
    assert not socket.client.transport.reading
    for done in range(len(expected)):
        assert app.calls == ["connect", *expected[: done + bound]]
        assert app.held <= bound
        await app.let_go()
    assert socket.client.transport.reading
    assert socket.state == "open"


@pytest.mark.unmeasured
@pytest.mark.parametrize("small", [frame(PONG), frame(0x00)])
async def test_frames_that_make_no_calls_do_not_keep_other_clients_waiting(serve: Serve, small: bytes) -> None:
    app = TalkBack()
    worker = serve(app)
    busy, other = await connect(worker), await connect(worker)
    busy.send(frame(0x01, b"a") + small * 10_000 + frame(0x80, b"b"))
    assert await other.ask(text("1")) == [(TEXT, b"1")]
    assert app.calls == ["connect", "connect", "1"]
    await turn(300)
    assert busy.take() == [(TEXT, b"ab")]


async def test_the_bound_is_each_websockets_own(serve: Serve) -> None:
    app = Hold()
    worker = serve(app, ws_max_queue=1)
    first, second = await connect(worker), await connect(worker)
    await first.ask(text("1"))
    await second.ask(text("2"))
    assert app.calls == ["connect", "connect", "1", "2"]
    await app.let_all_go()


async def test_the_call_for_the_handshake_is_no_receive_call(serve: Serve) -> None:
    end, app = asyncio.Event(), Talk()

    async def stays(message: dict, channels: dict) -> None:
        await app(message, channels)
        if message["channel"] == "websocket.connect":
            await end.wait()

    socket = await connect(serve(stays, ws_max_queue=1))
    await socket.ask(text("1"), text("2"))
    assert app.calls == ["connect", "1", "2"]
    assert socket.client.transport.reading
    end.set()


async def test_with_a_queue_of_one_receive_calls_do_not_overlap(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=1))
    socket.send(*numbers(1, 2, 3))
    for order in ("1", "2", "3"):
        await turn()
        assert app.calls[-1] == order
        await app.let_go()


async def test_neither_ping_nor_close_is_read_past_the_bound(serve: Serve) -> None:
    """A close behind messages that were not delivered would have to come before them."""
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=1))
    assert await socket.ask(text("1") + frame(PING, b"a") + text("2") + close()) == []
    await app.let_go()
    assert socket.take() == [(PONG, b"a")]
    assert app.calls == ["connect", "1", "2"]
    await app.let_go()
    assert socket.take() == [(CLOSE, close_payload(1000))]
    assert app.calls == ["connect", "1", "2", (1000, "")]


async def test_messages_before_the_answer_to_the_handshake_are_bounded(serve: Serve) -> None:
    accept = asyncio.Event()
    app = Talk()

    async def waits(message: dict, channels: dict) -> None:
        if message["channel"] == "websocket.connect":
            await accept.wait()
        await app(message, channels)

    client = serve(waits).connect()
    client.send(handshake(), *[binary(PIECE)] * 50)
    await turn()
    assert not client.transport.reading
    assert client.transport.unread >= 49 * len(PIECE)
    accept.set()
    await turn(100)
    assert app.calls == ["connect", *[PIECE] * 50]


# Towards the client.


async def test_a_client_that_does_not_read_makes_send_wait(serve: Serve) -> None:
    app = Sends(*[{"bytes": PIECE}] * 30)
    socket = await connect(serve(app))
    socket.client.stop_reading()
    await socket.ask(text("go"))
    assert app.sent == Transport.HIGH_WATER // len(PIECE)
    assert socket.client.transport.get_write_buffer_size() <= Transport.HIGH_WATER + 2 * len(PIECE)
    socket.client.read(20_000)
    await turn()
    assert app.sent == Transport.HIGH_WATER // len(PIECE)
    socket.client.read(40_000)
    await turn()
    assert Transport.HIGH_WATER // len(PIECE) < app.sent < 30
    socket.client.read()
    await turn(60)
    assert app.sent == 30
    assert len(socket.take()) == 30


async def test_senders_of_several_calls_wait_together(serve: Serve) -> None:
    app = TalkBack()
    socket = await connect(serve(app))
    socket.client.stop_reading()
    await socket.ask(*[binary(PIECE)] * 20)
    assert app.calls == ["connect", *[PIECE] * 20]
    socket.client.read()
    await turn(60)
    assert len(socket.take()) == 20


@pytest.mark.parametrize("goes", ["reset", "time"])
async def test_a_send_that_waits_for_a_client_that_goes_raises(serve: Serve, goes: str) -> None:
    app = Sends(*[{"bytes": PIECE}] * 30)
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    if goes == "reset":
        socket.client.reset()
        await turn()
    else:
        await worker.wait(100)
    assert isinstance(app.error, ClientDisconnected)
    assert app.calls[2:] in ([(1006, "")], [(1011, "keepalive ping timeout")])
    assert socket.client.transport.lost


async def test_the_last_send_raises_too_where_its_message_can_not_arrive(serve: Serve) -> None:
    app = Sends({"bytes": bytes(100_000)})
    socket = await connect(serve(app))
    socket.client.stop_reading()
    await socket.ask(text("go"))
    socket.client.reset()
    await turn()
    assert isinstance(app.error, ClientDisconnected)


async def test_messages_are_still_read_from_a_client_that_does_not_read(serve: Serve) -> None:
    """It may have to be heard first: both sides send, and each reads only when it has sent."""
    app = Sends(*[{"bytes": PIECE}] * 10)
    socket = await connect(serve(app))
    socket.client.stop_reading()
    await socket.ask(text("go"), text("a"))
    assert app.calls == ["connect", "go", "a"]
    assert socket.client.transport.reading
    socket.client.read()
    await turn(40)
    assert len(socket.take()) == 20


@pytest.mark.unmeasured
@pytest.mark.parametrize("size", [10, 125])
async def test_pings_of_a_client_that_does_not_read_are_not_answered_without_bound(serve: Serve, size: int) -> None:
    app = Talk()
    socket = await connect(serve(app))
    socket.client.stop_reading()
    one = frame(PING, b"a" * size)
    count = 2 * Transport.HIGH_WATER // len(one)
    for _ in range(4):
        socket.send(one * (count // 2))
    await turn()
    assert not socket.client.transport.reading
    assert socket.client.transport.get_write_buffer_size() <= Transport.HIGH_WATER + len(one)
    assert socket.client.transport.unread
    socket.client.read()
    await turn(300)
    assert socket.client.transport.reading
    assert socket.take() == [(PONG, b"a" * size)] * (count // 2 * 4)
    await socket.ask(text("a"))
    assert app.calls == ["connect", "a"]


async def test_pings_and_unfinished_calls_can_both_hold_the_reading(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=1))
    socket.client.stop_reading()
    await socket.ask(frame(PING, b"a" * 125) * 600, text("1"), text("2"))
    assert not socket.client.transport.reading
    assert app.calls == ["connect"]
    socket.client.read()
    await turn()
    assert app.calls == ["connect", "1"]
    assert not socket.client.transport.reading
    socket.client.stop_reading()
    await app.let_go()
    assert app.calls == ["connect", "1", "2"]
    await app.let_go()
    assert socket.client.transport.reading


async def test_a_call_that_ends_lets_nothing_be_read_from_a_client_that_does_not_read(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_queue=2))
    await socket.ask(text("1"), text("2"))
    await app.let_go()
    assert socket.client.transport.reading
    socket.client.stop_reading()
    await socket.ask(frame(PING, b"a" * 125) * 600, text("3"))
    assert not socket.client.transport.reading
    await app.let_go()
    assert app.calls == ["connect", "1", "2"]
    assert not socket.client.transport.reading
    socket.client.read()
    await turn()
    assert app.calls == ["connect", "1", "2", "3"]
    await app.let_go()


async def test_a_client_that_reads_again_lets_nothing_be_read_past_the_bound_of_calls(serve: Serve) -> None:
    app = Hold({"accept": True}, {"bytes": bytes(100_000)})
    client = serve(app, ws_max_queue=1).connect()
    client.stop_reading()
    client.send(handshake())
    await turn()
    client.send(text("1"), text("2"))
    await turn()
    client.read()
    await turn()
    assert app.calls == ["connect", "1"]
    assert not client.transport.reading
    await app.let_all_go()
    assert app.calls == ["connect", "1", "2"]


async def test_the_socket_is_not_read_past_the_bound_of_unfinished_bytes(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_size=100_000))
    large = bytes(60_000)
    socket.send(binary(large), binary(b"small"), binary(large), binary(b"last"))
    await turn()
    assert app.calls == ["connect", large, b"small", large]
    assert not socket.client.transport.reading
    await app.let_go()
    assert app.calls[4:] == [b"last"]
    assert socket.client.transport.reading
    await app.let_all_go()


async def test_a_message_in_fragments_counts_among_unfinished_bytes(serve: Serve) -> None:
    app = Hold()
    socket = await connect(serve(app, ws_max_size=100_000))
    large = bytes(60_000)
    socket.send(fragments(0x82, large[:30_000], large[30_000:]) * 2 + binary(b"last"))
    await turn()
    assert app.calls == ["connect", large, large]
    await app.let_all_go()
    assert app.calls == ["connect", large, large, b"last"]
