"""How WebSockets of ASGI 3 applications end: denied, closed by either side, lost, by a return, an error, or a stop."""

from __future__ import annotations

from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected, InvalidReply

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
)
from .conftest import Serve
from .harness import ASGIWorker, Client, turn
from .websocket_client import CLOSE, TEXT, WebSocket, close, close_payload, handshake, text

FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 9\r\n"
    b"Connection: close\r\n\r\nForbidden"
)


async def ask(serve: Serve, app: Any, **settings: Any) -> tuple[ASGIWorker, Client]:
    """A client that has sent a handshake."""
    worker = serve.asgi(app, **settings)
    client = worker.connect()
    client.send(handshake())
    await turn()
    return worker, client


async def open_socket(serve: Serve, app: Puppet, **settings: Any) -> tuple[ASGIWorker, WebSocket]:
    """A WebSocket that the application has accepted."""
    worker, client = await ask(serve, app, **settings)
    assert await app.receives() == CONNECT
    await app.sends(ACCEPT)
    return worker, WebSocket(client, client.take())


async def assert_over(app: Puppet, end: Event) -> None:
    """There is nothing to receive but this end, time and again, and nobody to send to."""
    assert await app.receives() == end
    assert await app.receives() == end
    for event in (sent("a"), close_event(), ACCEPT, denial(), denial_body(b"a")):
        with pytest.raises(OSError) as error:
            await app.sends(event)
        assert isinstance(error.value, ClientDisconnected)


# Denied.


@pytest.mark.parametrize("event", [close_event(), close_event(4000, "no"), {"type": "websocket.close"}])
async def test_a_close_before_accept_is_answered_with_403(serve: Serve, event: Event) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    assert await app.receives() == CONNECT
    await app.sends(event)
    assert client.take() == FORBIDDEN
    assert client.has_ended
    await assert_over(app, disconnected(1006))


