"""Requests of one connection: which of them are read, in what order they are answered, and when it ends."""

from __future__ import annotations

from .conftest import Serve
from .harness import HELLO, Echo, Gate, chunked, get, hello, ok, post, turn


async def test_a_connection_is_kept_for_the_next_request(serve: Serve) -> None:
    client = serve().connect()
    for _ in range(3):
        assert await client.ask(get("/")) == HELLO
    assert client.state == "open"


async def test_the_client_can_end_the_connection_with_its_last_request(serve: Serve) -> None:
    client = serve().connect()
    assert await client.ask(get("/")) == HELLO
    reply = await client.ask(get("/", "Connection: close"))
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    assert client.state == "closed"


async def test_close_is_found_among_other_connection_options(serve: Serve) -> None:
    client = serve().connect()
    await client.ask(get("/", "Connection: TE, Close", "TE: trailers"))
    assert client.state == "closed"


async def test_a_request_after_close_is_not_read(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    await client.ask(get("/last", "Connection: close") + get("/after"))
    assert app.calls == ["GET /last"]
    assert client.received.count(b"HTTP/1.1") == 1
    assert client.has_ended


async def test_a_connection_of_http_1_0_ends_with_its_reply(serve: Serve) -> None:
    client = serve().connect()
    reply = await client.ask(b"GET / HTTP/1.0\r\n\r\n" + b"GET /after HTTP/1.0\r\n\r\n")
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    assert client.has_ended


async def test_a_connection_of_http_1_0_is_kept_where_the_client_asks_for_it(serve: Serve) -> None:
    client = serve().connect()
    for _ in range(2):
        reply = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello"
    assert client.state == "open"


async def test_no_connection_is_kept_where_keepalive_is_0(serve: Serve) -> None:
    app = Echo()
    client = serve(app, keepalive=0).connect()
    reply = await client.ask(get("/first") + get("/second"))
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\nGET /first "
    assert app.calls == ["GET /first"]
    assert client.has_ended


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    sent = get("/1") + post("/2", b"two") + chunked("/3", b"th", b"ree") + get("/4")
    expected = ok("GET /1 ") + ok("POST /2 two") + ok("POST /3 three") + ok("GET /4 ")
    assert await client.ask(sent) == expected
    assert app.calls == ["GET /1", "POST /2", "POST /3", "GET /4"]


async def test_pipelined_requests_are_answered_one_at_a_time(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get("/1") + get("/2"), get("/3"))
    await turn()
    assert app.calls == ["/1"]
    await app.open()
    assert app.calls == ["/1", "/2"]
    assert client.take() == ok("/1")
    await app.open_all()
    assert client.take() == ok("/2") + ok("/3")


async def test_reading_pauses_at_the_bound_of_pipelined_requests(serve: Serve) -> None:
    app = Gate()
    client = serve(app, pipelined_requests=3).connect()
    client.send(*(get(f"/{number}") for number in range(10)))
    await turn()
    assert not client.transport.reading
    assert client.transport.unread == 6 * len(get("/0"))  # one is answered, three are parsed ahead
    await app.open()
    assert app.calls == ["/0", "/1"]
    assert client.transport.unread == 5 * len(get("/0"))
    await app.open_all()
    assert client.received == b"".join(ok(f"/{number}") for number in range(10))
    assert client.transport.reading


async def test_what_one_read_brought_beyond_the_bound_is_kept(serve: Serve) -> None:
    """400 requests in one read, of which a slice is parsed at a time."""
    app = Gate()
    client = serve(app).connect()
    sent = b"".join(get(f"/{number}", "X: " + "x" * 90) for number in range(400))
    client.send(sent)
    await turn()
    assert not client.transport.reading
    await app.open_all()
    assert client.received == b"".join(ok(f"/{number}") for number in range(400))
    assert client.transport.reading


async def test_bytes_that_arrive_behind_unparsed_ones_stay_behind_them(serve: Serve) -> None:
    app = Gate()
    client = serve(app, pipelined_requests=1).connect()
    client.send(b"".join(get(f"/{number}", "X: " + "x" * 500) for number in range(100)))
    client.send(get("/100")[:20])
    client.send(get("/100")[20:])
    await turn()
    await app.open_all()
    assert client.received == b"".join(ok(f"/{number}") for number in range(101))


async def test_a_bad_request_is_refused_after_the_answers_to_those_before_it(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get("/1") + get("/2") + b"GET /bad HTTP/1.1\r\n\r\n" + get("/after"))
    await turn()
    assert client.take() == b""
    await app.open()
    assert client.take() == ok("/1")
    await app.open()
    assert client.take().startswith(ok("/2") + b"HTTP/1.1 400 Bad Request\r\n")
    assert app.calls == ["/1", "/2"]
    assert client.state == "half-closed"


async def test_a_refused_request_is_told_of_in_the_log_with_its_client(serve: Serve) -> None:
    worker = serve(hello)
    client = worker.connect()
    client.send(get("/") + b"GET /bad HTTP/1.1\r\n\r\n")
    await turn()
    assert worker.log.refusals == ["warning: Invalid request from ip=192.0.2.7: Missing Host field"]


async def test_a_reply_that_ends_the_connection_drops_the_requests_behind_it(serve: Serve) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        await channels["reply"].send({"status": 200, "headers": [(b"connection", b"close")]})

    client = serve(app).connect()
    reply = await client.ask(get("/1") + get("/2") + get("/3"))
    assert reply == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    assert calls == ["/1"]
    assert client.state == "half-closed"  # bytes of the others were read, but more may be on their way


async def test_the_next_request_begins_while_the_application_still_works_for_an_answered_one(serve: Serve) -> None:
    gate = Gate()

    async def app(message: dict, channels: dict) -> None:
        await hello(message, channels)
        await gate(message, {"reply": Gate()})  # never sends anything

    client = serve(app).connect()
    assert await client.ask(get("/1") + get("/2")) == HELLO * 2
    assert gate.calls == ["/1", "/2"]
    client.reset()
    await turn()


async def test_empty_lines_before_a_request_are_ignored(serve: Serve) -> None:
    client = serve().connect()
    assert await client.ask(b"\r\n\r\n" + get("/") + b"\r\n" + get("/")) == HELLO * 2


async def test_a_request_may_arrive_byte_by_byte(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    sent = post("/a", b"one") + chunked("/b", b"t", b"wo") + get("/c")
    reply = await client.ask_slowly(*(sent[i : i + 1] for i in range(len(sent))))
    assert reply == ok("POST /a one") + ok("POST /b two") + ok("GET /c ")


async def test_the_message_says_what_was_asked(serve: Serve) -> None:
    messages = []

    async def app(message: dict, channels: dict) -> None:
        messages.append((message, set(channels)))
        await hello(message, channels)

    client = serve(app, root_path="/mount").connect()
    await client.ask(
        b"PUT /a%20b%ff?q=%20&r HTTP/1.1\r\n"
        b"Host: example.org\r\nX-One:  1 \t\r\nx-one:2\r\nEmpty:\r\n\r\n"
    )
    assert messages == [
        (
            {
                "channel": "http.request",
                "scheme": "http",
                "http_version": "1.1",
                "method": "PUT",
                "root_path": "/mount",
                "path": "/a b�",
                "raw_path": b"/a%20b%ff",
                "query_string": b"q=%20&r",
                "headers": [[b"host", b"example.org"], [b"x-one", b"1"], [b"x-one", b"2"], [b"empty", b""]],
                "server": ("192.0.2.1", 80),
                "client": ("192.0.2.7", 50007),
            },
            {"reply", "groups"},
        )
    ]


async def test_the_message_says_which_version_was_asked_for(serve: Serve) -> None:
    versions = []

    async def app(message: dict, channels: dict) -> None:
        versions.append(message["http_version"])
        await hello(message, channels)

    client = serve(app).connect()
    await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", get("/"))
    assert versions == ["1.0", "1.1"]


async def test_messages_of_one_connection_share_nothing_that_an_application_may_change(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append(dict(message, headers=list(message["headers"])))
        message["scheme"] = message["path"] = "changed"
        message["headers"].clear()
        channels.clear() if message.pop("client") is None else await hello(message, channels)

    client = serve(app).connect()
    await client.ask(get("/") + get("/"), get("/"))
    assert seen[0] == seen[1] == seen[2]


async def test_the_names_of_channels_are_unique(serve: Serve) -> None:
    names = []

    async def app(message: dict, channels: dict) -> None:
        names.extend([channels["reply"].name, channels["reply"].name])
        await hello(message, channels)

    worker = serve(app)
    for client in (worker.connect(), worker.connect()):
        await client.ask(get("/") + get("/"))
    assert len(names) == 8
    assert len(set(names)) == 4
