"""Replies that are members of groups: held until they are answered through one, or nobody waits for them any more."""

from __future__ import annotations

import time
from typing import Any

import pytest

from uvicorn_worker.broadcast.groups import Gap

from .conftest import Serve
from .harness import Client, Worker, assert_unfinished, chunked, get, ok, post, turn

MIB = 1 << 20


async def poll(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Waits for news, unless there is none to wait for."""
    if message["path"] == "/hello":
        await channels["reply"].send({"status": 200, "content": b"hello"})
    else:
        await channels["groups"].send({"group": "news", "add": channels["reply"].name})


async def tell(worker: Worker, **message: Any) -> None:
    await worker.service.groups.send({"group": "news", "send": message})
    await turn()


async def wait_for_news(worker: Worker, request: bytes = get()) -> Client:
    client = worker.connect()
    assert await client.ask(request) == b""
    return client


def held(worker: Worker) -> tuple[int, int]:
    stats = worker.service.groups.stats()
    return stats["held"], stats["members"]


def typed(content: bytes, kind: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        ({"text": "häh"}, typed("häh".encode(), "text/plain; charset=utf-8")),
        ({"bytes": b"\0\1"}, typed(b"\0\1", "application/octet-stream")),
        (
            {"status": 404, "headers": [[b"content-type", b"text/html"]], "content": b"x"},
            typed(b"x", "text/html", "404 Not Found"),
        ),
        ({"text": "bye", "close": 1000}, typed(b"bye", "text/plain; charset=utf-8")),
        ({"close": True}, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_a_message_to_the_group_is_the_reply(serve: Serve, message: dict[str, Any], reply: bytes) -> None:
    worker = serve(poll)
    one, two = await wait_for_news(worker), await wait_for_news(worker)
    assert held(worker) == (2, 2)
    await tell(worker, **message)
    assert one.take() == two.take() == reply
    assert held(worker) == (0, 0)
    assert await one.ask(get("/hello")) == ok("hello")  # The connection is kept.


async def test_a_reply_is_answered_once_and_waits_again_in_the_next_request(serve: Serve) -> None:
    worker = serve(poll)
    client = await wait_for_news(worker)
    for number in range(3):
        await tell(worker, text=str(number))
        await tell(worker, text="for nobody")
        assert client.take().endswith(b"\r\n\r\n%d" % number)
        assert await client.ask(get()) == b""


async def test_a_message_that_is_no_reply_is_logged_and_the_reply_held_on(serve: Serve) -> None:
    worker = serve(poll)
    client = await wait_for_news(worker)
    for message in ({"accept": True}, {"content": b"x"}, {"status": 1000}, {"text": 5}):
        await tell(worker, **message)
        [line] = worker.log.take()
        assert line.startswith("Groups: a message to 'news' failed")
    await tell(worker, text="good")
    assert client.take().endswith(b"good")


async def test_requests_behind_a_held_one_wait_for_their_turn(serve: Serve) -> None:
    worker = serve(poll)
    client = await wait_for_news(worker, get() + get("/hello"))
    await tell(worker, text="first")
    assert client.take() == typed(b"first", "text/plain; charset=utf-8") + ok("hello")


@pytest.mark.parametrize("request_", [post("/", b"unread"), chunked("/", b"unread", b"more")], ids=["sized", "chunked"])
async def test_a_body_that_nobody_reads_is_dropped_when_the_held_reply_is_answered(
    serve: Serve, request_: bytes
) -> None:
    worker = serve(poll)
    cut = len(request_) - 3
    client = await wait_for_news(worker, request_[:cut])
    await tell(worker, text="x")
    assert client.take() == typed(b"x", "text/plain; charset=utf-8")
    assert await client.ask(request_[cut:] + get("/hello")) == ok("hello")


@pytest.mark.parametrize("way", ["reset", "end"])
async def test_a_client_that_goes_is_waited_for_no_more(serve: Serve, way: str) -> None:
    worker = serve(poll)
    client = await wait_for_news(worker)
    getattr(client, way)()
    await turn()
    assert held(worker) == (0, 0)
    assert client.state == "closed"
    await tell(worker, text="for nobody")
    assert client.received == b""


async def test_a_client_that_has_ended_before_the_reply_is_held_is_not_waited_for(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await turn(3)
        await poll(message, channels)

    worker = serve(app)
    client = worker.connect()
    client.send(get())
    client.end()
    await turn()
    assert held(worker) == (0, 0)
    assert client.state == "closed"


async def test_held_replies_of_a_worker_that_stops_are_answered_with_503(serve: Serve) -> None:
    worker = serve(poll)
    client = await wait_for_news(worker)
    busy = await wait_for_news(worker, post("/", b"unread"))
    worker.drain()
    await turn()
    for each in (client, busy):
        reply = each.take()
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close\r\n" in reply
    assert held(worker) == (0, 0)


async def test_a_call_that_returns_when_the_worker_has_begun_to_stop_is_not_held(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await poll(message, channels)
        await turn(20)

    worker = serve(app)
    client = worker.connect()
    await client.ask(get())
    worker.drain()
    await turn(20)
    assert client.take().startswith(b"HTTP/1.1 503 ")


async def test_a_reply_that_has_left_its_groups_is_not_held(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        name = channels["reply"].name
        await channels["groups"].send({"group": "news", "add": name, "discard": name})

    worker = serve(app)
    assert (await worker.connect().ask(get())).startswith(b"HTTP/1.1 500 ")
    assert_unfinished(worker, "GET /")


async def test_an_application_that_raises_gets_its_500_even_as_a_member(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await poll(message, channels)
        raise RuntimeError("as it likes")

    worker = serve(app)
    assert (await worker.connect().ask(get())).startswith(b"HTTP/1.1 500 ")
    assert held(worker) == (0, 0)
    assert len(worker.log.take()) == 1


async def test_who_answers_first_answers_the_application_or_the_group(serve: Serve) -> None:
    errors: list[Exception] = []

    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await poll(message, channels)
        await turn(3)
        if message["path"] == "/group":
            await channels["groups"].send({"group": "news", "send": {"text": "of the group"}})
        try:
            await channels["reply"].send({"status": 200, "content": b"of the application"})
        except RuntimeError as error:
            errors.append(error)

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get("/group")) == typed(b"of the group", "text/plain; charset=utf-8")
    assert len(errors) == 1
    assert await client.ask(get("/own")) == ok("of the application")
    assert held(worker) == (0, 0)
    await tell(worker, text="for nobody")
    assert client.take() == b""


async def stream(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "more_content": True})
    await channels["groups"].send({"group": "news", "add": channels["reply"].name})


async def test_a_stream_is_gone_on_with_through_the_group(serve: Serve) -> None:
    worker = serve(stream)
    client = worker.connect()
    assert await client.ask(get()) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for part in (b"one", b"two"):
        await tell(worker, content=part, more_content=True)
    assert client.take() == b"3\r\none\r\n3\r\ntwo\r\n"
    await tell(worker, content=b"end")
    assert client.take() == b"3\r\nend\r\n0\r\n\r\n"
    assert held(worker) == (0, 0)


async def test_a_client_that_goes_within_a_stream_is_waited_for_no_more(serve: Serve) -> None:
    worker = serve(stream)
    client = worker.connect()
    await client.ask(get())
    client.end()
    await turn()
    assert held(worker) == (0, 0)
    assert client.state == "closed"  # and not kept open for what does not come


async def test_a_stream_of_a_worker_that_stops_is_broken_off(serve: Serve) -> None:
    worker = serve(stream)
    client = worker.connect()
    await client.ask(get())
    worker.drain()
    await turn()
    assert client.take() == b""
    assert client.state == "half-closed"  # without the last chunk


async def test_a_stream_that_is_read_too_slowly_is_aborted(serve: Serve) -> None:
    worker = serve(stream)
    slow, fast = worker.connect(), worker.connect()
    for client in (slow, fast):
        await client.ask(get())
    slow.stop_reading()
    for _ in range(40):
        await tell(worker, content=bytes(64 * 1024), more_content=True)
    assert slow.state == "aborted"
    assert fast.state == "open"
    assert len(fast.take()) > 40 * 64 * 1024
    [line] = worker.log.take()
    assert "reads too slowly" in line
    assert held(worker) == (1, 1)


async def test_held_replies_that_may_have_missed_something_are_answered_if_that_is_asked_for(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await poll(message, channels)
        if message["path"] == "/own":
            await turn(20)
            await channels["reply"].send({"status": 200, "content": b"own"})

    worker = serve(app, groups_gap="close")
    client, other = await wait_for_news(worker), await wait_for_news(worker, get("/own"))
    worker.service.groups.has_missed(Gap("a test", frozenset({"news"}), time.time()))
    await turn(20)
    worker.log.take()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert other.take() == ok("own")


async def test_names_are_known_until_the_reply_is_finished(serve: Serve) -> None:
    names = []

    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        names.append(channels["reply"].name)
        assert len(worker.service.groups.memberships) == 1
        await channels["reply"].send({"status": 200, "content": b"x", "more_content": message["path"] == "/parts"})
        if message["path"] == "/parts":
            await channels["reply"].send({"content": b"y"})
        assert channels["reply"].name == names[-1]

    worker = serve(app)
    client = worker.connect()
    for path in ("/", "/parts", "/"):
        assert (await client.ask(get(path))).startswith(b"HTTP/1.1 200 ")
        assert worker.service.groups.memberships == {}
    assert len(set(names)) == 3


async def test_a_name_that_is_asked_for_behind_the_reply_is_nobodys(serve: Serve) -> None:
    async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
        await channels["reply"].send({"status": 200, "content": b"x"})
        await channels["groups"].send({"group": "news", "add": channels["reply"].name})

    worker = serve(app)
    client = worker.connect()
    assert await client.ask(get()) == ok("x")
    assert worker.service.groups.memberships == {}
    assert await client.ask(get()) == ok("x")
