"""What an application is told of a client behind proxies, by the fields that they add."""

from __future__ import annotations

from typing import Any

import pytest

from .asgi_apps import last, start
from .conftest import Serve
from .harness import HELLO, Client, Worker, chunked, get, ok, post, turn
from .test_observe import observe
from .websocket_client import handshake

PROXY = ("127.0.0.1", 50007)
STRANGER = ("198.51.100.9", 50007)
CLIENT = ("203.0.113.7", 0)

FOR = "X-Forwarded-For: 203.0.113.7"
HTTPS = "X-Forwarded-Proto: https"

interfaces = pytest.mark.parametrize("interface", ["channels", "asgi"])


class Told:
    """Applications of both interfaces that keep what they are told and answer ``hello``."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def channels(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        self.calls.append(message)
        await channels["reply"].send({"status": 200, "content": b"hello"})

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.calls.append(scope)
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close"})
        await send(start(200))
        await send(last(b"hello"))

    def serve(self, serve: Serve, interface: str, **settings: Any) -> Worker:
        return serve(self.channels, **settings) if interface == "channels" else serve.asgi(self.asgi, **settings)

    def take(self) -> list[tuple[Any, str]]:
        """The client and the scheme of each call since the last look."""
        taken = [(call["client"], call["scheme"]) for call in self.calls]
        self.calls.clear()
        return taken


async def told(
    serve: Serve, interface: str, *fields: str, peer: Any = PROXY, **settings: Any
) -> list[tuple[Any, str]]:
    """What the application is told of one request."""
    app = Told()
    client = app.serve(serve, interface, **settings).connect(client=peer)
    assert await client.ask(get("/", *fields)) == HELLO
    return app.take()


@interfaces
async def test_a_trusted_peer_tells_of_client_and_scheme(serve: Serve, interface: str) -> None:
    assert await told(serve, interface) == [(PROXY, "http")]
    assert await told(serve, interface, FOR) == [(CLIENT, "http")]
    assert await told(serve, interface, HTTPS) == [(PROXY, "https")]
    assert await told(serve, interface, FOR, HTTPS) == [(CLIENT, "https")]
    assert await told(serve, interface, "x-FORWARDED-for: 203.0.113.7:99 ") == [(("203.0.113.7", 99), "http")]


@interfaces
async def test_a_stranger_tells_nothing(serve: Serve, interface: str) -> None:
    assert await told(serve, interface, FOR, HTTPS, peer=STRANGER) == [(STRANGER, "http")]
    assert await told(serve, interface, HTTPS, "X-Forwarded-Ssl: off", peer=STRANGER) == [(STRANGER, "http")]


@interfaces
async def test_nobody_is_believed_where_the_option_is_off(serve: Serve, interface: str) -> None:
    for peer in (PROXY, None):
        assert await told(serve, interface, FOR, HTTPS, peer=peer, proxy_headers=False) == [(peer, "http")]


@interfaces
async def test_the_peer_at_a_unix_socket_is_trusted(serve: Serve, interface: str) -> None:
    assert await told(serve, interface, peer=None) == [(None, "http")]
    assert await told(serve, interface, FOR, HTTPS, peer=None, forwarded_allow_ips=()) == [(CLIENT, "https")]


@interfaces
async def test_lines_of_one_name_are_one_chain(serve: Serve, interface: str) -> None:
    fields = ("X-Forwarded-For: 1.1.1.1", FOR, "Accept: */*", "X-Forwarded-For: 10.0.0.1, 127.0.0.1")
    allowed = ("127.0.0.1", "10.0.0.0/8")
    assert await told(serve, interface, *fields, forwarded_allow_ips=allowed) == [(CLIENT, "http")]


@interfaces
async def test_what_names_nobody_leaves_the_peer(serve: Serve, interface: str) -> None:
    assert await told(serve, interface, "X-Forwarded-For:") == [(PROXY, "http")]
    assert await told(serve, interface, "X-Forwarded-For: 203.0.113.7, ,") == [(PROXY, "http")]


@interfaces
async def test_the_fields_themselves_are_shown_as_ever(serve: Serve, interface: str) -> None:
    app = Told()
    client = app.serve(serve, interface).connect(client=PROXY)
    await client.ask(get("/", FOR, HTTPS))
    headers = [(name, value) for name, value in app.calls[0]["headers"]]
    assert headers == [(b"host", b"a"), (b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https")]


@interfaces
async def test_each_request_of_a_connection_is_told_for_itself(serve: Serve, interface: str) -> None:
    app = Told()
    client = app.serve(serve, interface, keepalive=5).connect(client=PROXY)
    requests = [get("/", FOR, HTTPS), get("/"), get("/", HTTPS), get("/", "X-Forwarded-For: 203.0.113.8"), get("/")]
    expected = [(CLIENT, "https"), (PROXY, "http"), (PROXY, "https"), (("203.0.113.8", 0), "http"), (PROXY, "http")]
    for request, one in zip(requests, expected, strict=True):
        assert await client.ask(request) == HELLO
        assert app.take() == [one]
    assert await client.ask(b"".join(requests)) == HELLO * 5
    assert app.take() == expected
    assert await client.ask_slowly(*(bytes((byte,)) for byte in b"".join(requests))) == HELLO * 5
    assert app.take() == expected


@interfaces
async def test_it_makes_no_difference_what_else_is_unusual(serve: Serve, interface: str) -> None:
    app = Told()
    worker = app.serve(serve, interface)
    for request in (post("/", b"abc", FOR, HTTPS), get("/", FOR, HTTPS, "Connection: close")):
        await worker.connect(client=PROXY).ask(request)
        assert app.take() == [(CLIENT, "https")]
    await worker.connect(client=PROXY).ask(get("/", FOR, HTTPS, version="1.0"))
    assert app.take() == [(CLIENT, "https")]


@interfaces
async def test_trailers_tell_nothing(serve: Serve, interface: str) -> None:
    app = Told()
    client = app.serve(serve, interface).connect(client=PROXY)
    trailers = b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n"
    await client.ask(chunked("/", b"abc", trailers=trailers))
    await client.ask(get("/"))
    assert app.take() == [(PROXY, "http"), (PROXY, "http")]


@interfaces
async def test_a_tls_connection_may_carry_what_came_in_the_clear(serve: Serve, interface: str) -> None:
    app = Told()
    worker = app.serve(serve, interface)
    worker.service.scheme = "https"
    own = {"__slots__": (), "describe_tls": lambda template, connection: None}
    worker.exchange_class = type("Exchange", (worker.exchange_class,), own)
    client = worker.connect(client=PROXY)
    await client.ask(get("/"))
    await client.ask(get("/", "X-Forwarded-Proto: http"))
    assert app.take() == [(PROXY, "https"), (PROXY, "http")]


# WebSockets.


@interfaces
@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ((), "ws"),
        ((HTTPS,), "wss"),
        (("X-Forwarded-Proto: wss",), "wss"),
        (("X-Forwarded-Proto: ws",), "ws"),
        (("X-Forwarded-Proto: http",), "ws"),
        (("X-Forwarded-Ssl: on",), "wss"),
    ],
)
async def test_a_websocket_has_a_scheme_of_its_own(
    serve: Serve, interface: str, fields: tuple[str, ...], scheme: str
) -> None:
    app = Told()
    worker = app.serve(serve, interface)
    worker.connect(client=PROXY).send(handshake("/", FOR, *fields))
    await turn()
    assert app.calls[0].get("method") is None
    assert (app.calls[0]["client"], app.calls[0]["scheme"]) == (CLIENT, scheme)
    worker.log.take()


@interfaces
async def test_a_request_that_says_wss_came_by_https(serve: Serve, interface: str) -> None:
    assert await told(serve, interface, "X-Forwarded-Proto: wss") == [(PROXY, "https")]
    assert await told(serve, interface, "X-Forwarded-Proto: ws") == [(PROXY, "http")]


# Contradictions.


async def refused(client: Client, request: bytes) -> None:
    reply = await client.ask(request)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert client.has_ended


@interfaces
@pytest.mark.parametrize("make", [get, handshake])
async def test_fields_that_contradict_each_other_are_refused(serve: Serve, interface: str, make: Any) -> None:
    app = Told()
    worker = app.serve(serve, interface)
    for other in ("X-Forwarded-Ssl: off", "X-Forwarded-Proto: http", "X-Forwarded-Protocol: tls"):
        await refused(worker.connect(client=PROXY), make("/", HTTPS, other) + get("/next"))
    assert app.take() == []


async def test_a_contradiction_is_answered_in_its_turn(serve: Serve) -> None:
    client = serve().connect(client=PROXY)
    reply = await client.ask(get("/") + get("/", HTTPS, "X-Forwarded-Ssl: off") + get("/"))
    assert reply.startswith(HELLO + b"HTTP/1.1 400 Bad Request\r\n")
    assert reply.count(b"HTTP/1.1 ") == 2


# Settings of one's own.


@interfaces
async def test_other_fields_can_tell_the_scheme(serve: Serve, interface: str) -> None:
    settings = {"secure_scheme_headers": ((b"host", b"a"),)}
    assert await told(serve, interface, FOR, **settings) == [(CLIENT, "https")]
    settings = {"secure_scheme_headers": ((b"x-secure", b"Yes"),)}
    assert await told(serve, interface, FOR, "X-Secure: Yes ", **settings) == [(CLIENT, "https")]
    assert await told(serve, interface, "X-Secure: no", **settings) == [(PROXY, "http")]
    assert await told(serve, interface, HTTPS, **settings) == [(PROXY, "http")]
    assert await told(serve, interface, "X-Secure: Yes", peer=STRANGER, **settings) == [(STRANGER, "http")]


UNDERSCORED = ("X_Forwarded_For: 1.1.1.1", "X-A: b", "SCRIPT_NAME: /mount", "X_Api_Key: secret")


@interfaces
@pytest.mark.parametrize(
    ("settings", "peer", "names"),
    [
        ({}, STRANGER, [b"host", b"x_forwarded_for", b"x-a", b"script_name", b"x_api_key"]),
        ({"header_map": "drop"}, STRANGER, [b"host", b"x-a"]),
        ({"header_map": "drop"}, PROXY, [b"host", b"x-a", b"script_name"]),
        ({"header_map": "drop"}, None, [b"host", b"x-a", b"script_name"]),
        ({"header_map": "drop", "forwarder_headers": ()}, PROXY, [b"host", b"x-a"]),
        (
            {"header_map": "refuse", "forwarder_headers": (b"*",)},
            PROXY,
            [b"host", b"x_forwarded_for", b"x-a", b"script_name", b"x_api_key"],
        ),
    ],
)
async def test_names_with_an_underscore_pass_or_are_dropped(
    serve: Serve, interface: str, settings: dict[str, Any], peer: Any, names: list[bytes]
) -> None:
    app = Told()
    client = app.serve(serve, interface, **settings).connect(client=peer)
    assert await client.ask(get("/", *UNDERSCORED)) == HELLO
    assert [name for name, _ in app.calls[0]["headers"]] == names
    assert app.take() == [(peer, "http")]


@interfaces
async def test_names_with_an_underscore_are_refused(serve: Serve, interface: str) -> None:
    app = Told()
    worker = app.serve(serve, interface, header_map="refuse")
    for request in (get("/", "X_A: b"), handshake("/", "X_A: b"), post("/", b"abc", "X_A: b")):
        for peer in (PROXY, STRANGER):
            await refused(worker.connect(client=peer), request)
    assert app.calls == []
    assert await worker.connect(client=PROXY).ask(get("/", "PATH_INFO: /a")) == HELLO


async def test_names_in_trailers_are_not_looked_at(serve: Serve) -> None:
    app = Told()
    client = serve(app.channels, header_map="refuse").connect()
    assert await client.ask(chunked("/", b"a", trailers=b"X_A: b\r\n"), get("/")) == HELLO * 2


# What the access log is told.


async def test_the_access_log_has_the_peer_and_the_scheme_of_the_request(serve: Serve) -> None:
    worker = serve(forwarded_allow_ips=("127.0.0.1",))
    access = observe(worker)
    assert await worker.connect(client=PROXY).ask(get("/", FOR, HTTPS)) == ok("hello")
    [(_, _, environ, _)] = access.records
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", "50007")
    assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.7"
    assert environ["wsgi.url_scheme"] == "https"


MAPPED = ("X-Real-IP: 1.1.1.1", "X_Real_IP: 6.6.6.6", "X_Api_Key: secret", "SCRIPT_NAME: /a", "Content_Length: 99")


async def environ(serve: Serve, peer: Any, **settings: Any) -> dict[str, Any]:
    """The variables of fields that hooks and loggers are shown of one request."""
    app = Told()
    worker = serve(app.channels, **settings)
    access = observe(worker)
    assert await worker.connect(client=peer).ask(post("/", b"", *MAPPED)) == ok("hello")
    [(_, _, variables, _)] = access.records
    names = ("HTTP_X_REAL_IP", "HTTP_X_API_KEY", "HTTP_SCRIPT_NAME", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH")
    return {name: variables[name] for name in names if name in variables}


PLAIN = {"HTTP_X_REAL_IP": "1.1.1.1", "CONTENT_LENGTH": "0"}
ALL = {
    "HTTP_X_REAL_IP": "1.1.1.1,6.6.6.6",
    "HTTP_X_API_KEY": "secret",
    "HTTP_SCRIPT_NAME": "/a",
    "CONTENT_LENGTH": "0",
    "HTTP_CONTENT_LENGTH": "99",
}


@pytest.mark.parametrize(
    ("settings", "peer", "variables"),
    [
        ({}, STRANGER, PLAIN),
        ({}, PROXY, PLAIN | {"HTTP_SCRIPT_NAME": "/a"}),
        ({"forwarder_headers": ()}, PROXY, PLAIN),
        ({"forwarder_headers": (b"*",)}, PROXY, ALL),
        ({"forwarder_headers": (b"*",)}, STRANGER, PLAIN),
        ({"header_map": "drop"}, STRANGER, PLAIN),
        ({"header_map": "dangerous"}, STRANGER, ALL),
    ],
)
async def test_no_variable_is_made_of_a_name_that_could_be_taken_for_another(
    serve: Serve, settings: dict[str, Any], peer: Any, variables: dict[str, str]
) -> None:
    assert await environ(serve, peer, **settings) == variables
