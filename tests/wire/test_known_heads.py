"""A head that has come before means what it meant then, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest
from corpus.app import ASGIWitness, Witness
from hypothesis import given, settings
from hypothesis import strategies as st

from uvicorn_worker.config import BLANK_BYTES
from uvicorn_worker.http11.known import MOST_BYTES, KnownHeads, Section
from uvicorn_worker.http11.upgrade import Upgrade, UpgradedProtocol

from .conftest import Serve
from .harness import HELLO, ASGIWorker, Echo, Gate, Worker, asyncio_only, get, ok, post, run, turn
from .test_budget import Calls, calls_of

LINES = [
    "GET / HTTP/1.1",
    "GET /other?a=b HTTP/1.1",
    "GET /%2e%2e/%ff HTTP/1.1",
    "HEAD / HTTP/1.1",
    "POST / HTTP/1.1",
    "DELETE /a HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT a:80 HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET / HTTP/1.0",
    "GET / HTTP/1.2",
    "GET / RTSP/1.1",
    "GET  /  HTTP/1.1",
    "GET http://b/c HTTP/1.1",
    "GET /a#b HTTP/1.1",
    "get / HTTP/1.1",
    "GET /",
    "",
]

SECTIONS = [
    "Host: a\r\n",
    "Host: a\r\nX: y\r\nx: z \r\n",
    "HOST:a\r\nConnection: keep-alive\r\n",
    "Host: a\r\nConnection: close\r\n",
    "Host: a\r\nConnection: keep-alive, close\r\n",
    "Host: a\r\nConnection: Upgrade\r\nUpgrade: tea\r\n",
    "Host: a\r\nUpgrade: h2c\r\n",
    "Host: a\r\nContent-Length: 0\r\n",
    "Host: a\r\nContent-Length: 2\r\n\r\n",  # The empty line that ends it is the body.
    "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "Host: a\r\nExpect: 100-continue\r\n",
    "Host: a\r\nExpect: tea\r\n",
    "Host: a\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n",
    "Host: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n",
    "Host: a\r\nX_Y: z\r\n",
    "Host: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n",
    "Host: a\r\nConnection: close\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n",
    "Host: a\r\nHost: a\r\n",
    "Host: a/b\r\n",
    "X: y\r\n",
    "",
]

TRUSTED, UNTRUSTED = ("127.0.0.1", 50007), ("192.0.2.7", 50007)

HEADS = [f"{line}\r\n{section}\r\n".encode() for line, section in product(LINES, SECTIONS)]


async def first_outcome(
    worker: Worker, head: bytes, address: tuple[str, int] = UNTRUSTED
) -> tuple[bytes, str, list[Any]]:
    """The outcome at a worker that has met no other request."""
    result = await outcome(worker, head, address)
    await worker.close()
    return result


async def outcome(worker: Worker, head: bytes, address: tuple[str, int]) -> tuple[bytes, str, list[Any]]:
    """The answers, how the connection stands, and the calls of the application."""
    calls = worker.service.app.calls
    calls.clear()
    client = worker.connect(client=address)
    client.send(head)
    await turn(20)
    return client.received, client.state, calls[:]


async def learn(worker: Worker, *heads: bytes) -> None:
    """Have these heads come twice."""
    teacher = worker.connect()
    for head in heads * 2:
        await teacher.ask(head)
    teacher.transport.abort()
    await turn()
    assert worker.service.known_heads.sections


async def test_what_comes_once_is_not_remembered(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    for number in range(10):
        assert await client.ask(get("/", f"X-Request-ID: {number}")) == HELLO
        assert await client.ask(get(f"/{number}")) == HELLO
    known = worker.service.known_heads
    assert list(known.lines) == []
    assert await client.ask(get("/")) == HELLO
    assert list(known.lines) == [b"GET / HTTP/1.1"]


async def test_it_is_forgotten_what_has_come_long_ago(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    await client.ask(get("/once"))
    for number in range(3000):
        client.send(get(f"/{number}", f"X: {number}"))
        await turn(2)
    await client.ask(get("/once"))
    assert not worker.service.known_heads.lines


@pytest.mark.unmeasured
@asyncio_only
@pytest.mark.parametrize("limits", [{}, {"header_map": "drop"}, {"header_map": "refuse"}, {"keepalive": 0.0}], ids=str)
async def test_every_line_before_every_section_is_read_as_the_parser_reads_it(
    serve: Serve, limits: dict[str, Any]
) -> None:
    """Each head twice at a worker that has met all others, and once at one that has met none."""
    experienced = serve(Witness(), **limits)
    for head, address in product(HEADS, (UNTRUSTED, TRUSTED)):
        await outcome(experienced, head, address)
    assert experienced.service.known_heads.sections
    for head, address in product(HEADS, (UNTRUSTED, TRUSTED)):
        expected = await first_outcome(Worker(Witness(), limits), head, address)
        assert await outcome(experienced, head, address) == expected, (head, address)


@asyncio_only
async def test_every_line_before_every_section_is_the_same_to_an_asgi_application(serve: Serve) -> None:
    experienced = serve.asgi(ASGIWitness())
    for head in HEADS * 3:
        expected = await first_outcome(ASGIWorker(ASGIWitness(), {}), head)
        assert await outcome(experienced, head, UNTRUSTED) == expected, head


BEFORE_A_BODY = b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
KEPT_WITHOUT_HOST = b"GET / HTTP/%b\r\nConnection: keep-alive\r\n\r\n"


@pytest.mark.parametrize(
    ("learnt", "sent"),
    [
        pytest.param(BEFORE_A_BODY + b"0\r\n\r\n" + get(), BEFORE_A_BODY, id="before another"),
        pytest.param(b"\r\n" + get(), get().replace(b"Host", b"\r\nHost"), id="behind an empty line"),
        pytest.param(KEPT_WITHOUT_HOST % b"1.0", KEPT_WITHOUT_HOST % b"1.1", id="of another version"),
        pytest.param(get("/", "Connection: close"), get("/", "Connection: close"), id="last of its connection"),
    ],
)
async def test_a_head_is_remembered_only_as_it_was_sent_and_by_itself(serve: Serve, learnt: bytes, sent: bytes) -> None:
    experienced = serve(Witness())
    for usual in [get(), get("/", "X: y"), learnt] * 2:
        await outcome(experienced, usual, UNTRUSTED)
    expected = await first_outcome(Worker(Witness(), {}), sent)
    assert await outcome(experienced, sent, UNTRUSTED) == expected


async def test_a_known_head_is_read_without_the_parser(serve: Serve) -> None:
    client = serve().connect()
    few = await calls_of(client, get("/"), HELLO)
    many = await calls_of(client, get("/", *(f"X-{number}: a" for number in range(20))), HELLO)
    assert many == few
    assert not [name for name in few if ".on_" in name]


async def test_a_known_section_goes_with_every_known_line(serve: Serve) -> None:
    app = Witness()
    client = serve(app).connect()
    for path, field in [("/a", "X: 1"), ("/b", "X: 2")] * 2:
        await client.ask(get(path, field))
    with Calls() as calls:
        client.send(get("/a", "X: 2"))
        await turn()
    assert not [name for name in calls if ".on_" in name]
    assert app.calls[-1]["path"] == "/a"
    assert app.calls[-1]["fields"] == [["host", "a"], ["x", "2"]]


async def test_what_an_application_makes_of_its_fields_is_its_own(serve: Serve) -> None:
    seen: list[Any] = []

    async def app(message: dict, channels: dict) -> None:
        seen.append([list(field) for field in message["headers"]])
        message["headers"][0][1] = b"changed"
        message["headers"].append([b"x", b"more"])
        await channels["reply"].send({"status": 200, "content": b""})

    client = serve(app).connect()
    for _ in range(4):
        await client.ask(get())
    assert seen == [[[b"host", b"a"]]] * 4


async def test_what_an_asgi_application_makes_of_its_fields_is_its_own(serve: Serve) -> None:
    seen: list[Any] = []

    async def app(scope: dict, receive: Any, send: Any) -> None:
        seen.append(scope["headers"][:])
        scope["headers"].append((b"x", b"more"))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    client = serve.asgi(app).connect()
    for _ in range(4):
        await client.ask(get())
    assert seen == [[(b"host", b"a")]] * 4


@pytest.mark.parametrize("cut", range(1, len("GET ")))
async def test_a_known_head_behind_part_of_another_is_no_request(serve: Serve, cut: int) -> None:
    """The parser has the first bytes of a method, from the end of the piece before."""
    worker = serve()
    client = worker.connect()
    await learn(worker, get())
    assert await client.ask(post("/", b"body") + b"GET "[:cut]) == HELLO
    assert (await client.ask(get())).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert client.state == "half-closed"


@pytest.mark.parametrize("sent", [b"\0", b"UNKNOWN / HTTP/1.1\r\n\r\n", b"\r\n", b"G"])
@pytest.mark.parametrize("last", ["HEAD", "GET"])
async def test_what_is_refused_before_its_method_is_read_is_told_why(serve: Serve, last: str, sent: bytes) -> None:
    """The answer has no body for a HEAD request, which neither the last one nor the last that was parsed decides."""
    worker = serve(keepalive=75.0)
    client = worker.connect()
    await learn(worker, get())
    for method in "GET", "HEAD", last:
        await client.ask(get().replace(b"GET", method.encode()))
    client.send(sent)
    await worker.seconds_until_end(client)
    head, _, content = client.take().partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d\r\n" % len(content) in head
    assert content


async def test_a_known_head_pays_for_no_empty_lines(serve: Serve) -> None:
    """They are counted from the request before them, whoever has read that, and however it came."""
    long = get("/", "X: " + "y" * 500)
    for requests in [get()], [get(), get()], [get(), long], [get(), long, get()]:
        worker = serve(field_count_limit=100)
        await learn(worker, get())
        client = worker.connect()
        for request in requests:
            assert await client.ask(request) == HELLO
        assert await client.ask(b"\r\n" * (BLANK_BYTES // 2)) == b""
        assert await client.ask(get()) == HELLO


async def test_a_body_past_the_bound_stops_the_socket_being_read_behind_a_known_head(serve: Serve) -> None:
    app = Gate()
    client = serve(app, request_body_buffer=4).connect()
    for body, reads in (b"four", True), (b"fives", False):
        for _ in range(4):
            client.send(post("/", body))
            await turn()
            assert client.transport.reading is reads
            await app.open()
            assert client.take() == ok("/")
            assert client.transport.reading


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(get("/last", "Connection: close"), id="close"),
        pytest.param(b"GET /last HTTP/1.0\r\n\r\n", id="1.0"),
        pytest.param(post("/last", b"body", "Connection: close"), id="body"),
        pytest.param(b"GET /last HTTP/1.1\r\n\r\n", id="refused"),
    ],
)
async def test_a_known_head_behind_the_last_request_is_dropped(serve: Serve, last: bytes) -> None:
    app = Gate()
    client = serve(app).connect()
    for _ in range(2):
        client.send(get("/known"))
        await turn()
        await app.open()
    client.send(last, get("/known"))
    await turn()
    client.send(get("/known"))
    await app.open_all()
    client.send(get("/known"))
    await turn()
    assert app.calls.count("/known") == 2
    assert client.received.count(b"HTTP/1.1 ") == 3


async def test_a_known_head_behind_an_upgrade_is_for_the_other_protocol(serve: Serve) -> None:
    received = bytearray()
    app = Echo()
    worker = serve(app)
    accepted = asyncio.Event()

    class Tea(UpgradedProtocol):
        def data_received(self, data: bytes) -> None:
            received.extend(data)

    async def brew(upgrade: Upgrade) -> None:
        await accepted.wait()
        upgrade.switch(Tea(upgrade))

    worker.service.upgrades[b"tea"] = brew
    client = worker.connect()
    await learn(worker, get("/known"))
    assert await client.ask(get("/", "Connection: Upgrade", "Upgrade: tea"), get("/known")) == b""
    accepted.set()
    await client.ask(get("/known"))
    assert bytes(received) == get("/known") * 2
    assert app.calls == ["GET /known"] * 2


@asyncio_only  # uvloop passes more to a task factory than that of Python 3.13.0 takes
@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 and later")
async def test_a_body_comes_behind_a_known_head_to_a_task_that_begins_at_once(serve: Serve) -> None:
    """What is still to come of it decides about the connection."""
    wants_body = [True, True, False]

    async def app(message: dict, channels: dict) -> None:
        if wants_body.pop(0):
            await channels["body"].receive()
        await channels["reply"].send({"status": 204})

    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        client = serve(app, unread_body_limit=0).connect()
        for _ in range(2):
            assert b"\r\nconnection: close\r\n" not in await client.ask(post("/", b"body"))
        assert b"\r\nconnection: close\r\n" in await client.ask(post("/", b"body"))
    finally:
        loop.set_task_factory(None)


async def test_a_known_head_within_a_body_is_content(serve: Serve) -> None:
    worker = serve(Echo())
    await learn(worker, get("/known"))
    client = worker.connect()
    body = get("/known")
    head = post("/", body)[: -len(body)]
    assert await client.ask(head, body) == ok(b"POST / " + body)


async def test_known_heads_in_a_row_are_answered_in_order(serve: Serve) -> None:
    worker = serve(Echo())
    await learn(worker, get("/a"), get("/b"))
    client = worker.connect()
    client.send(get("/a"), get("/b"), get("/a"))
    await turn(30)
    assert client.take() == ok("GET /a ") + ok("GET /b ") + ok("GET /a ")


async def test_a_worker_that_stops_says_so_in_answer_to_a_known_head(serve: Serve) -> None:
    worker = serve()
    await learn(worker, get())
    client = worker.connect()
    assert await client.ask(get()) == HELLO
    worker.drain()
    assert b"\r\nconnection: close\r\n" in await client.ask(get())
    assert client.state == "closed"


async def test_a_known_head_behind_the_last_that_a_stopping_worker_answers_is_dropped(serve: Serve) -> None:
    app = Gate()
    worker = serve(app)
    client = worker.connect()
    for _ in range(2):
        client.send(get("/known"))
        await turn()
        await app.open()
    worker.drain()
    for _ in range(3):
        client.send(get("/known"))
        await turn()
    await app.open_all()
    assert app.calls == ["/known"] * 3
    assert client.received.count(b"HTTP/1.1 ") == 3
    assert client.state == "closed"


@pytest.mark.parametrize("limit", [{"request_line_limit": 20}, {"field_size_limit": 20}, {"field_count_limit": 2}])
async def test_a_head_that_is_over_a_limit_is_so_again(serve: Serve, limit: dict[str, int]) -> None:
    worker = serve(Witness(), **limit)
    heads = [get(), get("/" + "a" * 20), get("/", "X: " + "y" * 20), get("/", "X: y", "X: z")]
    expected = [await first_outcome(Worker(Witness(), limit), head) for head in heads]
    assert any(reply.startswith(b"HTTP/1.1 4") for reply, _, _ in expected)
    for _ in range(4):
        assert [await outcome(worker, head, UNTRUSTED) for head in heads] == expected


async def test_no_more_is_remembered_than_a_bound(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    known = worker.service.known_heads
    for number in range(1500):
        for _ in range(2):
            client.send(get(f"/{number}", f"X: {number}"), post(f"/{number}", b"body", f"X: {number}"))
            await turn(4)
        assert len(known.lines) <= 1024
        assert len(known.sections) + len(known.sections_of_bodies) <= 256
    assert known.lines
    assert known.sections
    assert known.sections_of_bodies
    client.take()
    assert await client.ask(get("/1499", "X: 1499")) == HELLO


def test_what_is_known_already_takes_no_place_of_others() -> None:
    known, request, section = KnownHeads(), ("GET", None), Section((), True, (), False)
    for number in range(1024):
        known.add(b"%d" % number, request, b"%d" % (number % 256), section, number % 2)
    known.add(b"0", request, b"0", section, 0)
    known.add(b"1", request, b"1", section, 1)
    assert (len(known.lines), len(known.sections), len(known.sections_of_bodies)) == (1024, 128, 128)
    known.add(b"new", request, b"new", section, 0)
    assert (known.lines, known.sections, known.sections_of_bodies) == ({b"new": request}, {b"new": section}, {})


@pytest.mark.parametrize("head", [get("/" + "a" * 600), get("/", *["X: y"] * 80)], ids=["line", "fields"])
async def test_a_head_that_would_take_much_memory_is_read_again(serve: Serve, head: bytes) -> None:
    worker = serve()
    client = worker.connect()
    for _ in range(3):
        assert await client.ask(head) == HELLO
    assert not worker.service.known_heads.sections


async def test_a_head_that_is_too_long_to_be_remembered_is_read_again(serve: Serve) -> None:
    worker = serve()
    client = worker.connect()
    for _ in range(3):
        assert await client.ask(get("/", "X: " + "y" * MOST_BYTES)) == HELLO
    assert not worker.service.known_heads.sections


@pytest.mark.unmeasured
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.sampled_from(HEADS), max_size=4),
    st.sampled_from(HEADS),
    st.floats(0, 1),
    st.sampled_from([b"", b"\r\n", b"\n", b"\r", b" ", b"\0", b":", b"G", b"Content-Length: 1\r\n"]),
    st.integers(0, 3),
)
def test_what_is_almost_a_known_head_is_read_by_itself(
    before: list[bytes], head: bytes, place: float, junk: bytes, length: int
) -> None:
    at = round(place * len(head))
    changed = head[:at] + junk + head[at + length :]

    async def compare() -> None:
        experienced = Worker(Witness(), {})
        for other in [*before, head, changed] * 2:
            await outcome(experienced, other, UNTRUSTED)
        expected = await first_outcome(Worker(Witness(), {}), changed)
        assert await outcome(experienced, changed, UNTRUSTED) == expected
        await experienced.close()

    run(compare())
