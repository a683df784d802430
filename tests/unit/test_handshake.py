"""Whether a request may become a WebSocket, and what is agreed."""

from __future__ import annotations

from typing import Any

import pytest

from uvicorn_worker.config import Settings
from uvicorn_worker.errors import InvalidReply, RequestRefused
from uvicorn_worker.websocket.handshake import Handshake, accepting_fields, negotiate

GOOD = {
    b"host": b"a",
    b"connection": b"Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version": b"13",
}
ACCEPT = (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


def agree(*more: tuple[bytes, bytes], method: str = "GET", **settings: Any) -> Handshake:
    """What is agreed on a good handshake with these fields: those that a good one has too stand in for its own."""
    given = {name for name, _ in more}
    fields = [[name, value] for name, value in GOOD.items() if name not in given]
    return negotiate(method, [*fields, *map(list, more)], Settings(**settings))


def extensions(offer: bytes, **settings: Any) -> bytes | None:
    """The answer to an offer of extensions."""
    fields = agree((b"sec-websocket-extensions", offer), **settings).fields
    return dict(fields).get(b"Sec-WebSocket-Extensions")


def test_the_key_is_answered_as_the_rfc_has_it() -> None:
    assert agree().fields == [ACCEPT]
    assert agree().subprotocols == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"connection", b"keep-alive, Upgrade"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"WebSocket"),
        (b"upgrade", b"h2c, websocket"),
        (b"origin", b"https://example.org"),
        (b"sec-websocket-extensions", b"x-unknown; a=b, x-other"),
    ],
)
def test_a_handshake_may_look_a_little_different(name: bytes, value: bytes) -> None:
    assert agree((name, value)).fields == [ACCEPT]