async def test_a_denial_may_be_any_response(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    await app.sends(denial(401, (b"www-authenticate", b"Basic"), (b"x-a", b"1")))
    assert client.take() == b""
    await app.sends(denial_body(b"who are you?"))
    head, _, body = client.take().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 401 Unauthorized"
    assert {b"www-authenticate: Basic", b"x-a: 1", b"content-length: 12"} < set(lines)
    assert body == b"who are you?"
    assert client.has_ended
    assert await app.receives() == CONNECT
    await assert_over(app, disconnected(1006))


async def test_a_denial_without_a_body_has_none(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    await app.sends(denial(404), {"type": "websocket.http.response.body"})
    assert client.take() == b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"


async def test_a_denial_may_be_streamed(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    await app.sends(denial(401), denial_body(b"who", more=True))
    head = b"HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\nConnection: close\r\n\r\n"
    assert client.take() == head + b"3\r\nwho\r\n"
    await app.sends(denial_body(b"are", more=True))
    assert client.take() == b"3\r\nare\r\n"
    await app.sends(denial_body(b"you?"))
    assert client.take() == b"4\r\nyou?\r\n0\r\n\r\n"
    assert client.has_ended
    assert await app.receives() == CONNECT
    await assert_over(app, disconnected(1006))


async def test_a_streamed_denial_waits_while_the_client_does_not_read(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    client.stop_reading()
    await app.sends(denial(401))
    waiting = await app.begins(app.send(denial_body(bytes(100_000), more=True)))
    assert not waiting.done()
    client.read()
    await turn()
    assert waiting.done()
    await app.sends(denial_body())
    assert client.take().endswith(b"0\r\n\r\n")


async def test_a_denial_whose_client_goes_raises(serve: Serve) -> None:
    app = Puppet()
    _, client = await ask(serve, app)
    assert await app.receives() == CONNECT
    await app.sends(denial(401), denial_body(b"who", more=True))
    client.reset()
    await turn()
    await assert_over(app, disconnected(1006))


@pytest.mark.parametrize("wrong", [denial(99), denial(401, (b"x-a", b"\n")), denial(401, (b"content-length", b"7"))])
async def test_a_denial_that_can_not_be_sent_raises_and_leaves_500(serve: Serve, wrong: Event) -> None:
    app = Puppet()
    worker, client = await ask(serve, app)
    with pytest.raises(InvalidReply):
        await app.sends(wrong, denial_body(b"who?"))
    assert client.take() == b""
    await app.raises(ValueError("broken"))
    assert client.take().startswith(b"HTTP/1.1 500 ")
    assert worker.log.take() == ["The application raised: GET / (Upgrade: websocket) [ValueError: broken]"]


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_a_denial_that_is_left_unfinished_ends_the_connection(serve: Serve, error: Exception | None) -> None:
    app = Puppet()
    worker, client = await ask(serve, app)
    await app.sends(denial(401), denial_body(b"who", more=True))
    await (app.returns() if error is None else app.raises(error))
    assert not client.take().endswith(b"0\r\n\r\n")
    assert client.has_ended
    assert len(worker.log.take()) == 1


async def test_a_return_without_an_answer_is_answered_with_403_and_logged(serve: Serve) -> None:
    for events in ([], [denial(401)]):
        app = Puppet()
        worker, client = await ask(serve, app)
        for event in events:
            await app.sends(event)
        await app.returns()
        assert client.take() == FORBIDDEN
        assert worker.log.take() == ["The application returned without an answer, which rejects: WebSocket /"]


async def test_an_error_before_an_answer_is_answered_with_500_and_logged_once(serve: Serve) -> None:
    app = Puppet()
    worker, client = await ask(serve, app)
    await app.raises(ValueError("broken"))
    assert client.take().startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert worker.log.take() == ["The application raised: GET / (Upgrade: websocket) [ValueError: broken]"]


async def test_a_client_that_goes_before_the_answer_is_told_of(serve: Serve) -> None:
    app = Puppet()
    worker, client = await ask(serve, app)
    assert await app.receives() == CONNECT
    received = await app.begins(app.receive())
    assert not received.done()
    client.reset()
    await turn()
    assert received.result() == disconnected(1006)
    await assert_over(app, disconnected(1006))
    await app.returns()
    assert worker.log.take() == []


# Closed.

CLOSES: dict[str, tuple[Event, int, str]] = {
    "neither a code nor a reason": ({"type": "websocket.close"}, 1000, ""),
    "both as None": (close_event(None, None), 1000, ""),
    "a code": (close_event(4000), 4000, ""),
    "a code and a reason": (close_event(3000, "caf\xe9"), 3000, "caf\xe9"),
    "a reason": (close_event(None, "enough"), 1000, "enough"),
}


@pytest.mark.parametrize(("event", "code", "reason"), CLOSES.values(), ids=CLOSES)
async def test_the_application_closes(serve: Serve, event: Event, code: int, reason: str) -> None:
    app = Puppet()
    _, socket = await open_socket(serve, app)
    await app.sends(event)
    assert socket.take() == [(CLOSE, close_payload(code, reason))]
    with pytest.raises(OSError):
        await app.sends(sent("a"))
    received = await app.begins(app.receive())
    assert not received.done()
    await socket.ask(close(code, reason))
    assert received.result() == disconnected(code, reason)
    await assert_over(app, disconnected(code, reason))
    assert socket.client.has_ended


@pytest.mark.parametrize(
    ("code", "reason", "told"), [(1000, "", 1000), (1001, "bye", 1001), (4999, "caf\xe9", 4999), (None, "", 1005)]
)
async def test_the_client_closes(serve: Serve, code: int | None, reason: str, told: int) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    answer = await socket.ask(text("a"), close(code, reason))
    assert answer == [(CLOSE, close_payload(code))] or answer == [(CLOSE, close_payload(code, reason))]
    assert await app.receives() == message("a")
    await assert_over(app, disconnected(told, reason))
    await app.returns()
    assert worker.log.take() == []
    assert not worker.service.running


@pytest.mark.parametrize("ends", ["reset", "end"])
async def test_a_connection_that_is_lost_is_1006_behind_what_has_come(serve: Serve, ends: str) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await socket.ask(text("a"), text("b"))
    getattr(socket.client, ends)()
    await turn()
    assert await app.receives() == message("a")
    assert await app.receives() == message("b")
    await assert_over(app, disconnected(1006))
    assert not app.was_cancelled


async def test_a_disconnect_reaches_a_receive_that_waits(serve: Serve) -> None:
    app = Puppet()
    _, socket = await open_socket(serve, app)
    received = await app.begins(app.receive())
    socket.client.reset()
    await turn()
    assert received.result() == disconnected(1006)


async def test_a_disconnect_that_one_receive_was_given_is_not_changed_for_another(serve: Serve) -> None:
    app = Puppet()
    _, socket = await open_socket(serve, app)
    await socket.ask(close(1001))
    (await app.receives()).clear()
    assert await app.receives() == disconnected(1001)


async def test_a_send_that_waits_raises_when_the_client_goes(serve: Serve) -> None:
    app = Puppet()
    _, socket = await open_socket(serve, app)
    socket.client.stop_reading()
    waiting = await app.begins(app.send(sent(bytes(100_000))))
    assert not waiting.done()
    socket.client.reset()
    await turn()
    assert isinstance(waiting.exception(), ClientDisconnected)


async def test_a_close_that_the_client_does_not_answer_ends_in_time(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app, ws_close_timeout=5)
    await app.sends(close_event(1001, "a"))
    received = await app.begins(app.receive())
    await worker.wait(7)
    assert received.done()
    assert received.result()["type"] == "websocket.disconnect"
    assert socket.client.has_ended


# The call ends.


async def test_a_return_closes_with_1000(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await app.returns()
    assert socket.take() == [(CLOSE, close_payload(1000))]
    assert await socket.ask(close(1000)) == []
    assert socket.client.has_ended
    assert worker.log.take() == []
    assert not worker.service.running


async def test_a_return_after_the_close_of_its_own_closes_once(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await app.sends(close_event(4000))
    await app.returns()
    assert socket.take() == [(CLOSE, close_payload(4000))]
    assert worker.log.take() == []


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), OSError("broken"), ClientDisconnected("a")])
async def test_an_error_closes_with_1011_and_is_logged_once(serve: Serve, error: BaseException) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await app.raises(error)
    assert socket.take() == [(CLOSE, close_payload(1011))]
    assert await socket.ask(close(1011)) == []
    assert worker.log.take() == [f"The application raised: WebSocket / [{type(error).__name__}: {error}]"]
    assert not worker.service.running


async def test_the_error_of_a_send_to_a_client_that_has_gone_is_not_logged(serve: Serve) -> None:
    async def app(scope: Event, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        assert await receive() == CONNECT
        while True:
            await receive()
            await send(sent("a"))

    worker, client = await ask(serve, app)
    client.reset()
    await turn()
    assert worker.log.take() == []
    assert not worker.service.running


async def test_an_error_after_the_end_is_logged_and_nothing_is_sent(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await socket.ask(close(1000))
    await app.raises(ValueError("broken"))
    assert socket.take() == []
    assert worker.log.take() == ["The application raised: WebSocket / [ValueError: broken]"]


# The worker stops.


async def test_a_worker_that_stops_closes_with_1012_and_tells_the_application(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    received = await app.begins(app.receive())
    worker.drain()
    await turn()
    assert socket.take() == [(CLOSE, close_payload(1012))]
    assert received.result() == disconnected(1012)
    await assert_over(app, disconnected(1012))
    assert await socket.ask(close(1012)) == []
    await app.returns()
    assert not worker.service.running
    assert worker.log.take() == []


async def test_what_was_received_before_the_worker_stops_is_received_by_the_application(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    await socket.ask(text("a"), text("b"))
    worker.drain()
    socket.send(text("c"))
    await turn()
    assert [await app.receives() for _ in range(3)] == [message("a"), message("b"), disconnected(1012)]
    assert (TEXT, b"c") not in socket.take()


async def test_a_call_that_does_not_heed_the_stop_is_cancelled_without_a_word(serve: Serve) -> None:
    app = Puppet()
    worker, socket = await open_socket(serve, app)
    worker.drain()
    await turn()
    [running] = worker.service.running
    running.cancel()
    await turn()
    assert app.was_cancelled
    assert not worker.service.running
    assert worker.log.take() == []
    assert socket.take() == [(CLOSE, close_payload(1012))]
