"""What a WebSocket waits for, and how long: a pong, the client's part in closing, and its reading of the end.

Each test names the ticks in which nothing may happen and those by which it must have; a deadline is never early.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Serve
from .harness import turn
from .websocket_client import (
    CLOSE,
    PING,
    PONG,
    Hold,
    Sends,
    Talk,
    binary,
    close,
    close_payload,
    connect,
    frame,
    text,
)

TIMED_OUT = (CLOSE, close_payload(1011, "keepalive ping timeout"))


# Pings.


async def test_an_idle_websocket_is_asked_whether_it_is_there(serve: Serve) -> None:
    worker = serve(Talk())
    socket = await connect(worker)
    for _ in range(3):
        await worker.wait(19)
        assert socket.take() == []
        await worker.wait(3)
        assert socket.take() == [(PING, b"")]
        socket.send(frame(PONG))
    assert socket.state == "open"


async def test_the_interval_of_pings_is_an_option(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_interval=5.0)
    socket = await connect(worker)
    await worker.wait(4)
    assert socket.take() == []
    await worker.wait(3)
    assert socket.take() == [(PING, b"")]


async def test_no_interval_means_no_pings(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_interval=0.0)
    socket = await connect(worker)
    await worker.wait(300)
    assert socket.take() == []
    assert socket.state == "open"


async def test_pings_need_no_answer_where_no_time_is_set_for_it(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_timeout=0.0)
    socket = await connect(worker)
    await worker.wait(110)
    assert socket.take() == [(PING, b"")] * 5
    assert socket.state == "open"


async def test_a_client_that_does_not_answer_a_ping_is_closed_with_1011(serve: Serve) -> None:
    app = Talk()
    worker = serve(app)
    socket = await connect(worker)
    await worker.wait(22)
    assert socket.take() == [(PING, b"")]
    await worker.wait(18)
    assert socket.take() == []
    await worker.wait(3)
    assert socket.take() == [TIMED_OUT]
    assert socket.state == "half-closed"
    assert app.calls == ["connect", (1011, "keepalive ping timeout")]
    await worker.wait(5)
    assert socket.state == "aborted"
    assert len(app.calls) == 2


async def test_the_time_for_a_pong_is_an_option(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_interval=5.0, ws_ping_timeout=3.0)
    socket = await connect(worker)
    await worker.wait(7)
    await worker.wait(1)
    assert socket.take() == [(PING, b"")]
    await worker.wait(3)
    assert socket.take() == [TIMED_OUT]


@pytest.mark.parametrize("payload", [b"", b"unasked"])
async def test_any_pong_in_time_will_do(serve: Serve, payload: bytes) -> None:
    worker = serve(Talk())
    socket = await connect(worker)
    for _ in range(3):
        await worker.wait(22)
        assert socket.take() == [(PING, b"")]
        await worker.wait(18)
        socket.send(frame(PONG, payload))
    await worker.wait(5)
    assert socket.take() == []
    assert socket.state == "open"


async def test_a_pong_that_nobody_waits_for_puts_no_ping_off(serve: Serve) -> None:
    worker = serve(Talk())
    socket = await connect(worker)
    for _ in range(22):
        socket.send(frame(PONG))
        await worker.wait(1)
    assert socket.take() == [(PING, b"")]


async def test_messages_are_no_pongs(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_interval=5.0, ws_ping_timeout=5.0)
    socket = await connect(worker)
    for _ in range(14):
        socket.send(text("a"))
        await worker.wait(1)
    assert TIMED_OUT in socket.take()


async def test_a_pong_may_come_between_fragments(serve: Serve) -> None:
    worker = serve(Talk(), ws_ping_interval=5.0, ws_ping_timeout=5.0)
    socket = await connect(worker)
    socket.send(frame(0x01, b"a"))
    for _ in range(20):
        socket.send(frame(PONG))
        await worker.wait(1)
    assert socket.state == "open"
    assert TIMED_OUT not in socket.take()


async def test_no_pong_is_missed_that_can_not_have_been_read(serve: Serve) -> None:
    """Past the bound of unfinished calls the socket is not read, and that is not the client's fault."""
    app = Hold()
    worker = serve(app, ws_max_queue=1)
    socket = await connect(worker)
    await socket.ask(text("1"), frame(PONG))
    await worker.wait(200)
    assert socket.take() == [(PING, b"")]
    assert socket.state == "open"
    await app.let_go()
    await worker.wait(5)
    assert socket.state == "open"
    await worker.wait(40)
    assert socket.take() == [(PING, b""), TIMED_OUT]


async def test_a_client_that_reads_what_it_was_sent_has_more_time_for_its_pong(serve: Serve) -> None:
    """The ping is behind what it is reading."""
    app = Sends(*[{"bytes": bytes(10_000)}] * 6)
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    for _ in range(10):
        await worker.wait(15)
        socket.client.read(5_000)
    assert socket.state == "open"
    socket.client.read()
    frames = socket.take()
    assert frames[-1] == (PING, b"")
    assert TIMED_OUT not in frames
    socket.send(frame(PONG))
    await worker.wait(15)
    assert socket.state == "open"