BAD = {
    "no key": [(b"sec-websocket-key", b"")],
    "a key of 15 bytes": [(b"sec-websocket-key", b"MDEyMzQ1Njc4OWFiY2Rl")],
    "a key of 17 bytes": [(b"sec-websocket-key", b"MDEyMzQ1Njc4OWFiY2RlZmc=")],
    "a key that is not base64": [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=!")],
    "a key that is not ASCII": [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZ\xff==")],
    "two keys": [(b"sec-websocket-key", GOOD[b"sec-websocket-key"])] * 2,
    "two versions": [(b"sec-websocket-version", b"13")] * 2,
    "two origins": [(b"origin", b"https://a"), (b"origin", b"https://b")],
    "subprotocols that are no tokens": [(b"sec-websocket-protocol", b"a b")],
    "subprotocols that are empty": [(b"sec-websocket-protocol", b"")],
    "extensions that are no list": [(b"sec-websocket-extensions", b"permessage-deflate; =")],
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD)
def test_a_bad_handshake_is_refused_with_400(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RequestRefused) as refusal:
        agree(*fields)
    assert refusal.value.status == 400
    assert "\n" not in refusal.value.reason


@pytest.mark.parametrize("name", [b"sec-websocket-key", b"sec-websocket-version"])
def test_a_handshake_that_lacks_a_field_is_refused_with_400(name: bytes) -> None:
    fields = [[field, value] for field, value in GOOD.items() if field != name]
    with pytest.raises(RequestRefused) as refusal:
        negotiate("GET", fields, Settings())
    assert refusal.value.status == 400


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS"])
def test_the_method_of_a_handshake_is_get(method: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        agree(method=method)
    assert refusal.value.status == 400


@pytest.mark.parametrize("version", [b"8", b"12", b"14", b"0", b"13, 8", b"", b"thirteen"])
def test_another_version_is_refused_with_426(version: bytes) -> None:
    with pytest.raises(RequestRefused) as refusal:
        agree((b"sec-websocket-version", version))
    assert refusal.value.status == 426


@pytest.mark.parametrize("name", [b"sec-websocket-protocol", b"sec-websocket-extensions", b"origin"])
def test_lists_that_take_long_to_parse_are_refused(name: bytes) -> None:
    assert agree((name, b",".join([b"a"] * 1900)))
    with pytest.raises(RequestRefused) as refusal:
        agree((name, b",".join([b"a"] * 2100)))
    assert refusal.value.status == 400


# Subprotocols and fields of the application.


def test_subprotocols_are_listed_in_the_order_of_the_client() -> None:
    shaken = agree((b"sec-websocket-protocol", b"chat, superchat"), (b"sec-websocket-protocol", b"a"))
    assert shaken.subprotocols == ["chat", "superchat", "a"]
    assert shaken.fields == [ACCEPT]


def test_one_subprotocol_may_be_accepted() -> None:
    shaken = agree((b"sec-websocket-protocol", b"chat, superchat"))
    assert accepting_fields(shaken, "superchat", ()) == [ACCEPT, (b"Sec-WebSocket-Protocol", b"superchat")]
    assert accepting_fields(shaken, None, ()) == [ACCEPT]


@pytest.mark.parametrize(("subprotocol", "offered"), [("tea", "chat, superchat"), ("Chat", "chat, superchat")])
def test_a_subprotocol_that_was_not_offered_can_not_be_accepted(subprotocol: str, offered: str) -> None:
    shaken = agree((b"sec-websocket-protocol", offered.encode()))
    with pytest.raises(InvalidReply, match=f"not offered the subprotocol '{subprotocol}'; it has: {offered}"):
        accepting_fields(shaken, subprotocol, ())


def test_no_subprotocol_can_be_accepted_where_none_was_offered() -> None:
    with pytest.raises(InvalidReply, match="it has: none"):
        accepting_fields(agree(), "chat", ())


def test_an_application_may_add_fields() -> None:
    fields = [(b"Set-Cookie", b"a=b"), [b"set-cookie", b"c=d"]]
    assert accepting_fields(agree(), None, fields) == [ACCEPT, *fields]
    assert accepting_fields(agree(), None, iter(fields)) == [ACCEPT, *fields]


@pytest.mark.parametrize(
    "name",
    [b"Connection", b"Content-Length", b"Transfer-Encoding", b"upgrade", b"Sec-WebSocket-Accept"]
    + [b"sec-websocket-extensions", b"SEC-WEBSOCKET-PROTOCOL"],
)
def test_what_is_the_handshakes_own_is_no_field_of_an_application(name: bytes) -> None:
    with pytest.raises(InvalidReply, match=f"{name.decode()} is the handshake's own"):
        accepting_fields(agree(), None, [(b"x", b"y"), (name, b"5")])


@pytest.mark.parametrize("fields", [[(b"x", b"a\r\nb: c")], [(b"x y", b"z")], [("x", b"y")], [(b"x",)], 5, None])
def test_what_is_no_field_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidReply):
        accepting_fields(agree(), None, fields)


# Compression.

NO_TAKEOVER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (b"permessage-deflate", NO_TAKEOVER),
        (b"permessage-deflate; client_max_window_bits", NO_TAKEOVER + b"; client_max_window_bits=12"),
        (b"permessage-deflate; client_max_window_bits=15", NO_TAKEOVER + b"; client_max_window_bits=12"),
        (b"permessage-deflate; client_max_window_bits=9", NO_TAKEOVER + b"; client_max_window_bits=9"),
        (b"permessage-deflate; server_max_window_bits=15", NO_TAKEOVER),
        (b"permessage-deflate; server_max_window_bits=10", NO_TAKEOVER.replace(b"12", b"10")),
        (b"permessage-deflate; server_no_context_takeover; client_no_context_takeover", NO_TAKEOVER),
        (b"x-unknown, permessage-deflate", NO_TAKEOVER),
        (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", NO_TAKEOVER),
        (b"permessage-deflate, permessage-deflate; client_max_window_bits", NO_TAKEOVER),
    ],
)
def test_compression_is_agreed_without_takeover_and_with_small_windows(offer: bytes, answer: bytes) -> None:
    assert extensions(offer) == answer


@pytest.mark.parametrize(
    "offer",
    [
        b"permessage-bzip2",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; client_max_window_bits=7",
        b"permessage-deflate; unknown",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; server_no_context_takeover=1",
    ],
)
def test_an_offer_that_can_not_be_met_is_declined(offer: bytes) -> None:
    assert extensions(offer) is None


def test_takeover_is_an_option() -> None:
    answer = b"permessage-deflate; server_max_window_bits=12"
    assert extensions(b"permessage-deflate", ws_context_takeover=True) == answer
    asked = b"permessage-deflate; server_no_context_takeover"
    assert extensions(asked, ws_context_takeover=True) == asked + b"; server_max_window_bits=12"


def test_compression_can_be_switched_off() -> None:
    assert extensions(b"permessage-deflate; client_max_window_bits", ws_per_message_deflate=False) is None
