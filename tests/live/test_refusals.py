"""Heads past the limits: refused, never given to the application, and the connection closed."""

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
