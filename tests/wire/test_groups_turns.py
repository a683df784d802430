"""What is delivered to members of groups within one turn of the loop: it leaves together, and in order."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from uvicorn_worker.broadcast.groups import Gap
from uvicorn_worker.config import GATHERED_BYTES

from .asgi_apps import close_event, sent
from .conftest import Serve
from .harness import Worker, get, pieces_of, turn
from .test_budget import Calls
from .websocket_client import (
    BINARY,
    CLOSE,
    DEFLATE,
    PING,
    PONG,
    TEXT,
    WebSocket,
    close,
    close_payload,
    connect,
    frame,
    handshake,
)


class Channels:
    """Everybody is in the group ``chat``, with its reply channel in ``replies``; ``/both`` is in ``news``, too."""

    def __init__(self) -> None:
        self.replies: list[Any] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            self.replies.append(channels["reply"])
            for group in ("chat", "news") if message["path"] == "/both" else ("chat",):
                await channels["groups"].send({"group": group, "add": channels["reply"].name})


class ASGI:
    """The same for an application of ASGI 3, whose ``send`` is in ``sends``; ``/late`` waits with accepting."""

    def __init__(self) -> None:
        self.sends: list[Any] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.sends.append(send)
        groups = scope["extensions"]["uvicorn_worker.groups"]
        await groups["send"]({"group": "chat", "add": groups["channel"]})
        if scope["path"] == "/late":
            await self.go_on.wait()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


async def tell(worker: Worker, text: str, group: str = "chat") -> None:
    """Send it, and let the turn go on."""
    await worker.service.groups.send({"group": group, "send": {"text": text}})


async def open_many(worker: Worker, *paths: str) -> list[WebSocket]:
    sockets = [await connect(worker, path) for path in paths]
    for socket in sockets:
        socket.client.take_writes()
    return sockets


def texts(*contents: str) -> bytes:
    """The frames that say this."""
    return b"".join(frame(TEXT, content.encode(), mask=b"") for content in contents)


def written(sockets: list[WebSocket]) -> list[list[bytes]]:
    return [pieces_of(socket.client.take_writes()) for socket in sockets]


async def test_messages_of_a_turn_are_one_write_for_each_member_of_bytes_that_all_share(serve: Serve) -> None:
    worker = serve(Channels())
    sockets = await open_many(worker, "/", "/", "/")
    for number in range(16):
        await tell(worker, str(number))
    assert written(sockets) == [[], [], []]
    await turn(1)
    writes = written(sockets)
    assert writes == [[texts(*map(str, range(16)))]] * 3
    assert len({id(data) for [data] in writes}) == 1
    assert worker.service.groups.stats()["delivered"] == 3 * 16


async def test_a_turn_that_has_ended_has_nothing_to_do_with_the_next(serve: Serve) -> None:
    worker = serve(Channels())
    sockets = await open_many(worker, "/", "/")
    for text in ("1", "2"):
        await tell(worker, text)
        await turn(1)
        assert written(sockets) == [[texts(text)]] * 2


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="other interpreters call differently")
@pytest.mark.parametrize("messages", [1, 16])
async def test_a_member_more_costs_one_call_in_a_turn_however_many_messages_it_gets(
    serve: Serve, messages: int
) -> None:
    totals = []
    for count in (20, 50):
        worker = serve(Channels())
        await open_many(worker, *["/"] * count)
        with Calls() as calls:
            for number in range(messages):
                await tell(worker, str(number))
            await turn(1)
        totals.append(calls.total())
    assert totals[1] - totals[0] == 50 - 20


# Among other things that are sent.


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        ({"text": "own"}, [frame(TEXT, b"own", mask=b"")]),
        ({"text": "own", "close": False}, [frame(TEXT, b"own", mask=b"")]),
        ({"bytes": b"own"}, [frame(BINARY, b"own", mask=b"")]),
        ({"bytes": bytes(70_000)}, [frame(BINARY, bytes(70_000), mask=b"")[:10], bytes(70_000)]),
    ],
    ids=["text", "unusual", "bytes", "large"],
)
async def test_what_a_channel_sends_itself_stands_where_it_was_sent(
    serve: Serve, message: dict[str, Any], frames: list[bytes]
) -> None:
    app = Channels()
    worker = serve(app)
    sockets = await open_many(worker, "/", "/")
    await tell(worker, "1")
    await tell(worker, "2")
    await app.replies[0].send(message)
    await tell(worker, "3")
    await app.replies[0].send(message)
    await app.replies[0].send(message)
    await tell(worker, "4")
    await turn(1)
    assert written(sockets) == [
        [texts("1", "2"), *frames, texts("3"), *frames, *frames, texts("4")],
        [texts("1", "2", "3", "4")],
    ]


async def test_what_is_compressed_stands_where_it_was_sent(serve: Serve) -> None:
    app = Channels()
    socket = await connect(serve(app), "/", DEFLATE)
    await tell(serve.workers[0], "1")
    await app.replies[0].send({"text": "x" * 5000})
    await tell(serve.workers[0], "2")
    await turn(1)
    kinds = [kind for kind, _ in socket.take()]
    assert kinds == [TEXT, TEXT | 0x40, TEXT]


async def test_what_an_asgi_application_sends_itself_stands_where_it_was_sent(serve: Serve) -> None:
    app = ASGI()
    worker = serve.asgi(app)
    sockets = await open_many(worker, "/", "/")
    await tell(worker, "1")
    await app.sends[0](sent("own"))
    await tell(worker, "2")
    await turn(1)
    assert written(sockets) == [[texts("1"), texts("own"), texts("2")], [texts("1", "2")]]


async def test_messages_of_several_groups_stand_in_the_order_in_which_they_were_sent(serve: Serve) -> None:
    worker = serve(Channels())
    sockets = await open_many(worker, "/both", "/", "/both")
    for number, group in enumerate(("chat", "news", "news", "chat")):
        await tell(worker, str(number), group)
    await turn(1)
    both, one, other = written(sockets)
    assert (both, one, other) == ([texts("0", "1", "2", "3")], [texts("0", "3")], [texts("0", "1", "2", "3")])
    assert both[0] is other[0]


async def test_a_message_that_is_more_than_a_frame_stands_where_it_was_sent(serve: Serve) -> None:
    worker = serve(Channels())
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    await worker.service.groups.send({"group": "chat", "send": {"text": "2", "close": False}})
    await tell(worker, "3")
    await turn(1)
    assert written([socket]) == [[texts("1"), texts("2"), texts("3")]]


async def test_a_pong_does_not_stand_amid_what_leaves_together(serve: Serve) -> None:
    worker = serve(Channels())
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    socket.send(frame(PING, b"hi"))
    await tell(worker, "2")
    await turn(1)
    assert written([socket]) == [[texts("1"), frame(PONG, b"hi", mask=b""), texts("2")]]


async def test_who_joins_within_a_turn_gets_what_is_sent_from_then_on(serve: Serve) -> None:
    app = Channels()
    worker = serve(app)
    sockets = await open_many(worker, "/", "/")
    await tell(worker, "0", "news")
    for number, reply in enumerate(app.replies):
        await worker.service.groups.send({"group": "news", "add": reply.name, "send": {"text": str(number)}})
    await turn(1)
    assert written(sockets) == [[texts("0", "1")], [texts("1")]]


async def test_who_has_not_accepted_keeps_no_messages_from_who_has(serve: Serve) -> None:
    app = ASGI()
    worker = serve.asgi(app)
    late = worker.connect()
    await late.ask(handshake("/late"))
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    await tell(worker, "2")
    await turn(1)
    assert written([socket]) == [[texts("1", "2")]]
    app.go_on.set()
    await turn()
    assert late.take_writes()[1:] == [texts("1", "2")]


async def test_who_leaves_within_a_turn_gets_what_was_sent_until_then(serve: Serve) -> None:
    app = Channels()
    worker = serve(app)
    sockets = await open_many(worker, "/", "/")
    await tell(worker, "1")
    await worker.service.groups.send({"group": "chat", "discard": app.replies[0].name})
    await tell(worker, "2")
    await turn(1)
    assert written(sockets) == [[texts("1")], [texts("1", "2")]]


# Endings.


async def closed_by_the_application(worker: Worker, app: Channels, socket: WebSocket) -> None:
    await app.replies[0].send({"close": 4001})


async def closed_by_the_group(worker: Worker, app: Channels, socket: WebSocket) -> None:
    await worker.service.groups.send({"group": "chat", "send": {"close": 4000}})


async def closed_by_the_client(worker: Worker, app: Channels, socket: WebSocket) -> None:
    socket.send(close(1000))


async def closed_for_a_broken_rule(worker: Worker, app: Channels, socket: WebSocket) -> None:
    socket.send(frame(0x83, b"no such frame"))


async def closed_for_a_gap(worker: Worker, app: Channels, socket: WebSocket) -> None:
    worker.service.groups.has_missed(Gap("a test", None, 0.0))


async def closed_with_the_worker(worker: Worker, app: Channels, socket: WebSocket) -> None:
    worker.drain()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (closed_by_the_application, 4001),
        (closed_by_the_group, 4000),
        (closed_by_the_client, 1000),
        (closed_for_a_broken_rule, 1002),
        (closed_for_a_gap, 1012),
        (closed_with_the_worker, 1012),
    ],
)
async def test_who_is_closed_gets_what_was_sent_before_and_nothing_behind(serve: Serve, end: Any, code: int) -> None:
    app = Channels()
    worker = serve(app, groups_gap="close")
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    await tell(worker, "2")
    await end(worker, app, socket)
    await tell(worker, "3")
    await turn()
    first, second, (kind, payload) = socket.take()
    assert (first, second) == ((TEXT, b"1"), (TEXT, b"2"))
    assert (kind, payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    worker.log.take()


async def test_an_asgi_application_that_closes_does_so_behind_what_was_sent_before(serve: Serve) -> None:
    app = ASGI()
    worker = serve.asgi(app)
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    await app.sends[0](close_event(4001))
    await tell(worker, "2")
    await turn()
    assert socket.take() == [(TEXT, b"1"), (CLOSE, close_payload(4001))]


async def test_a_client_that_sends_no_more_gets_what_was_sent_before(serve: Serve) -> None:
    worker = serve(Channels())
    [socket] = await open_many(worker, "/")
    await tell(worker, "1")
    socket.client.end()
    await tell(worker, "2")
    await turn()
    assert socket.take() == [(TEXT, b"1")]


async def test_nothing_is_written_for_who_has_gone_within_the_turn_and_it_is_counted(serve: Serve) -> None:
    worker = serve(Channels())
    gone, other = sockets = await open_many(worker, "/", "/")
    await tell(worker, "1")
    await tell(worker, "2")
    gone.client.reset()
    await turn()
    assert written(sockets) == [[], [texts("1", "2")]]
    stats = worker.service.groups.stats()
    assert (stats["delivered"], stats["failed"], stats["members"]) == (2, 2, 1)


# Bounds.


async def test_what_is_gathered_is_written_before_it_is_too_much(serve: Serve) -> None:
    worker = serve(Channels())
    [socket] = await open_many(worker, "/")
    content = "x" * 1000
    for _ in range(100):
        await tell(worker, content)
    [first] = socket.client.take_writes()
    assert GATHERED_BYTES - 2000 < len(first) <= GATHERED_BYTES
    await turn(1)
    [second] = socket.client.take_writes()
    assert first + second == texts(content) * 100


async def test_a_large_message_is_not_joined_with_others(serve: Serve) -> None:
    worker = serve(Channels())
    sockets = await open_many(worker, "/", "/")
    for text in ("1", "x" * GATHERED_BYTES, "2", "3"):
        await tell(worker, text)
    await turn(1)
    assert written(sockets) == [[texts("1"), texts("x" * GATHERED_BYTES), texts("2", "3")]] * 2


async def test_the_messages_of_one_turn_close_no_slow_client_but_the_next_one_does_if_they_wait(serve: Serve) -> None:
    worker = serve(Channels(), groups_max_backlog=10_000)
    slow, other = await open_many(worker, "/", "/")
    slow.client.stop_reading()
    for _ in range(20):
        await tell(worker, "x" * 4000)  # More than pauses writing.
    await turn(1)
    assert worker.service.groups.stats()["slow"] == 0
    await tell(worker, "1")
    await tell(worker, "2")
    await turn(1)
    assert worker.service.groups.stats()["slow"] == 1
    assert worker.log.take()[0].startswith("Groups: closed, because it reads too slowly (")
    slow.client.read()
    assert slow.take() == [(TEXT, b"x" * 4000)] * 20 + [(CLOSE, close_payload(1013, "reads too slowly"))]
    assert other.take() == [(TEXT, b"x" * 4000)] * 20 + [(TEXT, b"1"), (TEXT, b"2")]
    stats = worker.service.groups.stats()
    assert (stats["delivered"], stats["failed"], stats["members"]) == (42, 2, 1)


async def test_every_kind_of_message_of_a_turn_counts_as_waiting_in_the_next(serve: Serve) -> None:
    worker = serve(Channels(), groups_max_backlog=180_000)
    [slow] = await open_many(worker, "/")
    slow.client.stop_reading()
    await tell(worker, "x" * 70_000)
    await turn(1)
    for _ in range(2):
        await tell(worker, "x" * 30_000)
        await worker.service.groups.send({"group": "chat", "send": {"text": "x" * 30_000, "close": False}})
        await turn(1)
    assert worker.service.groups.stats()["members"] == 1
    await tell(worker, "1")
    await turn(1)
    assert worker.service.groups.stats()["members"] == 0
    assert len(worker.log.take()) == 1


async def test_a_slow_client_that_ends_the_conversation_itself_is_answered_as_any(serve: Serve) -> None:
    worker = serve(Channels(), groups_max_backlog=10_000)
    [slow] = await open_many(worker, "/")
    slow.client.stop_reading()
    await worker.service.groups.send({"group": "chat", "send": {"bytes": bytes(100_000)}})
    await turn(1)
    await tell(worker, "1")
    slow.send(close(1000))
    await turn()
    slow.client.read()
    assert slow.take() == [(BINARY, bytes(100_000)), (TEXT, b"1"), (CLOSE, close_payload(1000))]
    assert worker.log.take() == []


# Replies.


async def test_replies_are_answered_at_once_beside_websockets_that_gather(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] in ("http.request", "websocket.connect"):
            await channels["groups"].send({"group": "chat", "add": channels["reply"].name})

    worker = serve(app)
    before, socket, behind = worker.connect(), await connect(worker), worker.connect()
    for client in (before, behind):
        assert await client.ask(get()) == b""
    await tell(worker, "1")
    assert before.take() == behind.take() != b""
    await tell(worker, "2")
    await turn()
    assert socket.take() == [(TEXT, b"1"), (TEXT, b"2")]
    assert before.take() == behind.take() == b""
    assert worker.service.groups.stats()["delivered"] == 4
