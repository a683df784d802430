"""WebSockets that are members of groups: what they get, how slow ones are closed, and how they leave."""

from __future__ import annotations

import time
from typing import Any

import pytest

from uvicorn_worker.broadcast.groups import Gap
from uvicorn_worker.config import GATHERED_BYTES

from .conftest import Serve
from .harness import Worker, asyncio_only, turn
from .websocket_client import (
    BINARY,
    CLOSE,
    DEFLATE,
    TEXT,
    WebSocket,
    close,
    close_payload,
    connect,
    handshake,
    text,
)

MIB = 1 << 20


class Chat:
    """Everybody is in the group ``chat``, and what one says is sent to it."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.names: list[str] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            self.names.append(channels["reply"].name)
            await channels["groups"].send({"group": "chat", "add": channels["reply"].name})
            if self.accepts:
                await channels["reply"].send({"accept": True})
        elif message["channel"] == "websocket.receive":
            await channels["groups"].send({"group": "chat", "send": {"text": message["text"]}})


async def tell(worker: Worker, **message: Any) -> None:
    await worker.service.groups.send({"group": "chat", "send": message})
    await turn()


def members(worker: Worker) -> int:
    return int(worker.service.groups.stats()["members"])


async def open_many(worker: Worker, count: int) -> list[WebSocket]:
    return [await connect(worker) for _ in range(count)]


async def test_what_one_says_reaches_all_the_sender_included(serve: Serve) -> None:
    worker = serve(Chat())
    one, two, three = await open_many(worker, 3)
    assert await two.ask(text("hi")) == [(TEXT, b"hi")]
    assert one.take() == three.take() == [(TEXT, b"hi")]


async def test_a_message_is_framed_once_and_written_as_it_is_to_everybody(serve: Serve) -> None:
    worker = serve(Chat())
    sockets = await open_many(worker, 5)
    for socket in sockets:
        socket.client.take_writes()
    await tell(worker, bytes=b"x" * 200)
    written = [socket.client.take_writes() for socket in sockets]
    assert [len(writes) for writes in written] == [1] * 5
    assert len({id(writes[0]) for writes in written}) == 1
    assert all(socket.take() == [(BINARY, b"x" * 200)] for socket in sockets)


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        ({"text": ""}, [(TEXT, b"")]),
        ({"bytes": b""}, [(BINARY, b"")]),
        ({"text": "häh"}, [(TEXT, "häh".encode())]),
        ({"bytes": b"x" * 70_000}, [(BINARY, b"x" * 70_000)]),
        ({"text": "bye", "close": 4000, "reason": "so"}, [(TEXT, b"bye"), (CLOSE, close_payload(4000, "so"))]),
        ({"close": True}, [(CLOSE, close_payload(1000))]),
    ],
)
async def test_each_message_is_as_the_reply_channel_would_send_it(
    serve: Serve, message: dict[str, Any], frames: list[Any]
) -> None:
    worker = serve(Chat())
    one, two = await open_many(worker, 2)
    await tell(worker, **message)
    assert one.take() == two.take() == frames
    assert members(worker) == (0 if "close" in message else 2)


async def test_what_the_reply_channel_would_refuse_is_logged_once_and_leaves_everybody_there(serve: Serve) -> None:
    worker = serve(Chat())
    sockets = await open_many(worker, 3)
    for message in ({"txet": "hi"}, {"text": 5}, {"close": 99}, {"accept": True}):
        await tell(worker, **message)
        [line] = worker.log.take()
        assert line.startswith("Groups: a message to 'chat' failed")
    assert members(worker) == 3
    await tell(worker, text="hi")
    assert [socket.take() for socket in sockets] == [[(TEXT, b"hi")]] * 3


async def test_a_connect_call_that_returns_without_an_answer_is_accepted_if_it_is_a_member(serve: Serve) -> None:
    worker = serve(Chat(accepts=False))
    socket = await connect(worker)
    assert await socket.ask(text("hi")) == [(TEXT, b"hi")]


async def test_a_message_to_a_group_accepts_a_handshake_that_waits(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            name = channels["reply"].name
            await channels["groups"].send({"group": "chat", "add": name, "send": {"text": "welcome"}})

    worker = serve(app)
    socket = await connect(worker)
    assert socket.take() == [(TEXT, b"welcome")]


async def test_a_message_that_refuses_rejects_a_handshake_that_waits(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            name = channels["reply"].name
            await channels["groups"].send({"group": "chat", "add": name, "send": {"accept": False}})

    worker = serve(app)
    assert (await worker.connect().ask(handshake())).startswith(b"HTTP/1.1 403 ")
    assert members(worker) == 0


async def test_messages_to_groups_are_not_compressed_which_every_client_understands(serve: Serve) -> None:
    worker = serve(Chat(), ws_context_takeover=True)
    plain, compressing = await connect(worker), await connect(worker, "/", DEFLATE)
    await tell(worker, text="x" * 5000)
    assert plain.take() == compressing.take() == [(TEXT, b"x" * 5000)]


# Leaving.


@pytest.mark.parametrize("way", ["close", "reset", "end", "abort"])
async def test_a_channel_leaves_its_groups_when_its_connection_ends(serve: Serve, way: str) -> None:
    app = Chat()
    worker = serve(app)
    leaving, staying = await open_many(worker, 2)
    if way == "close":
        leaving.send(close())
    elif way == "reset":
        leaving.client.reset()
    elif way == "end":
        leaving.client.end()
    else:
        leaving.client.transport.abort()
    await turn()
    assert members(worker) == 1
    await worker.service.groups.send({"group": "chat", "add": app.names[0]})  # It has just ended, which is no error.
    assert members(worker) == 1
    await tell(worker, text="hi")
    assert staying.take() == [(TEXT, b"hi")]


@pytest.mark.parametrize("message", [{"text": "hi"}, {"text": "hi", "close": 1000}])
async def test_nothing_is_written_to_a_client_that_has_gone_before_that_is_told(
    serve: Serve, message: dict[str, Any]
) -> None:
    worker = serve(Chat())
    gone, other = await open_many(worker, 2)
    gone.client.take_writes()
    gone.client.reset()
    await tell(worker, **message)
    assert gone.client.take_writes() == []
    assert worker.service.groups.stats()["delivered"] == 1
    assert other.take()[0] == (TEXT, b"hi")
    assert members(worker) == (0 if "close" in message else 1)


async def test_a_channel_that_is_named_when_it_is_over_is_never_known_to_groups(serve: Serve) -> None:
    names = []

    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            await channels["reply"].send({"accept": True})
        elif message["channel"] == "websocket.disconnect":
            names.append(channels["reply"].name)
            await channels["groups"].send({"group": "chat", "add": names[0]})

    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(close())
    assert len(names) == 1
    assert worker.service.groups.memberships == {}


async def test_discarding_when_it_is_over_is_no_error(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        way = {"websocket.connect": "add", "websocket.disconnect": "discard"}[message["channel"]]
        await channels["groups"].send({"group": "chat", way: channels["reply"].name})

    worker = serve(app)
    socket = await connect(worker)
    await socket.ask(close())
    assert members(worker) == 0


# Slow clients.


def slow_lines(worker: Worker) -> list[str]:
    return [line for line in worker.log.take() if "reads too slowly" in line]


async def flood(worker: Worker, size: int, count: int) -> None:
    for number in range(count):
        await worker.service.groups.send({"group": "chat", "send": {"bytes": b"%7d" % number + bytes(size - 7)}})
    await turn()


async def test_a_client_that_does_not_read_is_closed_past_the_bound_and_the_others_get_everything(serve: Serve) -> None:
    worker = serve(Chat())
    fast, slow, other = await open_many(worker, 3)
    slow.client.stop_reading()
    await flood(worker, 1024, 2000)
    assert members(worker) == 2
    assert len(slow_lines(worker)) == 1
    assert worker.service.groups.stats()["slow"] == 1
    waiting = slow.client.transport.get_write_buffer_size()
    assert MIB < waiting <= MIB + GATHERED_BYTES + 20  # What is written at once, and the frame that closes.
    for socket in (fast, other):
        frames = socket.take()
        assert [int(payload[:7]) for _, payload in frames] == list(range(2000))
    slow.client.read()  # It may still have all that came before, and is told why there is no more.
    *frames, closing = slow.take()
    assert [int(payload[:7]) for _, payload in frames] == list(range(len(frames)))
    assert closing == (CLOSE, close_payload(1013, "reads too slowly"))
    assert await slow.ask(close(1013)) == []
    assert slow.state == "half-closed"


async def test_a_slow_client_that_does_not_read_its_close_in_time_is_aborted(serve: Serve) -> None:
    worker = serve(Chat())
    [slow] = await open_many(worker, 1)
    slow.client.stop_reading()
    await flood(worker, 1024, 1100)
    assert len(slow_lines(worker)) == 1
    await worker.wait(4)
    slow.client.read(100 * 1024)  # Some of it is not enough.
    assert slow.state == "open"
    await worker.wait(3)
    assert slow.state == "aborted"


async def test_a_slow_client_that_has_read_its_close_in_time_has_as_long_as_any_other_for_its_part(
    serve: Serve,
) -> None:
    worker = serve(Chat(), ws_close_timeout=20, ws_ping_interval=0)
    [slow] = await open_many(worker, 1)
    slow.client.stop_reading()
    await flood(worker, 1024, 1100)
    assert len(slow_lines(worker)) == 1
    slow.client.read()
    await worker.wait(15)
    assert slow.state == "open"
    await worker.wait(15)
    assert slow.state == "aborted"


async def test_one_large_message_closes_nobody_but_the_next_does_if_it_still_waits(serve: Serve) -> None:
    worker = serve(Chat())
    reading, slow = await open_many(worker, 2)
    slow.client.stop_reading()
    await tell(worker, bytes=bytes(5 * MIB))
    assert members(worker) == 2
    slow.client.read(4 * MIB + 100)  # Less than the bound is left.
    await tell(worker, text="2")
    assert members(worker) == 2
    await tell(worker, bytes=bytes(MIB))
    assert members(worker) == 2
    await tell(worker, text="4")
    assert members(worker) == 1
    assert len(slow_lines(worker)) == 1
    assert [len(payload) for _, payload in reading.take()] == [5 * MIB, 1, MIB, 1]


async def test_a_client_that_catches_up_is_as_good_as_any(serve: Serve) -> None:
    worker = serve(Chat())
    [socket] = await open_many(worker, 1)
    for _ in range(4):
        socket.client.stop_reading()
        await flood(worker, 1024, 900)
        socket.client.read()
    assert len(socket.take()) == 3600


async def test_what_the_application_sends_itself_is_no_reason_to_close(serve: Serve) -> None:
    class Sender(Chat):
        async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
            if message["channel"] == "websocket.receive":
                await channels["reply"].send({"bytes": bytes(5 * MIB)})
            else:
                await super().__call__(message, channels)

    worker = serve(Sender())
    socket = await connect(worker)
    socket.client.stop_reading()
    await socket.ask(text("send me much"))
    await flood(worker, 1024, 900)
    assert members(worker) == 1
    await flood(worker, 1024, 200)
    assert members(worker) == 0
    assert len(slow_lines(worker)) == 1


async def test_the_bound_is_an_option_and_counts_every_kind_of_message(serve: Serve) -> None:
    worker = serve(Chat(), groups_max_backlog=100_000)
    [slow] = await open_many(worker, 1)
    slow.client.stop_reading()
    for _ in range(3):
        await tell(worker, text="x" * 60_000, close=False)  # which is not the usual way
    assert members(worker) == 1
    await tell(worker, text="x", close=False)
    assert members(worker) == 0
    assert len(slow_lines(worker)) == 1


# Gaps, and the end.


@pytest.mark.parametrize(("groups", "closed"), [(None, True), (frozenset({"chat"}), True), (frozenset({"x"}), False)])
async def test_members_that_may_have_missed_something_are_closed_if_that_is_asked_for(
    serve: Serve, groups: frozenset[str] | None, closed: bool
) -> None:
    worker = serve(Chat(), groups_gap="close")
    [socket] = await open_many(worker, 1)
    worker.service.groups.has_missed(Gap("a test", groups, time.time()))
    assert worker.log.take() == ["Groups: messages may have been missed: a test"]
    expected = [(CLOSE, close_payload(1012, "messages may have been missed"))] if closed else []
    assert await socket.ask() == expected


async def test_a_handshake_that_waits_is_rejected_if_it_may_have_missed_something(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["channel"] == "websocket.connect":
            await channels["groups"].send({"group": "chat", "add": channels["reply"].name})
            worker.service.groups.has_missed(Gap("a test", None, 0.0))

    worker = serve(app, groups_gap="close")
    assert (await worker.connect().ask(handshake())).startswith(b"HTTP/1.1 503 ")
    worker.log.take()


async def test_members_of_a_worker_that_stops_are_closed_as_all_are(serve: Serve) -> None:
    worker = serve(Chat())
    [socket] = await open_many(worker, 1)
    worker.drain()
    await turn()
    assert socket.take() == [(CLOSE, close_payload(1012))]
    assert members(worker) == 0


@asyncio_only
async def test_many_clients_that_come_and_go_leave_nothing_behind(serve: Serve) -> None:
    worker = serve(Chat())
    for _ in range(10):
        sockets = await open_many(worker, 50)
        await tell(worker, text="hi")
        assert all(socket.take() == [(TEXT, b"hi")] for socket in sockets)
        for socket in sockets:
            socket.client.reset()
        await turn()
    stats = worker.service.groups.stats()
    assert (stats["groups"], stats["members"], stats["delivered"]) == (0, 0, 500)
    assert worker.service.groups.memberships == {}
