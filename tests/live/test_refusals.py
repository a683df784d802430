"""Messages that are refused: answered, never given to the application, and the connection closed."""

from collections.abc import Iterator

import pytest

from .client import Wire, request
from .harness import Server

SMUGGLED = request("/path/smuggled")


def calls_while_refused(server: Server, sent: bytes) -> tuple[Wire, list[str]]:
    """Send bytes, and say what of them the application was called with once the connection has ended."""
    start = server.log.position()
    wire = server.connect(sent)
    wire.until(b"\r\n\r\n")
    wire.rest()
    server.ask("/hello/after")
    server.log.wait_for("called GET /hello/after", after=start)
    called = [line.split()[-1] for line in server.log.lines("^called", after=start)]
    return wire, called[:-1]


def assert_refused(server: Server, sent: bytes, statuses: set[int]) -> None:
    wire = server.connect(sent)
    reply = wire.reply()
    assert reply.status in statuses
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"].startswith("text/plain")
    assert 0 < len(reply.body) < 200
    assert wire.rest() == b""
    _, called = calls_while_refused(server, sent)
    assert called == []


GET = "GET /path/refused HTTP/1.1\r\n"
POST = "POST /body HTTP/1.1\r\nHost: a\r\n"
CHUNKS = "1\r\na\r\n0\r\n\r\n"

