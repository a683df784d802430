"""Requests that ask for another protocol and get HTTP/1.1, as RFC 9110 section 7.8 allows.

The parser believes that nothing of HTTP follows such a request, and skips its body.
"""

from __future__ import annotations

import pytest

from .conftest import Serve
from .harness import Echo, asyncio_only, get, ok, turn

UPGRADE = ("Connection: Upgrade", "Upgrade: tea")
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def sized(*fields: str, body: bytes = SMUGGLED, method: str = "POST") -> bytes:
    head = [f"{method} /sized HTTP/1.1", "Host: a", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


def chunked(*fields: str, chunks: tuple[bytes, ...] = (SMUGGLED[:10], SMUGGLED[10:]), trailers: bytes = b"") -> bytes:
    head = ["POST /chunked HTTP/1.1", "Host: a", *fields, "Transfer-Encoding: chunked", "", ""]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(head).encode() + body + b"0\r\n" + trailers + b"\r\n"


PIPELINES = {
    "without body": (get("/1", *UPGRADE), ["GET /1 "]),
    "without body, to h2c": (get("/1", *H2C), ["GET /1 "]),
    "with a length of 0": (sized(*UPGRADE, body=b""), ["POST /sized "]),
    "with a sized body": (sized(*UPGRADE), [f"POST /sized {SMUGGLED.decode()}"]),
    "with a sized body, in GET": (sized(*UPGRADE, method="GET"), [f"GET /sized {SMUGGLED.decode()}"]),
    "with a chunked body": (chunked(*UPGRADE), [f"POST /chunked {SMUGGLED.decode()}"]),
    "with an empty chunked body": (chunked(*UPGRADE, chunks=()), ["POST /chunked "]),
    "with a chunked body and trailers": (
        chunked(*UPGRADE, trailers=b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n"),
        [f"POST /chunked {SMUGGLED.decode()}"],
    ),
    "many in a row": (
        b"".join(get(f"/{number}", *UPGRADE) for number in range(15)),
        [f"GET /{number} " for number in range(15)],
    ),
    "many in a row with bodies": (
        (sized(*UPGRADE) + chunked(*H2C) + get("/x", *UPGRADE)) * 3,
        [f"POST /sized {SMUGGLED.decode()}", f"POST /chunked {SMUGGLED.decode()}", "GET /x "] * 3,
    ),
    "between others": (
        get("/1") + sized(*UPGRADE, body=b"abc") + sized(body=b"def") + get("/2", *UPGRADE) + chunked(chunks=(b"g",)),
        ["GET /1 ", "POST /sized abc", "POST /sized def", "GET /2 ", "POST /chunked g"],
    ),
    "the field without the connection option": (get("/1", "Upgrade: websocket"), ["GET /1 "]),
    "the field without the connection option, with a body": (sized("Upgrade: a", body=b"abc"), ["POST /sized abc"]),
    "the connection option without the field": (sized("Connection: Upgrade", body=b"abc"), ["POST /sized abc"]),
    "to nothing": (sized("Connection: Upgrade", "Upgrade:", body=b"abc"), ["POST /sized abc"]),
}


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize(("sent", "answers"), PIPELINES.values(), ids=PIPELINES)
async def test_an_upgrade_is_ignored_however_it_is_cut(serve: Serve, sent: bytes, answers: list[str]) -> None:
    app = Echo()
    worker = serve(app)
    sent += get("/after")
    expected = b"".join(map(ok, [*answers, "GET /after "]))
    for pieces in (
        [sent],
        [sent[i : i + 1] for i in range(len(sent))],
        *([sent[:cut], sent[cut:]] for cut in range(1, min(len(sent), 400))),
    ):
        client = worker.connect()
        client.send(*pieces)
        await turn(4 * len(answers) + 10)
        assert client.received == expected
        assert client.state == "open"
    assert "GET /smuggled" not in app.calls


async def test_many_upgrades_fill_a_slice(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    client.send(get("/", *UPGRADE) * 300)
    await turn(2000)
    assert len(app.calls) == 300
    assert client.received == ok("GET / ") * 300


async def test_the_last_request_may_ask_for_an_upgrade(serve: Serve) -> None:
    for last in (get("/last", "Connection: close, Upgrade", "Upgrade: a"), get("/last", *UPGRADE, version="1.0")):
        app = Echo()
        client = serve(app).connect()
        await client.ask(last + SMUGGLED)
        assert app.calls == ["GET /last"]
        assert b"connection: close" in client.received
        assert client.has_ended


async def test_an_upgrade_on_http_1_0_is_ignored(serve: Serve) -> None:
    app = Echo()
    client = serve(app).connect()
    head = b"POST / HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: a\r\nContent-Length: %d\r\n\r\n"
    await client.ask(head % len(SMUGGLED) + SMUGGLED + get("/after"))
    assert app.calls == ["POST /", "GET /after"]
    assert SMUGGLED in client.received


async def test_a_last_request_with_body_may_ask_for_an_upgrade(serve: Serve) -> None:
    for fields in (("Connection: close, Upgrade", "Upgrade: a"), ("Connection: Upgrade, close", "Upgrade: a")):
        for sent in (sized(*fields), chunked(*fields)):
            app = Echo()
            client = serve(app).connect()
            reply = await client.ask(sent + SMUGGLED)
            assert len(app.calls) == 1
            assert reply.endswith(SMUGGLED)
            assert client.has_ended


BAD = {
    "with both framings": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "with another coding": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "with two lengths": b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "with two Hosts": b"Host: b\r\n\r\n",
    "with a bad chunk": b"Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    "with a bad chunk behind a good one": b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nab\r\n0\r\n\r\n",
}


@asyncio_only
@pytest.mark.parametrize("rest", BAD.values(), ids=BAD)
async def test_a_bad_request_with_an_upgrade_is_refused(serve: Serve, rest: bytes) -> None:
    app = Echo()
    worker = serve(app)
    sent = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n" + rest + SMUGGLED
    for cut in range(1, len(sent)):
        client = worker.connect()
        client.send(sent[:cut], sent[cut:])
        await turn(6)
        assert client.received.count(b"HTTP/1.1") == 1
        assert client.received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
        assert client.has_ended
    assert set(app.calls) <= {"POST /"}


BEHIND = {
    "a bad head": b"GET /bad HTTP/1.1\r\n\r\n",
    "another method": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "another version": b"GET /bad HTTP/2.0\r\nHost: a\r\n\r\n",
    "another expectation": b"GET /bad HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
    "another coding": b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "what the parser can't read": b"\0\r\n",
    "another upgrade, bad": get("/bad", *UPGRADE, "Host: b"),
    "frames of another protocol": b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
}


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize("bad", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (get("/1", *UPGRADE), "GET /1 "),
        (sized(*UPGRADE, body=b"abc"), "POST /sized abc"),
        (chunked(*UPGRADE, chunks=(b"abc",)), "POST /chunked abc"),
    ],
    ids=["without body", "sized", "chunked"],
)
async def test_what_is_bad_behind_an_ignored_upgrade_is_refused(
    serve: Serve, first: bytes, answer: str, bad: bytes
) -> None:
    app = Echo()
    worker = serve(app)
    sent = first + bad + SMUGGLED
    for cut in range(len(sent)):
        client = worker.connect()
        client.send(*filter(None, (sent[:cut], sent[cut:])))
        await turn(10)
        assert client.received.startswith(ok(answer) + b"HTTP/1.1 ")
        assert client.received.count(b"HTTP/1.1 ") == 2
        assert client.received.removeprefix(ok(answer))[9:12] in (b"400", b"417", b"501", b"505")
        assert client.has_ended
    assert len(set(app.calls)) == 1


async def test_a_message_says_nothing_of_the_head_that_primes_a_parser(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append((message["method"], message["path"], message["headers"]))
        while (await channels["body"].receive())["more_content"] if "body" in channels else False:
            pass
        await channels["reply"].send({"status": 204})

    client = serve(app).connect()
    await client.ask(sized(*UPGRADE, method="PUT", body=b"abc") + get("/after"))
    assert seen == [
        (
            "PUT",
            "/sized",
            [[b"host", b"a"], [b"connection", b"Upgrade"], [b"upgrade", b"tea"], [b"content-length", b"3"]],
        ),
        ("GET", "/after", [[b"host", b"a"]]),
    ]


async def test_the_body_of_an_upgrade_may_wait_to_be_asked_for(serve: Serve) -> None:
    client = serve(Echo()).connect()
    head = sized(*UPGRADE, "Expect: 100-continue", body=b"abc").removesuffix(b"abc")
    assert await client.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await client.ask(b"abc" + get("/after")) == ok("POST /sized abc") + ok("GET /after ")
