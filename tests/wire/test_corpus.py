"""The corpus, against the protocol: each case whole, cut in two at every byte, and byte by byte.

Behind each comes a request that is answered where the connection goes on, and must never be one where it doesn't.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from corpus import INVALID, VALID, Case, parse, unescape
from corpus.app import ASGIWitness, Witness
from corpus.checks import AFTER, SMUGGLED, assert_refused, assert_served, read_replies

from .conftest import Serve
from .harness import Client, Worker, asyncio_only, turn


def pieces(case: Case, behind: bytes) -> Iterator[list[bytes]]:
    """The ways to feed a case."""
    sent = case.sent + behind
    yield [sent]
    for cut in [*case.cuts(), len(case.sent)]:
        yield [sent[:cut], sent[cut:]]
    size = 1 if len(sent) < 4000 else 1000
    yield [sent[start : start + size] for start in range(0, len(sent), size)]


async def feed(worker: Worker, parts: list[bytes]) -> Client:
    client = worker.connect()
    for part in parts:
        client.send(part)
        if len(parts) == 2:
            await turn(2)
    await turn(4)
    return client


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize("name", VALID)
async def test_a_valid_request_is_served_however_it_is_cut(serve: Serve, name: str) -> None:
    case, app = VALID[name], Witness()
    worker = serve(app)
    for parts in pieces(case, SMUGGLED if case.ends else AFTER):
        app.calls.clear()
        client = await feed(worker, parts)
        await turn(4 * len(case.calls) + 4)
        assert_served(case, client.received, app.calls)
        assert client.has_ended is case.ends


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize("name", INVALID)
async def test_an_invalid_request_is_refused_however_it_is_cut(serve: Serve, name: str) -> None:
    case, app = INVALID[name], Witness()
    worker = serve(app)
    for parts in pieces(case, SMUGGLED):
        app.calls.clear()
        client = await feed(worker, parts)
        assert_refused(case, client.received, app.calls)
        assert client.state == "half-closed"
    await worker.wait(5)
    assert all(client.state == "aborted" for client in worker.clients)


@asyncio_only
@pytest.mark.parametrize("name", [name for name, case in INVALID.items() if not case.calls])
async def test_an_invalid_request_behind_a_good_one_is_refused(serve: Serve, name: str) -> None:
    app = Witness()
    worker = serve(app)
    case = INVALID[name]
    client = await feed(worker, [AFTER + case.sent + SMUGGLED])
    await turn(8)
    assert [call["path"] for call in app.calls] in (["/after"], ["/after", "/"])
    behind = client.received.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b'""}')[2]
    assert_refused(case, behind, [])


@asyncio_only
@pytest.mark.parametrize("name", VALID)
async def test_a_valid_request_is_served_to_an_asgi_application_as_to_the_other(serve: Serve, name: str) -> None:
    case, app = VALID[name], ASGIWitness()
    worker = serve.asgi(app)
    whole, *_, dribbled = pieces(case, SMUGGLED if case.ends else AFTER)
    for parts in (whole, dribbled):
        app.calls.clear()
        client = await feed(worker, parts)
        await turn(4 * len(case.calls) + 4)
        assert_served(case, client.received, app.calls)
        assert client.has_ended is case.ends


@asyncio_only
@pytest.mark.parametrize("name", INVALID)
async def test_an_invalid_request_is_refused_before_an_asgi_application_as_before_the_other(
    serve: Serve, name: str
) -> None:
    case, app = INVALID[name], ASGIWitness()
    worker = serve.asgi(app)
    whole, *_, dribbled = pieces(case, SMUGGLED)
    for parts in (whole, dribbled):
        app.calls.clear()
        client = await feed(worker, parts)
        assert_refused(case, client.received, app.calls)
        assert client.state == "half-closed"


# What docs/deviations.rst tells: it is known, and harmless.

CHUNKED = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

DEVIATIONS = {
    "more spaces": ("GET  /   HTTP/1.1\r\nHost: a\r\n\r\n", [200, 200]),
    "CR alone before a request": ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", [200, 200]),
    "LF alone before a request": ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", [200, 200]),
    "RTSP": ("GET / RTSP/1.0\r\nConnection: keep-alive\r\n\r\n", [200, 200]),
    "ICE": ("SOURCE / ICE/1.1\r\nHost: a\r\n\r\n", [200, 200]),
    "characters of no URI": ('GET /"<>\\^`{|}%zz HTTP/1.1\r\nHost: a\r\n\r\n', [200, 200]),
    "empty extensions": (CHUNKED + "1;;a=;=b\r\na\r\n0\r\n\r\n", [200, 200]),
    "an empty element before chunked": (CHUNKED.replace("chunked", ",chunked") + "0\r\n\r\n", [400]),
    "a tab behind chunked": (CHUNKED.replace("chunked", "chunked\t") + "0\r\n\r\n", [400]),
    "white space before an extension": (CHUNKED + "1 ;a\r\na\r\n0\r\n\r\n", [400]),
    "white space within an extension": (CHUNKED + "1;a= b\r\na\r\n0\r\n\r\n", [400]),
    "close among trailers": (CHUNKED + "1\r\na\r\n0\r\nConnection: close\r\n\r\n", [200, 400]),
    "an address of the future": ("GET / HTTP/1.1\r\nHost: [v7.1]\r\n\r\n", [400]),
}


@asyncio_only
@pytest.mark.parametrize(("sent", "statuses"), DEVIATIONS.values(), ids=DEVIATIONS)
async def test_what_deviates_from_the_rules_does_so_as_the_documents_say(
    serve: Serve, sent: str, statuses: list[int]
) -> None:
    case = Case("a deviation", sent.encode())
    app = Witness()
    worker = serve(app)
    for parts in pieces(case, AFTER):
        app.calls.clear()
        client = await feed(worker, parts)
        await turn(8)
        assert [reply.status for reply in read_replies(client.received, ("GET", "GET"))] == statuses
        assert sum(call["body"] is not None for call in app.calls) == statuses.count(200)


# The format.


def test_the_corpus_is_as_large_as_it_was_meant_to_be() -> None:
    assert len(VALID) >= 60
    assert len(INVALID) >= 150


def test_each_case_names_the_rule_that_it_rests_on() -> None:
    for case in (*VALID.values(), *INVALID.values()):
        assert re.fullmatch(r"RFC \d{4} section \d+(\.\d+)*(, RFC \d{4} section \d+(\.\d+)*)*", case.rule), case.name


def test_escapes_stand_for_bytes() -> None:
    assert unescape(r"a\r\n\t\\ \x00\xff\{3 b\x20}") == b"a\r\n\t\\ \0\xffb b b "


@pytest.mark.parametrize("text", ["\\", "\\q", "\\x0", "\\{a b}", "\t", "\xe9"])
def test_nothing_else_stands_for_anything(text: str) -> None:
    with pytest.raises(ValueError):
        unescape(text)


GOOD = "# A sentence.\n# rule: RFC 9112 section 3\n# call: GET /\nGET / HTTP/1.1\\r\\n\n"

BROKEN: list[Callable[[str], str]] = [
    lambda text: text.replace("# rule", "# ruler"),
    lambda text: text.replace("# rule: RFC 9112 section 3\n", ""),
    lambda text: text.replace("# call: GET /\n", ""),
    lambda text: text.replace("\\n", "\\n "),
    lambda text: text + "# call: GET /late\n",
    lambda text: text + "caf\xe9\n",
]


def test_a_file_is_read_as_it_is_written() -> None:
    case = parse("name", GOOD)
    assert case.sent == b"GET / HTTP/1.1\r\n"
    assert [(call.method, call.path) for call in case.calls] == [("GET", "/")]


@pytest.mark.parametrize("breaks", BROKEN)
def test_a_file_that_is_not_as_the_format_has_it_is_an_error(breaks: Callable[[str], str]) -> None:
    with pytest.raises(ValueError):
        parse("name", breaks(GOOD))