async def test_a_client_that_keeps_up_with_a_stream_is_not_cut_off(serve: Serve) -> None:
    """At each look as much waits for it as before, because the application goes on sending."""
    app = Sends(*[{"bytes": bytes(10_000)}] * 400)
    worker = serve(app, ws_ping_interval=5.0, ws_ping_timeout=5.0)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    for _ in range(30):
        await worker.wait(1)
        socket.client.read(60_000)
        await turn()
    assert app.error is None
    assert 100 < app.sent < 400
    assert socket.state == "open"


@pytest.mark.parametrize("held", [30_000, 100_000])
async def test_a_client_that_reads_nothing_is_cut_off(serve: Serve, held: int) -> None:
    app = Sends({"bytes": bytes(held)})
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    await worker.wait(60)
    assert socket.state == "aborted"
    assert app.calls == ["connect", "go", (1011, "keepalive ping timeout")]
    assert not worker.service.connections


# The client's part in closing.


async def test_a_client_that_does_not_answer_a_close_is_cut_off(serve: Serve) -> None:
    app = Sends({"close": 4000})
    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(text("go"))
    await worker.wait(9)
    assert socket.state == "open"
    assert app.calls == ["connect", "go"]
    await worker.wait(3)
    assert socket.state == "aborted"
    assert app.calls == ["connect", "go", (4000, "")]


async def test_without_a_deadline_a_client_may_take_any_time_to_close(serve: Serve) -> None:
    app = Sends({"close": 4000})
    worker = serve(app, ws_close_timeout=0.0)
    socket = await connect(worker)
    await socket.ask(text("go"))
    await worker.wait(100)
    assert socket.state == "open"
    socket.send(close(4000))
    await turn()
    assert app.calls == ["connect", "go", (4000, "")]


@pytest.mark.parametrize("chatter", [text("a"), frame(PING), frame(PONG), frame(0x01, b"a")[:3], binary(bytes(70_000))])
async def test_a_client_that_goes_on_talking_is_closed_in_time_too(serve: Serve, chatter: bytes) -> None:
    app = Sends({"close": True})
    worker = serve(app, ws_close_timeout=5.0, ws_max_size=0)
    socket = await connect(worker)
    await socket.ask(text("go"))
    for _ in range(9):
        socket.send(chatter)
        await worker.wait(1)
    assert socket.client.transport.lost
    assert app.calls[:2] == ["connect", "go"]
    assert len(app.calls) == 3


async def test_a_client_that_still_reads_has_more_time_to_close(serve: Serve) -> None:
    app = Sends({"bytes": bytes(60_000), "close": True})
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    for _ in range(6):
        await worker.wait(8)
        socket.client.read(5_000)
    assert socket.state == "open"
    await worker.wait(24)
    assert socket.state == "aborted"


async def test_no_ping_is_sent_while_closing(serve: Serve) -> None:
    worker = serve(Sends({"close": True}), ws_ping_interval=2.0, ws_close_timeout=20.0)
    socket = await connect(worker)
    await socket.ask(text("go"))
    await worker.wait(15)
    assert socket.take() == []
    assert socket.state == "open"


# The end.


ENDINGS: dict[str, tuple[Callable[[], Talk], list[bytes]]] = {
    "closed by the client": (Talk, [close()]),
    "closed by the application": (lambda: Sends({"close": True}), [text("go"), close()]),
    "failed": (Talk, [frame(0x81, b"\xff")]),
}


@pytest.mark.parametrize(("make_app", "sent"), ENDINGS.values(), ids=ENDINGS)
async def test_a_connection_that_has_ended_lingers_for_the_client_to_read(
    serve: Serve, make_app: Callable[[], Talk], sent: list[bytes]
) -> None:
    app = make_app()
    worker = serve(app)
    socket = await connect(worker)
    for piece in (*sent, text("dropped")):
        await socket.ask(piece)
    assert socket.state == "half-closed"
    await worker.wait(1)
    assert socket.state == "half-closed"
    await worker.wait(3)
    assert socket.state == "aborted"
    assert "dropped" not in app.calls
    assert len([call for call in app.calls if type(call) is tuple]) == 1


async def test_a_connection_that_has_ended_is_closed_at_once_where_nobody_lingers(serve: Serve) -> None:
    worker = serve(Talk(), linger_timeout=0.0)
    socket = await connect(worker)
    assert await socket.ask(close()) == [(CLOSE, close_payload(1000))]
    assert socket.state == "closed"


@pytest.mark.parametrize("linger", [0.0, 2.0])
async def test_an_end_that_the_client_does_not_read_is_waited_for_in_bounds(serve: Serve, linger: float) -> None:
    app = Sends({"bytes": bytes(30_000)})
    worker = serve(app, linger_timeout=linger)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"), close())
    assert socket.state in ("half-closed", "closing")
    await worker.wait(13)
    assert socket.state == "aborted"
    assert app.calls == ["connect", "go", (1000, "")]


async def test_a_client_that_ends_within_what_it_is_sent_is_waited_for_in_bounds(serve: Serve) -> None:
    app = Sends({"bytes": bytes(30_000)})
    worker = serve(app)
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("go"))
    socket.client.end()
    await turn()
    assert app.calls == ["connect", "go", (1006, "")]
    assert socket.state == "closing"
    await worker.wait(13)
    assert socket.state == "aborted"
