"""What refusals look like, and what becomes of the connection. Which requests are refused is told by the corpus."""

from __future__ import annotations

import pytest
from corpus import INVALID
from corpus.checks import SMUGGLED

from .conftest import Serve
from .harness import Echo, Gate, asyncio_only, get, ok, turn

#: Cases with a good head.
BAD_BODIES = [name for name, case in INVALID.items() if case.begun]


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


@asyncio_only
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_breaks_the_receive(serve: Serve, name: str) -> None:
    outcomes: list[str] = []

    async def app(message: dict, channels: dict) -> None:
        try:
            while (await channels["body"].receive())["more_content"]:
                pass
        except OSError as error:
            outcomes.append(type(error).__name__)
            raise
        outcomes.append("complete")

    head, end, body = INVALID[name].sent.partition(b"\r\n\r\n")
    client = serve(app).connect()
    assert await client.ask(head + end) == b""
    assert_refused(await client.ask(body + SMUGGLED), 400)
    assert outcomes == ["ClientDisconnected"]


@asyncio_only
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_behind_its_reply_ends_the_connection(serve: Serve, name: str) -> None:
    calls = []

    async def app(message: dict, channels: dict) -> None:
        calls.append(message["path"])
        await channels["reply"].send({"status": 200, "content": b"early"})

    worker = serve(app)
    head, body = INVALID[name].sent.split(b"\r\n\r\n", 1)
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


HEAD_REQUESTS = {
    "no host": b"HEAD / HTTP/1.1\r\n\r\n",
    "a bad target": b"HEAD /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bad version": b"HEAD / HTTP/3.1\r\nHost: a\r\n\r\n",
    "a bad field": b"HEAD / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "a bad body": b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
}


@asyncio_only
@pytest.mark.parametrize("bad", HEAD_REQUESTS.values(), ids=HEAD_REQUESTS)
async def test_a_head_request_is_refused_without_body(serve: Serve, bad: bytes) -> None:
    for before in b"", get():
        client = serve(Echo()).connect()
        await client.ask(before)
        reply = await client.ask(bad)
        assert reply.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 505 "))
        assert reply.endswith(b"connection: close\r\n\r\n")


async def test_a_bad_body_of_a_head_request_that_waits_for_its_turn_is_refused_without_body(serve: Serve) -> None:
    app = Gate()
    client = serve(app).connect()
    client.send(get(), b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"x")
    await turn()
    await app.open_all()
    assert app.calls == ["/"]
    reply = client.take()
    assert b"HTTP/1.1 400 Bad Request\r\n" in reply
    assert reply.endswith(b"connection: close\r\n\r\n")


NO_METHOD = {"garbage": b"ab", "none of our methods": b"FETCH / HTTP/1.1\r\n\r\n"}


@asyncio_only
@pytest.mark.parametrize("bad", NO_METHOD.values(), ids=NO_METHOD)
@pytest.mark.parametrize("content", [b"", b"hello"])
async def test_what_is_refused_behind_a_head_request_for_its_method_has_the_reason(
    serve: Serve, content: bytes, bad: bytes
) -> None:
    before = b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    for cut in len(before), len(before + bad), len(before) - 2:
        client = serve(Echo()).connect()
        received = await client.ask((before + bad)[:cut]) + await client.ask((before + bad)[cut:])
        assert_refused(received[received.index(b"HTTP/1.1", 1) :], None)


async def test_a_method_that_takes_too_long_behind_a_head_request_is_refused_with_the_reason(serve: Serve) -> None:
    worker = serve(Echo())
    client = worker.connect()
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nG")
    await worker.wait(80)
    assert_refused(client.take().partition(b"\r\n\r\n")[2], 408)


async def test_a_refusal_is_one_write_and_has_the_fields_that_every_response_has(serve: Serve) -> None:
    worker = serve(server_header=b"mine", date_header=True)
    client = worker.connect()
    reply = await client.ask(b"GET / HTTP/1.1\r\n\r\n")
    assert reply.startswith(
        b"HTTP/1.1 400 Bad Request\r\nserver: mine\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-type: text/plain"
    )
    assert client.take_writes() == [reply]


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