REFUSED = {
    "no Host": (GET + "\r\n", {400}),
    "two Hosts": (GET + "Host: a\r\nHost: b\r\n\r\n", {400}),
    "the same Host twice": (GET + "Host: a\r\nHost: a\r\n\r\n", {400}),
    "Host with a path": (GET + "Host: a/b\r\n\r\n", {400}),
    "Host with a space": (GET + "Host: a b\r\n\r\n", {400}),
    "Host with a user": (GET + "Host: user@a\r\n\r\n", {400}),
    "Host with a bad port": (GET + "Host: a:b\r\n\r\n", {400}),
    "both framings": (POST + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, {400}),
    "both framings, reversed": (
        POST + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + CHUNKS,
        {400},
    ),
    "two lengths": (POST + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", {400}),
    "a length twice": (POST + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", {400}),
    "a list of lengths": (POST + "Content-Length: 3, 3\r\n\r\nabc", {400}),
    "a signed length": (POST + "Content-Length: +3\r\n\r\nabc", {400}),
    "a negative length": (POST + "Content-Length: -3\r\n\r\nabc", {400}),
    "a hexadecimal length": (POST + "Content-Length: 0x3\r\n\r\nabc", {400}),
    "an empty length": (POST + "Content-Length: \r\n\r\n", {400}),
    "a length past 64 bits": (POST + "Content-Length: 99999999999999999999\r\n\r\nabc", {400, 413}),
    "chunked on HTTP/1.0": (
        "POST /body HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        {400},
    ),
    "another coding": (POST + "Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, {501}),
    "an unknown coding": (POST + "Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, {400, 501}),
    "chunked not last": (POST + "Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKS, {400, 501}),
    "chunked twice": (POST + "Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, {400}),
    "two codings": (
        POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKS,
        {400, 501},
    ),
    "an empty coding": (POST + "Transfer-Encoding: , chunked\r\n\r\n" + CHUNKS, {400}),
    "a bare LF after the request line": (GET[:-2] + "\nHost: a\r\n\r\n", {400}),
    "a bare LF after a field": (GET + "Host: a\nX: y\r\n\r\n", {400}),
    "a bare LF for the empty line": (GET + "Host: a\r\n\n", {400}),
    "a bare CR in a value": (GET + "Host: a\r\nX: a\rb\r\n\r\n", {400}),
    "a folded field": (GET + "Host: a\r\nX: a\r\n b\r\n\r\n", {400}),
    "a space before the colon": (GET + "Host: a\r\nX : a\r\n\r\n", {400}),
    "a space before the first field": (GET + " X: a\r\nHost: a\r\n\r\n", {400}),
    "a field without a colon": (GET + "Host: a\r\nX\r\n\r\n", {400}),
    "a field without a name": (GET + "Host: a\r\n: a\r\n\r\n", {400}),
    "NUL in a value": (GET + "Host: a\r\nX: a\0b\r\n\r\n", {400}),
    "a control byte in a value": (GET + "Host: a\r\nX: a\x01b\r\n\r\n", {400}),
    "DEL in a value": (GET + "Host: a\r\nX: a\x7fb\r\n\r\n", {400}),
    "a control byte in a name": (GET + "Host: a\r\nX\x01: a\r\n\r\n", {400}),
    "a control byte in the target": ("GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "HTTP/0.9": ("GET /\r\n\r\n", {400, 505}),
    "HTTP/0.9 spelled out": ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", {505}),
    "HTTP/2.0": ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", {505}),
    "HTTP/2 with prior knowledge": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 501, 505}),
    "HTTP/1.2": ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", {400, 505}),
    "no version at all": ("GET / WHAT\r\nHost: a\r\n\r\n", {400}),
    "a lower-case version": ("GET / http/1.1\r\nHost: a\r\n\r\n", {400}),
    "an unknown method": ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", {501}),
    "a lower-case method": ("get / HTTP/1.1\r\nHost: a\r\n\r\n", {400, 501}),
    "CONNECT": ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", {501}),
    "an RTSP method": ("SETUP / HTTP/1.1\r\nHost: a\r\n\r\n", {400, 501}),
    "GET *": ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "a target without a slash": ("GET path HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "a fragment in the target": ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "another expectation": (GET + "Host: a\r\nExpect: the-unexpected\r\n\r\n", {417}),
    "a TLS handshake": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\xaa" * 200, {400, 501}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_message_is_refused_and_its_tail_never_read_as_a_request(server: Server, name: str) -> None:
    sent, statuses = REFUSED[name]
    assert_refused(server, sent.encode("latin-1") + SMUGGLED, statuses)


def test_a_refusal_comes_after_the_replies_to_the_valid_requests_before_it(server: Server) -> None:
    wire = server.connect(request("/path/1") + request("/path/2") + b"GET / HTTP/1.1\r\n\r\n" + SMUGGLED)
    assert [wire.reply().status for _ in range(3)] == [200, 200, 400]
    assert wire.rest() == b""


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nBad Trailer\r\n\r\n",
    ],
)
def test_a_bad_chunk_ends_the_connection_and_its_tail_is_never_a_request(server: Server, chunks: bytes) -> None:
    start = server.log.position()
    head = request("/careful", "Transfer-Encoding: chunked", method="POST")
    wire = server.connect(head + chunks + SMUGGLED)
    reply = wire.reply()
    assert reply.status == 400
    assert wire.rest() == b""
    server.ask("/hello/after")
    server.log.wait_for("called GET /hello/after", after=start)
    assert not server.log.lines("smuggled", after=start)


# -- limits


@pytest.mark.parametrize(
    "sent",
    [
        request("/path/" + "a" * 10_000),
        request("/path/cookie", "Cookie: " + "a" * 20_000),
        request("/path/fields", *(f"X-{n}: {n}" for n in range(900))),
    ],
    ids=["line", "field", "fields"],
)
def test_the_default_limits_are_never_met_by_real_requests(server: Server, sent: bytes) -> None:
    assert server.connect(sent).reply().status == 200


UNFINISHED = b"GET /path/refused HTTP/1.1\r\nHost: a\r\n"
MANY = "".join(f"X-{n}: {n}\r\n" for n in range(4_000)).encode()  # a whole slice more than what is allowed


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/path/" + "a" * 70_000), 414),
        (b"GET /path/" + b"a" * 100_000, 414),
        (request("/path/refused", "Cookie: " + "a" * 70_000), 431),
        (UNFINISHED + b"Cookie: " + b"a" * 100_000, 431),
        (UNFINISHED + b"a" * 100_000, 431),
        (UNFINISHED + MANY + b"\r\n", 431),
        (UNFINISHED + MANY, 431),
        (UNFINISHED + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(100)), 431),
    ],
    ids=[
        "line",
        "unfinished line",
        "field",
        "unfinished field",
        "unfinished name",
        "fields",
        "unfinished fields",
        "unfinished head",
    ],
)
def test_a_head_past_the_default_limits_is_refused_even_unfinished(server: Server, sent: bytes, status: int) -> None:
    assert_refused(server, sent, {status})


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = "--limit-request-line 100 --limit-request-fields 5 --limit-request-field_size 50"
    folder = tmp_path_factory.mktemp("strict")
    with Server("apps:app", *limits.split(), "--keep-alive", "30", folder=folder) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [
        request("/path/" + "a" * 70),
        request("/path/field", "X: " + "a" * 40),
        request("/path/fields", *(f"X-{n}: {n}" for n in range(4))),
    ],
    ids=["line", "field", "fields"],
)
def test_limits_that_are_set_let_pass_what_they_allow(strict_server: Server, sent: bytes) -> None:
    assert strict_server.connect(sent).reply().status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/path/" + "a" * 100), 414),
        (b"GET /path/" + b"a" * 20_000, 414),
        (request("/path/refused", "X: " + "a" * 60), 431),
        (UNFINISHED + b"X: " + b"a" * 20_000, 431),
        (request("/path/refused", *(f"X-{n}: {n}" for n in range(5))), 431),
        (UNFINISHED + b"X: y\r\n" * 5_000, 431),
    ],
    ids=["line", "unfinished line", "field", "unfinished field", "fields", "unfinished fields"],
)
def test_limits_that_are_set_refuse_what_is_past_them(strict_server: Server, sent: bytes, status: int) -> None:
    assert_refused(strict_server, sent, {status})
