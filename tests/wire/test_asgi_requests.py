"""What an ASGI 3 application is told of a request: its scope and its body."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .asgi_apps import NO_BODY, Puppet, asgi_hello, last, request, start
from .conftest import Serve
from .harness import HELLO, chunked, get, ok, post, turn


async def scope_of(serve: Serve, head: bytes, **settings: Any) -> dict[str, Any]:
    app = Puppet()
    await serve.asgi(app, **settings).connect().ask(head)
    [scope] = app.scopes
    return scope


# The scope.


async def test_the_scope_is_that_of_the_specification(serve: Serve) -> None:
    head = b"POST /a%20b/c?x=%20y&z HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-b:  2 \r\nX-A: 3\r\nContent-Length: 1\r\n\r\n"
    scope = await scope_of(serve, head)
    groups = scope["extensions"].pop("uvicorn_worker.groups")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a b/c",
        "raw_path": b"/a%20b/c",
        "query_string": b"x=%20y&z",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"content-length", b"1")],
        "client": ("192.0.2.7", 50007),
        "server": ("192.0.2.1", 80),
        "state": {},
        "extensions": {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.trailers": {},
        },
    }
    assert list(groups) == ["channel", "send"]


async def test_header_pairs_are_tuples_in_a_list(serve: Serve) -> None:
    headers = (await scope_of(serve, get("/", "X-A: 1")))["headers"]
    assert type(headers) is list
    assert {type(pair) for pair in headers} == {tuple}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/caf%C3%A9", "/caf\xe9"),
        ("/a%2Fb", "/a/b"),
        ("/a%252F", "/a%2F"),
        ("/a+b", "/a+b"),
        ("/%FF", "/\ufffd"),
        ("/100%", "/100%"),
        ("/%zz", "/%zz"),
        ("//a//b/../c", "//a//b/../c"),
    ],
)
async def test_the_path_is_decoded_as_utf_8_and_nothing_else_is_done_to_it(
    serve: Serve, target: str, path: str
) -> None:
    scope = await scope_of(serve, get(f"{target}?{target}"))
    assert scope["path"] == path
    assert scope["raw_path"] == target.encode()
    assert scope["query_string"] == target.encode()


async def test_the_root_path_stands_before_the_path_and_the_raw_path(serve: Serve) -> None:
    scope = await scope_of(serve, get("/a%20b?c"), root_path="/mount")
    assert scope["root_path"] == "/mount"
    assert scope["path"] == "/mount/a b"
    assert scope["raw_path"] == b"/mount/a%20b"
    assert scope["query_string"] == b"c"


async def test_an_absolute_target_is_told_as_its_path(serve: Serve) -> None:
    scope = await scope_of(serve, b"GET http://b/x%20y?z HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/x y", b"/x%20y", b"z")
    assert scope["headers"] == [(b"host", b"b")]


async def test_http_1_0_is_told(serve: Serve) -> None:
    assert (await scope_of(serve, b"GET / HTTP/1.0\r\n\r\n"))["http_version"] == "1.0"


async def test_the_clients_of_a_unix_socket_have_no_address(serve: Serve) -> None:
    app = Puppet()
    await serve.asgi(app).connect(client=None, server=("/run/a.sock", None)).ask(get())
    assert app.scopes[0]["client"] is None
    assert app.scopes[0]["server"] == ("/run/a.sock", None)


async def test_what_one_request_does_to_its_scope_another_does_not_see(serve: Serve) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        seen.append((dict(scope), dict(scope["extensions"]), dict(scope["state"]), list(scope["headers"])))
        scope["extensions"]["mine"] = scope["state"]["mine"] = scope["mine"] = scope["path"]
        scope["headers"].clear()
        await asgi_hello(scope, receive, send)

    seen: list[Any] = []
    client = serve.asgi(app).connect()
    for _ in range(2):
        assert await client.ask(get()) == HELLO
    assert [list(extensions) for _, extensions, _, _ in seen] == [list(seen[0][1])] * 2
    assert "mine" not in seen[1][0]
    assert seen[1][2] == {}
    assert seen[0][3] == seen[1][3] == [(b"host", b"a")]


async def test_each_request_gets_a_shallow_copy_of_the_state(serve: Serve) -> None:
    app = Puppet()
    worker = serve.asgi(app)
    pool: list[str] = []
    worker.service.state = {"pool": pool}
    await worker.connect().ask(get())
    await worker.connect().ask(get())
    one, two = (scope["state"] for scope in app.scopes)
    assert one == {"pool": pool}
    assert one is not two
    assert one is not worker.service.state
    assert one["pool"] is two["pool"] is pool


# The body.


async def test_a_request_without_a_body_has_one_empty_event(serve: Serve) -> None:
    app = Puppet()
    await serve.asgi(app).connect().ask(get())
    assert await app.receives() == NO_BODY


BODIES = {
    "a length": post("/", b"hello"),
    "chunks": chunked("/", b"he", b"llo"),
    "an empty body": post("/", b""),
    "no chunks": chunked("/"),
}


@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
async def test_a_body_ends_with_the_event_that_has_no_more(serve: Serve, sent: bytes) -> None:
    async def app(scope: dict, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            assert event.keys() == {"type", "body", "more_body"}
            body += event["body"]
            more = event["more_body"]
        await send(start())
        await send(last(body))

    worker = serve.asgi(app)
    body = b"" if sent in (BODIES["an empty body"], BODIES["no chunks"]) else b"hello"
    assert await worker.connect().ask(sent) == ok(body)
    assert await worker.connect().ask_slowly(*(bytes((byte,)) for byte in sent)) == ok(body)


async def test_a_body_is_received_as_it_comes(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    sent = post("/", b"onetwo")
    await client.ask(sent[:-3])
    assert await app.receives() == request(b"one", more=True)
    rest = await app.begins(app.receive())
    assert not rest.done()
    await client.ask(sent[-3:])
    assert rest.result() == request(b"two", more=False)


async def test_a_body_that_nobody_receives_is_not_buffered_past_the_bound(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app, request_body_buffer=1000).connect()
    sent = post("/", bytes(20_000))
    client.send(*(sent[begin : begin + 500] for begin in range(0, len(sent), 500)))
    await turn()
    assert not client.transport.reading
    assert client.transport.unread > 15_000
    size = 0
    while (event := await app.receives())["more_body"]:
        size += len(event["body"])
    assert size + len(event["body"]) == 20_000
    assert client.transport.reading


async def test_the_first_receive_asks_for_a_body_that_waits_to_be_asked(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    sent = post("/", b"hello", "Expect: 100-continue")
    assert await client.ask(sent[:-5]) == b""
    received = await app.begins(app.receive())
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.ask(b"hello")
    assert received.result() == request(b"hello", more=False)


async def test_a_second_task_that_receives_waits_for_the_next_part(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    sent = post("/", b"hello")
    await client.ask(sent[:-5])
    received = await app.begins(app.receive())
    other = asyncio.ensure_future(app.receive())
    await turn()
    await client.ask(b"he")
    assert received.result() == request(b"he", more=True)
    assert not other.done()
    await client.ask(b"llo")
    assert await other == request(b"llo", more=False)


async def test_a_look_for_a_disconnect_does_not_disturb_the_task_that_receives(serve: Serve) -> None:
    app = Puppet()
    client = serve.asgi(app).connect()
    sent = post("/", b"hello")
    await client.ask(sent[:-5])
    received = await app.begins(app.receive())
    look = asyncio.ensure_future(app.receive())  # as Request.is_disconnected of Starlette does it
    await turn()
    look.cancel()
    await client.ask(b"hello")
    assert received.result() == request(b"hello", more=False)
    assert look.cancelled()


async def test_files_by_their_path_are_offered_unless_an_option_says_not(serve: Serve) -> None:
    offered: list[bool] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        offered.append("http.response.pathsend" in scope["extensions"])
        await asgi_hello(scope, receive, send)

    for pathsend in (True, False):
        await serve.asgi(app, pathsend=pathsend).connect().ask(get())
    assert offered == [True, False]
