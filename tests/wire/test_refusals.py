"""Requests that are refused: answered with a reason, never given to the application, and the last of their connection.

Each is fed whole, cut in two at every byte, and byte by byte, with a request behind it that must never be one.
"""

from __future__ import annotations

import pytest

from .conftest import Serve
from .harness import Client, Echo, Worker, asyncio_only, get, ok, turn

SMUGGLED = get("/smuggled")

CHUNKS = "1\r\na\r\n0\r\n\r\n"


def get_with(*fields: str) -> str:
    return "\r\n".join(("GET / HTTP/1.1", "Host: a", *fields, "", ""))


def post_with(*fields: str, body: str = "") -> str:
    return "\r\n".join(("POST / HTTP/1.1", "Host: a", *fields, "", body))


HEADS = {
    # Host: RFC 9112 section 3.2.
    "no Host": ("GET / HTTP/1.1\r\n\r\n", 400),
    "no Host beside other fields": ("GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n", 400),
    "no Host, absolute form": ("GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "two Hosts": ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "the same Host twice": ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
    "two Hosts, the first empty": ("GET / HTTP/1.1\r\nHost:\r\nHost: b\r\n\r\n", 400),
    "two Hosts, the second empty": ("GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n", 400),
    "two Hosts, both empty": ("GET / HTTP/1.1\r\nHost:\r\nHost:\r\n\r\n", 400),
    "two Hosts on 1.0": ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two Hosts on 1.0, the first empty": ("GET / HTTP/1.0\r\nHost:\r\nHost: b\r\n\r\n", 400),
    "two Hosts, absolute form": ("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "Host with a path": ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with a query": ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", 400),
    "Host with a space": ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "Host with a user": ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
    "Host with a port that is none": ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "Host with two ports": ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400),
    "Host with a list": ("GET / HTTP/1.1\r\nHost: a, b/c\r\n\r\n", 400),
    "Host with an open bracket": ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "Host with a bad escape": ("GET / HTTP/1.1\r\nHost: a%2\r\n\r\n", 400),
    "Host beyond ASCII": ("GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    "a bad Host on 1.0": ("GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400),
    "a bad Host, absolute form": ("GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    # The request line.
    "an unknown method": ("FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in lower case": ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "CONNECT": ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "CONNECT in origin form": ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method of RTSP": ("DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "another method of RTSP": ("PLAY / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a version of RTSP": ("OPTIONS * RTSP/2.0\r\nHost: a\r\n\r\n", 505),
    "the asterisk with GET": ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment": ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment, absolute form": ("GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment behind the authority": ("GET http://a#c HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target without slash": ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "authority form with GET": ("GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400),
    "absolute form without authority": ("GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form with a user": ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form of another scheme": ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": ("GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab in the target": ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL in the target": ("GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "DEL in the target": ("GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": ("GET /\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9 with a version": ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "HTTP/1.2": ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/3.0": ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "the preface of HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "half a version": ("GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
    "a version in lower case": ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "white space before the method": (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
    "the beginning of TLS": ("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", None),
    # Line ends and fields: RFC 9112 sections 2.2 and 5.
    "a bare LF behind the request line": ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "a bare LF behind a field": ("GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400),
    "a bare LF as the empty line": ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare LFs alone": ("GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare CR behind the request line": ("GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "a bare CR in a value": (get_with("A: b\rc"), 400),
    "a bare CR as the empty line": ("GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
    "a folded field": (get_with("A: b", " c"), 400),
    "a field folded by a tab": (get_with("A: b", "\tc"), 400),
    "white space before the first field": ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a space before the colon": (get_with("A : b"), 400),
    "a tab before the colon": (get_with("A\t: b"), 400),
    "a space within a name": (get_with("A b: c"), 400),
    "a name that is no token": (get_with("A(b): c"), 400),
    "a name beyond ASCII": (get_with("\xe9: c"), 400),
    "an empty name": (get_with(": b"), 400),
    "a line without colon": (get_with("A"), 400),
    "NUL in a name": (get_with("A\0: b"), 400),
    "NUL in a value": (get_with("A: b\0c"), 400),
    "a control byte in a value": (get_with("A: b\x01c"), 400),
    "DEL in a value": (get_with("A: b\x7fc"), 400),
    # Framing: RFC 9112 section 6.
    "both framings": (post_with("Content-Length: 3", "Transfer-Encoding: chunked", body=CHUNKS), 400),
    "both framings, reversed": (post_with("Transfer-Encoding: chunked", "Content-Length: 3", body=CHUNKS), 400),
    "two lengths": (post_with("Content-Length: 3", "Content-Length: 4", body="abc"), 400),
    "the same length twice": (post_with("Content-Length: 3", "Content-Length: 3", body="abc"), 400),
    "a list of lengths": (post_with("Content-Length: 3, 3", body="abc"), 400),
    "a positive length": (post_with("Content-Length: +3", body="abc"), 400),
    "a negative length": (post_with("Content-Length: -3", body="abc"), 400),
    "a hexadecimal length": (post_with("Content-Length: 0x3", body="abc"), 400),
    "a length with an underscore": (post_with("Content-Length: 1_0", body="0123456789"), 400),
    "a length with a space": (post_with("Content-Length: 1 0", body="0123456789"), 400),
    "an empty length": (post_with("Content-Length:", body=""), 400),
    "a length past 64 bits": (post_with("Content-Length: 18446744073709551616"), 400),
    "chunked on 1.0": ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "chunked on 1.0, kept": (
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        400,
    ),
    "gzip under chunked": (post_with("Transfer-Encoding: gzip, chunked", body=CHUNKS), 501),
    "gzip under chunked in two fields": (
        post_with("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=CHUNKS),
        501,
    ),
    "an empty coding": (post_with("Transfer-Encoding: , chunked", body=CHUNKS), 400),
    "an empty coding at the end": (post_with("Transfer-Encoding: chunked,", body=CHUNKS), 400),
    "no coding at all": (post_with("Transfer-Encoding:", body=CHUNKS), 400),
    "chunked twice": (post_with("Transfer-Encoding: chunked, chunked", body=CHUNKS), 400),
    "chunked in two fields": (
        post_with("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS),
        400,
    ),
    "chunked under another": (post_with("Transfer-Encoding: chunked, gzip", body=CHUNKS), 400),
    "identity": (post_with("Transfer-Encoding: identity", body="abc"), 400),
    "an unknown coding": (post_with("Transfer-Encoding: xchunked", body=CHUNKS), 400),
    "chunked with a parameter": (post_with("Transfer-Encoding: chunked;a=b", body=CHUNKS), 400),
    "chunked with a vertical tab": (post_with("Transfer-Encoding: \x0bchunked", body=CHUNKS), 400),
    # RFC 9110 section 10.1.1.
    "another expectation": (get_with("Expect: tea"), 417),
    "an expectation beside that of 100": (get_with("Expect: 100-continue, tea"), 417),
    "two fields of expectations": (
        post_with("Expect: 100-continue", "Expect: tea", "Content-Length: 3", body="abc"),
        417,
    ),
}


def pieces(sent: bytes) -> list[list[bytes]]:
    """The ways to feed bytes: whole, cut in two at every byte, and byte by byte."""
    cuts = [[sent[:cut], sent[cut:]] for cut in range(1, len(sent))]
    return [[sent], *cuts, [sent[i : i + 1] for i in range(len(sent))]]


def assert_refused(reply: bytes, status: int | None) -> None:
    """One whole response, with a short reason, that announces the end."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    given = int(lines[0].split()[1])
    assert given == status if status else 400 <= given < 506
    assert lines[1:] == [
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    assert 5 < len(body) < 100
    assert body.endswith(b"\n") and body.count(b"\n") == 1


async def feed(worker: Worker, parts: list[bytes]) -> Client:
    client = worker.connect()
    for part in parts:
        client.send(part)
        if len(parts) == 2:
            await turn(2)
    await turn(4)
    return client


@asyncio_only
@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
async def test_a_bad_head_is_refused(serve: Serve, sent: str, status: int | None) -> None:
    app = Echo()
    worker = serve(app)
    for parts in pieces(sent.encode("latin-1") + SMUGGLED):
        client = await feed(worker, parts)
        assert_refused(client.received, status)
        assert client.state == "half-closed"
        assert app.calls == []
    await worker.wait(5)
    assert all(client.state == "aborted" for client in worker.clients)


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
async def test_a_bad_head_behind_a_good_one_is_refused(serve: Serve, sent: str, status: int | None) -> None:
    app = Echo()
    worker = serve(app)
    for parts in pieces(get("/good") + sent.encode("latin-1") + SMUGGLED):
        client = await feed(worker, parts)
        assert client.received.startswith(ok("GET /good "))
        assert_refused(client.received.removeprefix(ok("GET /good ")), status)
        assert client.state == "half-closed"
    assert set(app.calls) == {"GET /good"}


CHUNKED = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

BODIES = {
    "a size that is none": CHUNKED + "g\r\nabc\r\n0\r\n\r\n",
    "a negative size": CHUNKED + "-1\r\nabc\r\n0\r\n\r\n",
    "a size with 0x": CHUNKED + "0x3\r\nabc\r\n0\r\n\r\n",
    "no size": CHUNKED + "\r\nabc\r\n0\r\n\r\n",
    "a size past 64 bits": CHUNKED + "11111111111111111\r\nabc\r\n0\r\n\r\n",
    "white space before a size": CHUNKED + " 3\r\nabc\r\n0\r\n\r\n",
    "a bare LF behind a size": CHUNKED + "3\nabc\r\n0\r\n\r\n",
    "a bare LF behind a chunk": CHUNKED + "3\r\nabc\n0\r\n\r\n",
    "a bare LF behind an extension": CHUNKED + "3;a=b\nabc\r\n0\r\n\r\n",
    "a bare LF behind the last chunk": CHUNKED + "3\r\nabc\r\n0\n\r\n",
    "a bare LF at the end": CHUNKED + "3\r\nabc\r\n0\r\n\n",
    "a bare CR behind a size": CHUNKED + "3\rabc\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + "3\r\nabcd\r\n0\r\n\r\n",
    "a chunk shorter than its size": CHUNKED + "5\r\nabc\r\n0\r\n\r\n",
    "a trailer without colon": CHUNKED + "3\r\nabc\r\n0\r\ntrailer\r\n\r\n",
    "a folded trailer": CHUNKED + "3\r\nabc\r\n0\r\na: b\r\n c\r\n\r\n",
    "a trailer with NUL": CHUNKED + "3\r\nabc\r\n0\r\na: b\0\r\n\r\n",
}


@asyncio_only
@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
async def test_a_bad_body_is_refused_and_breaks_the_receive(serve: Serve, sent: str) -> None:
    outcomes: list[str] = []

    async def app(message: dict, channels: dict) -> None:
        assert message["path"] == "/"
        content = b""
        try:
            while (part := await channels["body"].receive())["more_content"]:
                content += part["content"]
        except OSError as error:
            assert b"abc".startswith(content) or content == b"abc\r\n"[:5]
            outcomes.append(type(error).__name__)
            raise
        outcomes.append("complete")

    worker = serve(app)
    for parts in pieces(sent.encode() + SMUGGLED):
        client = await feed(worker, parts)
        assert_refused(client.received, 400)
        assert client.state == "half-closed"
    assert set(outcomes) <= {"ClientDisconnected"}


@asyncio_only
@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
async def test_a_bad_body_behind_its_reply_ends_the_connection(serve: Serve, sent: str) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        await channels["reply"].send({"status": 200, "content": b"early"})

    worker = serve(app)
    head, body = sent.encode().split(b"\r\n\r\n", 1)
    client = worker.connect()
    assert await client.ask(head + b"\r\n\r\n") == ok("early")
    assert await client.ask(body + SMUGGLED) == b""
    assert client.has_ended
    assert calls == ["/"]


@asyncio_only
async def test_bytes_behind_a_refusal_are_dropped(serve: Serve) -> None:
    app = Echo()
    worker = serve(app)
    client = worker.connect()
    assert_refused(await client.ask(b"\0\r\n\r\n"), None)
    for sent in (SMUGGLED, b"\0", SMUGGLED * 1000, b"\r\n\r\n" + SMUGGLED):
        assert await client.ask(sent) == b""
    assert app.calls == []
    assert client.transport.unread == 0


async def test_a_head_request_is_refused_without_body(serve: Serve) -> None:
    client = serve().connect()
    reply = await client.ask(b"HEAD / HTTP/1.1\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert reply.endswith(b"connection: close\r\n\r\n")


async def test_a_refusal_is_one_write_and_has_the_fields_that_every_response_has(serve: Serve) -> None:
    worker = serve(server_header=b"mine", date_header=True)
    client = worker.connect()
    reply = await client.ask(b"GET / HTTP/1.1\r\n\r\n")
    assert reply.startswith(
        b"HTTP/1.1 400 Bad Request\r\nserver: mine\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-type: text/plain"
    )
    assert client.take_writes() == [reply]


ACCEPTED = {
    "an empty Host": ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / "),
    "an empty Host with white space": ("GET / HTTP/1.1\r\nHost: \t \r\n\r\n", "GET / "),
    "no Host on 1.0": ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / "),
    "an address as Host": ("GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n", "GET / "),
    "an address of IPv6 as Host": ("GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "GET / "),
    "a name with an escape as Host": ("GET / HTTP/1.1\r\nHost: a%20b.example.\r\n\r\n", "GET / "),
    "Host in upper case": ("GET / HTTP/1.1\r\nHOST: A\r\n\r\n", "GET / "),
    "no white space before a value": ("GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET / "),
    "the asterisk with OPTIONS": ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * "),
    "absolute form": ("GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /c "),
    "absolute form without path": ("GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / "),
    "chunked in mixed case": (post_with("Transfer-Encoding: Chunked", body=CHUNKS), "POST / a"),
    "chunked with white space": (post_with("Transfer-Encoding: \t chunked ", body=CHUNKS), "POST / a"),
    "a length with zeros": (post_with("Content-Length: 0003", body="abc"), "POST / abc"),
    "a length of 0": (post_with("Content-Length: 0"), "POST / "),
    "an extension of a chunk": (post_with("Transfer-Encoding: chunked", body="1;a=b\r\na\r\n0;c\r\n\r\n"), "POST / a"),
    "trailers": (post_with("Transfer-Encoding: chunked", body="1\r\na\r\n0\r\nB: c\r\nHost: x\r\n\r\n"), "POST / a"),
    "sizes in both cases": (
        post_with("Transfer-Encoding: chunked", body="a\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n"),
        "POST / 01234567890123456789",
    ),
    "a body of GET": ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "GET / abc"),
    "bytes beyond ASCII in a value": (get_with("A: \xe9"), "GET / "),
    "a method of WebDAV": ("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", "PROPFIND / "),
    "an expectation on 1.0, which has none": (
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: tea\r\nContent-Length: 3\r\n\r\nabc",
        "POST / abc",
    ),
}


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize(("sent", "answer"), ACCEPTED.values(), ids=ACCEPTED)
async def test_an_unusual_request_is_served_however_it_is_cut(serve: Serve, sent: str, answer: str) -> None:
    app = Echo()
    worker = serve(app)
    for parts in pieces(sent.encode("latin-1") + get("/after")):
        client = await feed(worker, parts)
        await turn(8)
        received = client.received.replace(b"connection: keep-alive\r\n", b"")  # on 1.0
        assert received == ok(answer) + ok("GET /after ")


async def test_the_authority_of_an_absolute_form_takes_the_place_of_host(serve: Serve) -> None:
    seen = []

    async def app(message: dict, channels: dict) -> None:
        seen.append((message["raw_path"], message["query_string"], message["headers"]))
        await channels["reply"].send({"status": 204})

    client = serve(app).connect()
    await client.ask(b"GET http://b:81/c?d HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n")
    await client.ask(b"GET https://b?d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    await client.ask(b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen == [
        (b"/c", b"d", [[b"x", b"y"], [b"host", b"b:81"]]),
        (b"/", b"d", [[b"host", b"b"], [b"connection", b"keep-alive"]]),
        (b"*", b"", [[b"host", b"b"]]),
    ]


async def test_what_was_rewritten_for_one_request_is_not_for_the_next(serve: Serve) -> None:
    """The parsed targets and fields of the last requests are remembered."""
    hosts = []

    async def app(message: dict, channels: dict) -> None:
        hosts.append(dict(message["headers"])[b"host"])
        await channels["reply"].send({"status": 204})

    client = serve(app).connect()
    absolute = b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.ask(absolute + get("/") + absolute)
    assert hosts == [b"b", b"a", b"b"]
