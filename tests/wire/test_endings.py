"""The end of a connection, whoever ends it and when, and what is left of it: nothing."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.server import ChannelsExchange

from .conftest import Serve
from .harness import (
    HELLO,
    Client,
    CollectorOff,
    Echo,
    Gate,
    Worker,
    asyncio_only,
    chunked,
    get,
    ok,
    post,
    read_body,
    turn,
)

# The client sends no more, and may well read on.


async def test_a_client_that_ends_an_idle_connection_is_left(serve: Serve) -> None:
    for sent, reply in ((b"", b""), (get(), HELLO), (get() + get(), HELLO * 2)):
        client = serve().connect()
        assert await client.ask(sent) == reply
        client.end()
        await turn()
        assert client.state == "closed"


async def test_a_client_that_ends_within_a_head_gets_no_answer(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    client.send(get()[:-2])
    client.end()
    await turn()
    assert client.state == "closed"
    assert client.received == b""
    assert app.calls == []


async def test_a_client_that_has_sent_everything_gets_its_answers(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get("/1") + get("/2") + get("/3"))
    client.end()
    await turn()
    await app.open_all()
    last = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/3"
    assert client.received == ok("/1") + ok("/2") + last
    assert client.has_ended


async def test_an_answer_under_way_is_finished_for_a_client_that_has_sent_everything(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        await go_on.wait()
        await channels["reply"].send({"content": b"b"})

    client = serve(app).connect()
    await client.ask(get())
    client.end()
    await turn()
    assert client.state == "open"
    go_on.set()
    await turn()
    assert client.received.endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    assert client.has_ended


async def test_a_refusal_follows_the_answers_for_a_client_that_has_sent_everything(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get("/1") + b"\0\r\n")
    client.end()
    await turn()
    await app.open()
    assert client.received.startswith(ok("/1") + b"HTTP/1.1 501 ")
    assert client.has_ended


async def test_the_end_of_a_client_is_seen_behind_what_was_not_read(serve: Serve) -> None:
    app = Gate()
    client = serve(app, pipelined_requests=1).connect()
    client.send(*(get(f"/{number}") for number in range(5)))
    client.end()
    await turn()
    await app.open_all()
    assert client.received.count(b"HTTP/1.1 200 OK") == 5
    await turn()
    assert client.has_ended


async def test_tls_has_no_half_closing(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    worker.service.scheme = "https"
    client = worker.connect()
    client.transport.can_half_close = False
    client.send(get("/1"))
    await turn()
    client.end()
    await turn()
    assert client.state == "closed"


async def test_a_refusal_over_tls_is_sent_and_waits_for_the_client_to_close(serve: Serve) -> None:
    worker = serve()
    worker.service.scheme = "https"
    client = worker.connect()
    client.transport.can_half_close = False
    assert (await client.ask(b"\0")).startswith(b"HTTP/1.1 501 ")
    assert not client.transport.lost
    await worker.wait(5)
    assert client.state == "aborted"


# The connection is lost, in each of its states. Closing a worker checks for tasks and deadlines left behind.


async def waits(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await asyncio.Event().wait()


async def receives(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await read_body(channels)
    await channels["reply"].send({"status": 200})


async def receives_and_catches(message: dict[str, Any], channels: dict[str, Any]) -> None:
    try:
        await read_body(channels)
    except OSError:
        pass


async def streams(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "more_content": True})
    while True:
        await channels["reply"].send({"content": bytes(10_000), "more_content": True})
        await asyncio.sleep(0)


async def replies(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "content": b"hello"})


async def replies_and_waits(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await replies(message, channels)
    for _ in range(20):
        await asyncio.sleep(0)


async def raises(message: dict[str, Any], channels: dict[str, Any]) -> None:
    raise ValueError("broken")


async def raises_within(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
    raise ValueError("broken")


async def sends_badly(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "headers": [(b"a", b"\r\n")]})


async def asks_its_name(message: dict[str, Any], channels: dict[str, Any]) -> None:
    channels["reply"].send({"status": 200}).close()
    assert channels["reply"].name
    await replies(message, channels)


UPGRADE = ("Connection: Upgrade", "Upgrade: a")

STATES: dict[str, tuple[Callable[..., Any], bytes]] = {
    "new": (replies, b""),
    "within empty lines": (replies, b"\r\n"),
    "within a head": (replies, get()[:-2]),
    "idle": (replies, get()),
    "within a later head": (replies, get() + get()[:-2]),
    "while its application receives": (receives, post("/", b"hello")[:-2]),
    "while its application receives chunks": (receives, chunked("/", b"hello")[:-2]),
    "while its application receives what it has asked for": (
        receives,
        post("/", b"hello", "Expect: 100-continue")[:-5],
    ),
    "while its application receives, and catches": (receives_and_catches, post("/", b"hello")[:-2]),
    "with a filled body": (replies_and_waits, post("/", bytes(200_000))),
    "with a body received": (receives, post("/", b"hello")),
    "with a body dropped": (replies, post("/", b"hello")[:-2]),
    "with a body ignored after an upgrade": (replies, post("/", b"hello", *UPGRADE)[:-2]),
    "after an upgrade": (replies, get("/", *UPGRADE)),
    "while its application streams": (streams, get()),
    "with requests queued": (replies_and_waits, get() * 5),
    "with requests queued and unparsed": (replies_and_waits, get("/", "X: " + "x" * 700) * 40),
    "with a refusal queued": (replies_and_waits, get() + b"\0"),
    "after a refusal": (replies, b"\0"),
    "after a refusal by a callback": (replies, b"GET / HTTP/1.1\r\n\r\n"),
    "after a refusal for an unfinished head": (replies, b"\r\n" * 100),
    "after a bad body": (receives, chunked("/", b"hello")[:-5] + b"x\r\n"),
    "after Connection: close": (replies, get("/", "Connection: close") + get()),
    "after an error": (raises, get()),
    "after an error within the reply": (raises_within, get()),
    "after an error out of send": (sends_badly, get()),
    "after its channels were named": (asks_its_name, get()),
}


class WatchedProtocol(HTTP11Protocol):
    __slots__ = ("__weakref__",)


class WatchedExchange(ChannelsExchange):
    __slots__ = ("__weakref__",)
    living: weakref.WeakSet[WatchedExchange] = weakref.WeakSet()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.living.add(self)


def connect_watched(worker: Worker, living: weakref.WeakSet[WatchedProtocol]) -> Client:
    worker.exchange_class, worker.protocol_class = WatchedExchange, WatchedProtocol
    client = worker.connect()
    assert client.transport._protocol is not None
    living.add(client.transport._protocol)  # type: ignore[arg-type]
    return client


@asyncio_only
@pytest.mark.parametrize("ends", ["reset", "end", "drained", "in time"])
@pytest.mark.parametrize(("app", "sent"), STATES.values(), ids=STATES)
async def test_nothing_is_left_of_a_connection_but_garbage_without_cycles(
    serve: Serve, app: Callable[..., Any], sent: bytes, ends: str
) -> None:
    worker = serve(app)
    protocols: weakref.WeakSet[WatchedProtocol] = weakref.WeakSet()
    WatchedExchange.living.clear()
    with CollectorOff():
        client = connect_watched(worker, protocols)
        if app is streams:
            client.stop_reading()
        client.send(sent)
        await turn()
        assert len(protocols) == 1 or client.transport.lost
        if ends == "end":
            client.end()
        elif ends == "in time":
            await worker.wait(100)
        elif ends == "drained":
            worker.drain()
            await worker.end_grace()
        await turn(100)
        if ends != "in time" or app is streams:
            client.reset()
        await turn(100)
        assert client.transport.lost
        assert worker.waiting == 0
        worker.log.take()
        assert not worker.service.running
        assert not worker.service.connections
        assert len(protocols) == 0
        assert len(WatchedExchange.living) == 0


async def test_an_application_goes_on_without_its_connection(serve: Serve) -> None:
    """It keeps its exchange, which keeps nothing that costs much."""
    worker = serve(waits)
    client = worker.connect()
    client.send(get())
    await turn()
    client.reset()
    await turn()
    [running] = worker.service.running
    assert worker.waiting == 0
    running.cancel()
    await turn()
    assert not worker.service.running
    assert worker.log.take() == ["The application raised: GET / [CancelledError: ]"]


async def test_requests_behind_the_one_that_is_answered_are_forgotten_with_the_connection(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get("/1") + get("/2"))
    await turn()
    client.reset()
    await turn()
    await app.open()
    assert app.calls == ["/1"]


async def test_no_request_begins_when_the_connection_is_lost_while_the_client_does_not_read(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        await channels["reply"].send({"status": 200, "content": bytes(100_000)})

    client = serve(app).connect()
    client.stop_reading()
    client.send(get("/1") + get("/2"))
    await turn()
    client.reset()
    await turn()
    assert calls == ["/1"]


async def test_a_connection_that_is_never_made_leaves_nothing(serve: Serve) -> None:
    """As where TLS can't be set up with the client."""
    worker = serve()
    protocol = HTTP11Protocol(worker.service, ChannelsExchange, None, None)
    protocol.abort()
    protocol.drain()
    protocol.connection_lost(None)
    assert not worker.service.connections


async def test_a_call_that_is_cancelled_before_it_begins_leaves_nothing(serve: Serve) -> None:
    app = Echo()
    worker = serve(app)
    client = worker.connect()
    client.send(get())
    for running in list(worker.service.running):
        running.cancel()
    client.reset()
    await turn()
    assert app.calls == []
    assert not worker.service.running


async def test_the_server_learns_of_each_end(serve: Serve) -> None:
    worker = serve()
    ends = []
    worker.service.on_less = lambda: ends.append(len(worker.service.connections))
    clients = [worker.connect() for _ in range(3)]
    for client in clients:
        await client.ask(get())
        client.reset()
        await turn()
    assert ends == [2, 1, 0]


async def test_the_quota_of_requests_counts_those_that_begin(serve: Serve) -> None:
    worker = serve()
    reached = []
    worker.service.requests_left = 3
    worker.service.on_quota = lambda: reached.append(True)
    await worker.connect().ask(get() + get(), b"\0")
    assert not reached
    client = worker.connect()
    await client.ask(get())
    assert reached == [True]
    assert await client.ask(get() + get()) == HELLO * 2
    assert reached == [True]
