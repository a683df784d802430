"""What a worker waits for, and for how long. A deadline is never early, and at most two ticks late."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from uvicorn_worker.errors import BodyStalled, ClientDisconnected

from .conftest import Serve
from .harness import HELLO, Echo, Gate, chunked, get, ok, post, turn

# Heads.


async def test_a_connection_that_says_nothing_is_closed_silently(serve: Serve) -> None:
    worker = serve(head_timeout=10.0)
    client = worker.connect()
    assert await worker.seconds_until_end(client) in (10, 11, 12)
    assert client.received == b""
    assert client.state == "closed"


@pytest.mark.parametrize("begin", [b"GET", b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"])
async def test_a_head_that_is_not_complete_in_time_is_refused(serve: Serve, begin: bytes) -> None:
    worker = serve(head_timeout=10.0)
    client = worker.connect()
    client.send(begin)
    assert await worker.seconds_until_end(client) in (10, 11, 12)
    assert client.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in client.received
    assert client.state == "half-closed"


async def test_more_of_a_head_does_not_buy_more_time(serve: Serve) -> None:
    worker = serve(head_timeout=10.0)
    client = worker.connect()
    client.send(b"GET / HTTP/1.1\r\n")
    for _ in range(12):
        client.send(b"X: y\r\n")
        await worker.wait(1)
    assert client.received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("begin", [b"G", b"GET", b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\n"])
@pytest.mark.parametrize("together", [False, True], ids=["later", "in one piece with the last"])
async def test_a_later_head_has_as_long_from_its_first_byte(serve: Serve, begin: bytes, together: bool) -> None:
    worker = serve(head_timeout=10.0, keepalive=2.0)
    client = worker.connect()
    if together:
        assert await client.ask(get() + begin) == HELLO
    else:
        assert await client.ask(get()) == HELLO
        await worker.wait(1)
        client.send(begin)
    assert await worker.seconds_until_end(client) in (10, 11, 12)
    assert client.take().startswith(b"HTTP/1.1 408 ")


async def test_a_head_within_its_time_is_answered(serve: Serve) -> None:
    worker = serve(head_timeout=10.0)
    client = worker.connect()
    client.send(get()[:20])
    await worker.wait(9)
    assert await client.ask(get()[20:]) == HELLO


async def test_without_a_deadline_a_head_may_take_for_ever(serve: Serve) -> None:
    worker = serve(head_timeout=0.0)
    client = worker.connect()
    client.send(get()[:20])
    await worker.wait(200)
    assert await client.ask(get()[20:]) == HELLO


async def test_no_deadline_is_over_an_application(serve: Serve) -> None:
    app = Gate()
    worker = serve(app, timeout=30.0, keepalive=2.0, head_timeout=10.0)
    client = worker.connect()
    client.send(get("/a") + get("/b")[:20])
    await worker.wait(200)
    assert client.state == "open"
    await app.open()
    assert client.take() == ok("/a")
    assert await client.ask(get("/b")[20:]) == b""
    await app.open()
    assert client.take() == ok("/b")


# Idleness.


async def test_an_idle_connection_is_closed_silently(serve: Serve) -> None:
    worker = serve(keepalive=5.0)
    client = worker.connect()
    assert await client.ask(get()) == HELLO
    assert await worker.seconds_until_end(client) in (5, 6, 7)
    assert client.take() == b""
    assert client.state == "closed"


async def test_each_request_begins_idleness_anew(serve: Serve) -> None:
    worker = serve(keepalive=5.0)
    client = worker.connect()
    for _ in range(5):
        assert await client.ask(get()) == HELLO
        await worker.wait(4)
    assert client.state == "open"


async def test_a_request_outlasts_the_deadline_for_idleness_before_it_and_begins_it_anew(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate, keepalive=5.0)
    client = worker.connect()
    client.send(get())
    await turn()
    await gate.open()
    await worker.wait(3)
    client.send(get())
    await worker.wait(9)
    assert client.state == "open"
    await gate.open()
    assert await worker.seconds_until_end(client) in (5, 6, 7)
    assert client.take() == ok("/") * 2


async def test_a_head_that_begins_behind_a_request_waits_for_the_end_of_that(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate, keepalive=5.0, head_timeout=10.0)
    client = worker.connect()
    client.send(get())
    await turn()
    await gate.open()
    client.send(get() + b"GET / HT")
    await worker.wait(30)
    assert client.state == "open"
    await gate.open()
    assert await worker.seconds_until_end(client) in (10, 11, 12)
    assert client.take().startswith(ok("/") * 2 + b"HTTP/1.1 408 ")


async def test_connections_are_closed_in_the_order_in_which_they_became_idle(serve: Serve) -> None:
    worker = serve(keepalive=5.0)
    clients = [worker.connect() for _ in range(3)]
    for client in reversed(clients):
        await client.ask(get())
        await worker.wait(1)
    ends = []
    for _ in range(10):
        await worker.wait(1)
        ends.append([client.has_ended for client in clients].count(True))
    assert ends == sorted(ends)
    assert ends.index(3) - ends.index(1) == 2


# Bodies.


async def test_a_stalled_body_raises_out_of_receive_and_is_answered_with_408(serve: Serve) -> None:
    errors = []

    async def app(message: dict, channels: dict) -> None:
        try:
            while (await channels["body"].receive())["more_content"]:
                pass
        except Exception as error:
            errors.append(error)
            raise

    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.send(post("/", b"hello")[:-2])
    assert await worker.seconds_until_end(client) in (30, 31, 32)
    assert [type(error) for error in errors] == [BodyStalled]
    assert isinstance(errors[0], ClientDisconnected)
    assert client.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert client.state == "half-closed"


async def test_a_stalled_body_of_a_head_request_is_answered_without_body(serve: Serve) -> None:
    worker = serve(Echo())
    client = worker.connect()
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b"x")
    await worker.seconds_until_end(client)
    assert client.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert client.received.endswith(b"connection: close\r\n\r\n")


async def test_each_byte_of_a_body_begins_its_time_anew(serve: Serve) -> None:
    worker = serve(Echo(), timeout=30.0)
    client = worker.connect()
    client.send(post("/", b"hello")[:-5])
    for byte in b"hell":
        await worker.wait(29)
        client.send(bytes([byte]))
    await worker.wait(29)
    assert await client.ask(b"o") == ok("POST / hello")


async def test_an_application_may_answer_a_stalled_body_itself(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        with pytest.raises(BodyStalled):
            await channels["body"].receive()
        await channels["reply"].send({"status": 400, "content": b"slow"})

    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.send(post("/", b"hello")[:-5])
    await worker.wait(33)
    assert client.received == b"HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow"
    assert client.state == "half-closed"


async def test_a_body_that_stalls_behind_its_reply_ends_the_connection(serve: Serve) -> None:
    worker = serve(timeout=30.0)
    client = worker.connect()
    assert await client.ask(post("/", b"hello")[:-2]) == HELLO
    assert await worker.seconds_until_end(client) in (30, 31, 32)
    assert client.take() == b""


async def test_a_reply_under_way_is_cut_where_the_body_stalls(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        while (await channels["body"].receive())["more_content"]:
            pass

    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.send(post("/", b"hello")[:-2])
    await worker.wait(33)
    assert client.received.endswith(b"\r\n\r\n1\r\na\r\n")
    assert client.has_ended


async def test_a_body_that_nobody_waits_for_does_not_stall(serve: Serve) -> None:
    gate = Gate()

    async def app(message: dict, channels: dict) -> None:
        await gate(message, channels)

    worker = serve(app, timeout=30.0)
    client = worker.connect()
    client.send(post("/a", b"hello")[:-2])
    await worker.wait(100)
    assert client.state == "open"
    await gate.open()
    assert client.take() == ok("/a")


async def test_without_a_timeout_a_body_may_take_for_ever(serve: Serve) -> None:
    worker = serve(Echo(), timeout=0.0)
    client = worker.connect()
    client.send(post("/", b"hello")[:-2])
    await worker.wait(200)
    assert await client.ask(b"lo") == ok("POST / hello")


async def test_nothing_is_left_of_a_dropped_body_that_came_late(serve: Serve) -> None:
    """A deadline left behind would end the connection, or the tick, in the midst of later requests."""
    worker = serve(timeout=30.0, keepalive=5.0)
    client = worker.connect()
    for sent in (post("/", b"hello"), chunked("/", b"hello")):
        assert await client.ask(sent[:-3]) == HELLO
        assert await client.ask(sent[-3:]) == b""
        for _ in range(20):
            assert await client.ask(get()) == HELLO
            await worker.wait(2)
    assert client.state == "open"


async def test_a_connection_waits_for_one_thing_at_a_time(serve: Serve) -> None:
    app = Echo()
    worker = serve(app)
    client = worker.connect()
    assert worker.waiting == 1
    sent = post("/a", b"hello")
    for step in (sent[:10], sent[10:-3], sent[-3:], sent + sent[:10], sent[10:], chunked("/", b"a")[:-2], b"\r\n"):
        await client.ask(step)
        assert worker.waiting == 1
    client.reset()
    await turn()
    assert worker.waiting == 0


# The wall clock.


@pytest.mark.parametrize("jump", [10**9, -(10**9)], ids=["ahead", "back"])
async def test_a_wall_clock_that_jumps_moves_the_date_and_no_deadline(serve: Serve, jump: int) -> None:
    worker = serve(keepalive=10.0, date_header=True)
    client = worker.connect()
    worker.jump(2 * 10**9)
    await client.ask(get())
    worker.jump(jump)
    await worker.wait(2)
    assert client.state == "open"
    date = formatdate(2 * 10**9 + jump + 2, usegmt=True)
    assert f"date: {date}\r\n".encode() in await client.ask(get())
    assert await worker.seconds_until_end(client) in (10, 11, 12)
