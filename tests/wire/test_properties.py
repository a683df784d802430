"""What holds for any bytes, however they are cut."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .harness import Echo, Worker, chunked, get, post, run, turn
from .survival import ENDS, leave_nothing, try_requests

pytestmark = pytest.mark.unmeasured

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)

bodies = st.binary(max_size=40)
paths = st.from_regex(r"/[a-z0-9/%.-]{0,10}(\?[a-z=&]{0,10})?", fullmatch=True)
upgrades = st.sampled_from([(), ("Connection: Upgrade", "Upgrade: tea"), ("Upgrade: h2c",), ("X: y", "X: z")])

requests = st.one_of(
    st.builds(get, paths),
    st.builds(lambda path, fields: get(path, *fields), paths, upgrades),
    st.builds(lambda path, body, fields: post(path, body, *fields), paths, bodies, upgrades),
    st.builds(lambda path, chunks: chunked(path, *filter(None, chunks)), paths, st.lists(bodies, max_size=3)),
    st.builds(
        lambda path, chunks, trailers: chunked(path, *filter(None, chunks), trailers=trailers),
        paths,
        st.lists(bodies, max_size=3),
        st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nHost: b\r\n"]),
    ),
    st.just(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    st.just(b"\r\n" + get("/after-an-empty-line")),
    st.just(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
    st.just(b"GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n"),
)

#: Only the end of a pipeline may end its connection.
endings = st.sampled_from(
    [
        b"",
        get("/last", "Connection: close"),
        b"GET /last HTTP/1.0\r\n\r\n",
        b"GET /bad HTTP/1.1\r\n\r\n",
        b"GET /unfinished",
        b"\0",
    ]
)


def split(sent: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({round(cut * len(sent)) for cut in cuts})
    return [sent[start:end] for start, end in zip([0, *places], [*places, len(sent)], strict=True) if end > start]


cut_places = st.lists(st.floats(0, 1), max_size=12)


async def talk(pieces: list[bytes], slowly: bool, **limits: Any) -> tuple[list[str], bytes, str]:
    """The calls of the application, the bytes of the answers, and how the connection stands."""
    app = Echo()
    worker = Worker(app, limits)
    client = worker.connect()
    for piece in pieces:
        client.send(piece)
        if slowly:
            await turn(2)
    await turn(200)
    outcome = app.calls, client.received, "ended" if client.has_ended else "open"
    await worker.close()
    return outcome


@quick
@given(st.lists(requests, max_size=6), endings, cut_places, st.booleans())
def test_a_pipeline_is_answered_the_same_however_it_is_cut(
    pipeline: list[bytes], ending: bytes, cuts: list[float], slowly: bool
) -> None:
    sent = b"".join(pipeline) + ending
    whole = run(talk([sent], False))
    assert len(whole[0]) >= len(pipeline)
    assert run(talk(split(sent, cuts), slowly)) == whole


@quick
@given(st.lists(requests, min_size=1, max_size=6), cut_places, st.integers(1, 3), st.integers(1, 60))
def test_small_bounds_change_no_answer(pipeline: list[bytes], cuts: list[float], requests: int, body: int) -> None:
    sent = b"".join(pipeline)
    whole = run(talk([sent], False))
    assert run(talk(split(sent, cuts), False, pipelined_requests=requests, request_body_buffer=body)) == whole


def mutate(sent: bytes, place: float, junk: bytes, length: int) -> bytes:
    at = round(place * len(sent))
    return sent[:at] + junk + sent[at + length :]


junk = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"Host: b\r\n"]),
    st.sampled_from([b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]),
    st.just(b"Upgrade: a\r\nConnection: Upgrade\r\n"),
)

garbage = st.one_of(
    st.binary(max_size=200),
    st.builds(
        mutate, st.lists(requests, min_size=1, max_size=4).map(b"".join), st.floats(0, 1), junk, st.integers(0, 10)
    ),
)


async def survive(pieces: list[bytes], end: str) -> None:
    """Nothing is raised out of the protocol, and nothing is left running when the client has gone."""
    app = Echo()
    worker = Worker(app, {})
    client = worker.connect()
    for piece in pieces:
        client.send(piece)
        await asyncio.sleep(0)
    await turn(60)
    received = client.received
    assert not received or received.startswith(b"HTTP/1.1 ")
    assert received.count(b"connection: close\r\n") <= 1
    assert received.count(b"HTTP/1.1 4") + received.count(b"HTTP/1.1 5") <= 1 or b"HTTP/1.1 4" in b"".join(pieces)
    await leave_nothing(worker, client, end)


@quick
@given(garbage, cut_places, st.sampled_from(ENDS))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\n\0", [], "reset")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n", [0.5], "end")
def test_any_bytes_are_survived(sent: bytes, cuts: list[float], end: str) -> None:
    run(survive(split(sent, cuts), end))


@settings(quick, max_examples=300)
@given(st.data())
def test_changed_requests_of_the_corpus_are_survived_and_come_to_the_same_however_they_are_cut(data: Any) -> None:
    try_requests(lambda number: data.draw(st.integers(0, number - 1)))
