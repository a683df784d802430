"""The middleware of 2017: which engine it asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import uvicorn_worker.broadcast
from uvicorn_worker.broadcast import BroadCastMiddleware, BroadcastMiddleware
from uvicorn_worker.broadcast.middleware import choose_engine
from uvicorn_worker.errors import InvalidApplication, InvalidOption
from uvicorn_worker.interfaces.detect import Interface, detect_interface


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    channels["called"] = message


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Is never called."""


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ((), "local:///option"),
        (("localhost", 6379), "redis://localhost:6379"),
        (("example.org",), "redis://example.org:6379"),
        ((None, 6380), "redis://localhost:6380"),
        (("::1", 1), "redis://[::1]:1"),
        (("redis+sentinel://h/main",), "redis+sentinel://h/main"),
    ],
)
def test_its_arguments_name_the_engine_as_long_as_it_is_there(arguments: tuple[Any, ...], url: str) -> None:
    middleware = BroadcastMiddleware(app, *arguments)
    assert choose_engine("local:///option") == url
    del middleware
    assert choose_engine("local:///option") == "local:///option"


def test_two_that_agree_are_as_one_and_two_that_do_not_are_an_error() -> None:
    one, same, bare = BroadcastMiddleware(app, "h"), BroadcastMiddleware(app, "h", 6379), BroadcastMiddleware(app)
    assert choose_engine("local://") == "redis://h:6379"
    other = BroadcastMiddleware(app, "redis://:secret@i")
    with pytest.raises(InvalidOption, match="one engine for all groups, and not h:6379 and i:6379"):
        choose_engine("local://")
    assert (one.groups, same.groups, bare.groups) == ("redis://h:6379", "redis://h:6379", None)
    assert other.app is app


def test_it_calls_its_application() -> None:
    middleware = BroadcastMiddleware(app)
    channels: dict[str, Any] = {}
    asyncio.run(middleware({"channel": "http.request"}, channels))
    assert channels == {"called": {"channel": "http.request"}}
    assert detect_interface(middleware) is Interface.CHANNELS


def test_it_goes_by_both_of_its_names_and_by_no_other() -> None:
    assert BroadCastMiddleware is BroadcastMiddleware
    with pytest.raises(AttributeError, match="has no attribute 'Broadcast'"):
        _ = uvicorn_worker.broadcast.Broadcast


def test_it_takes_no_application_that_needs_none() -> None:
    with pytest.raises(InvalidApplication, match="the option groups is enough"):
        BroadcastMiddleware(asgi)


@pytest.mark.parametrize("host", ["memcached://h", "local:///run", "redis://h:port"])
def test_a_bad_url_is_an_error_at_once(host: str) -> None:
    with pytest.raises(InvalidOption, match="BroadcastMiddleware"):
        BroadcastMiddleware(app, host)


@pytest.mark.parametrize("host", ["http://:secret@h", "redis::secret@h", "redis://:secret\N{ACCOUNT OF}@h"])
def test_no_error_tells_a_password(host: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        BroadcastMiddleware(app, host)
    assert "secret" not in str(raised.value)
