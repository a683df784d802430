"""Requests to switch to a protocol that has a handler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply
from uvicorn_worker.http11.upgrade import Upgrade, UpgradedProtocol

from .conftest import Serve
from .harness import HELLO, Client, Worker, get, post, turn

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: lines\r\nConnection: Upgrade\r\n\r\n"
Handler = Callable[[Upgrade], Coroutine[Any, Any, None]]

ASK = get("/", "Connection: Upgrade", "Upgrade: lines")


class Lines(UpgradedProtocol):
    """Sends each line back in upper case."""

    rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line.upper() + b"\n")


async def lines(upgrade: Upgrade) -> None:
    upgrade.switch(Lines(upgrade))


def worker_with(serve: Serve, handler: Handler) -> Worker:
    worker = serve()
    worker.service.upgrades[b"lines"] = handler
    return worker


async def ask(serve: Serve, handler: Handler, sent: bytes = ASK) -> tuple[Client, bytes]:
    """A client that has sent this, and what came in answer."""
    client = worker_with(serve, handler).connect()
    return client, await client.ask(sent)


async def test_a_connection_is_handed_over_with_what_was_sent_behind_the_request(serve: Serve) -> None:
    worker = worker_with(serve, lines)
    sent = ASK + b"hello\nworld\n"
    for cut in range(1, len(sent) + 1):
        client = worker.connect()
        client.send(*filter(None, (sent[:cut], sent[cut:])))
        await turn()
        assert client.take() == SWITCH + b"HELLO\nWORLD\n"
        assert await client.ask(get()) == get().upper()
        client.reset()
        await turn()
    assert not worker.service.connections


async def test_requests_before_the_switch_are_answered(serve: Serve) -> None:
    client, answer = await ask(serve, lines, get() + get() + ASK + b"hello\n")
    assert answer == HELLO * 2 + SWITCH + b"HELLO\n"


@pytest.mark.parametrize("value", ["LINES", "tea, Lines", "tea,Lines ,websocket"])
async def test_the_name_of_a_protocol_is_found_in_any_case_and_among_others(serve: Serve, value: str) -> None:
    name = "LINES" if value == "LINES" else "Lines"
    _, answer = await ask(serve, lines, get("/", "Connection: Upgrade", f"Upgrade: {value}"))
    assert answer == SWITCH.replace(b"lines", name.encode())


async def test_a_handler_knows_the_request(serve: Serve) -> None:
    seen = []

    async def handler(upgrade: Upgrade) -> None:
        seen.append((upgrade.method, upgrade.target.path, upgrade.target.query_string, upgrade.headers[-1]))
        await lines(upgrade)

    await ask(serve, handler, get("/a%20b?c", "Connection: Upgrade", "Upgrade: lines", "X: y"))
    assert seen == [("GET", "/a b", b"c", [b"x", b"y"])]


async def test_a_switch_may_have_fields(serve: Serve) -> None:
    async def handler(upgrade: Upgrade) -> None:
        upgrade.switch(Lines(upgrade), [(b"x", b"y")])

    _, answer = await ask(serve, handler)
    assert answer == SWITCH.replace(b"Connection", b"x: y\r\nConnection")


@pytest.mark.parametrize(
    "field",
    [(b"Connection", b"close"), (b"upgrade", b"tea"), (b"content-length", b"0"), (b"Transfer-Encoding", b"chunked")]
    + [(b"a b", b"c"), (b"x", b"a\r\nb: c")],
)
async def test_a_bad_field_of_a_switch_raises_and_leaves_the_request_to_be_answered(
    serve: Serve, field: tuple[bytes, bytes]
) -> None:
    async def handler(upgrade: Upgrade) -> None:
        with pytest.raises(InvalidReply):
            upgrade.switch(Lines(upgrade), [(b"x", b"y"), field])
        await lines(upgrade)

    client, answer = await ask(serve, handler)
    assert answer == SWITCH
    assert await client.ask(b"hello\n") == b"HELLO\n"


async def test_there_is_one_answer(serve: Serve) -> None:
    async def handler(upgrade: Upgrade) -> None:
        await lines(upgrade)
        with pytest.raises(IllegalMove):
            await lines(upgrade)
        with pytest.raises(IllegalMove):
            upgrade.send_whole(200, (), b"late")

    _, answer = await ask(serve, handler)
    assert answer == SWITCH


async def test_a_handler_may_refuse(serve: Serve) -> None:
    failed = []

    async def handler(upgrade: Upgrade) -> None:
        upgrade.on_failure = lambda: failed.append(upgrade)
        upgrade.send_whole(404, (), b"no lines here")
        with pytest.raises(IllegalMove):
            await lines(upgrade)

    client, answer = await ask(serve, handler, ASK + b"hello\n")
    assert answer == b"HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\nConnection: close\r\n\r\nno lines here"
    assert client.has_ended
    assert len(failed) == 1


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_a_handler_that_does_not_answer_is_answered_for_with_500(serve: Serve, error: Exception | None) -> None:
    async def handler(upgrade: Upgrade) -> None:
        if error is not None:
            raise error

    worker = worker_with(serve, handler)
    client = worker.connect()
    assert (await client.ask(ASK)).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert client.has_ended
    [line] = worker.log.take()
    assert "GET /" in line


async def test_a_request_to_switch_has_no_body(serve: Serve) -> None:
    called = []

    async def handler(upgrade: Upgrade) -> None:
        called.append(upgrade)

    _, answer = await ask(serve, handler, post("/", b"hello", "Connection: Upgrade", "Upgrade: lines"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert called == []


@pytest.mark.parametrize("end", ["reset", "end"])
async def test_a_handler_is_told_of_a_client_that_goes_before_its_answer(serve: Serve, end: str) -> None:
    upgrades: list[Upgrade] = []
    failed = []

    async def handler(upgrade: Upgrade) -> None:
        upgrade.on_failure = lambda: failed.append(upgrade)
        upgrades.append(upgrade)
        await turn(30)
        with pytest.raises(ClientDisconnected):
            await lines(upgrade)

    worker = worker_with(serve, handler)
    client = worker.connect()
    client.send(ASK)
    await turn(2)
    getattr(client, end)()
    await turn(40)
    assert failed == upgrades
    assert client.received == b""
    worker.log.take()


async def test_an_upgraded_connection_is_closed_when_the_worker_stops(serve: Serve) -> None:
    worker = worker_with(serve, lines)
    client = worker.connect()
    await client.ask(ASK)
    await worker.wait(100)
    assert client.state == "open"
    client.stop_reading()
    client.send(b"hello\n")
    worker.drain()
    await turn()
    assert client.state == "closing"
    client.read()
    await turn()
    assert client.received == SWITCH + b"HELLO\n"
    assert client.state == "closed"
    assert not worker.service.connections


async def test_an_upgraded_connection_can_be_aborted(serve: Serve) -> None:
    worker = worker_with(serve, lines)
    client = worker.connect()
    await client.ask(ASK)
    for connection in list(worker.service.connections):
        connection.abort()
    await turn()
    assert client.state == "aborted"
    assert not worker.service.connections


async def test_an_upgraded_protocol_knows_that_the_client_does_not_read(serve: Serve) -> None:
    paused = []

    class Watched(Lines):
        def pause_writing(self) -> None:
            paused.append(True)

        def resume_writing(self) -> None:
            paused.append(False)

    async def handler(upgrade: Upgrade) -> None:
        upgrade.switch(Watched(upgrade))

    client, _ = await ask(serve, handler)
    client.stop_reading()
    client.send(b"a" * 100_000 + b"\n")
    assert paused == [True]
    client.read()
    assert paused == [True, False]
