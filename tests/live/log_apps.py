"""One application by three interfaces: what it answers to a request, and so what is logged of it, is the same."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

Reply = tuple[int, list[tuple[str, str]], list[bytes]]

REPLIES: dict[str, Reply] = {
    "plain": (
        200,
        [
            ("Content-Type", "text/plain"),
            ("X-Quote", 'so "quoted"'),
            ("X-Two", "1"),
            ("X-Two", "2"),
            ("X-Padded", " a "),
            ("Content-Length", "5"),
        ],
        [b"hello"],
    ),
    "created": (201, [("Location", "/caf%C3%A9"), ("X-Latin", "caf\xe9"), ("Content-Length", "7")], [b"created"]),
    "streamed": (200, [("content-type", "text/html")], [b"a" * 1000, b"b" * 24]),
    "measured": (200, [("Content-Length", "10")], [b"a" * 5, b"b" * 5]),
    "empty": (204, [], []),
    "unchanged": (304, [("ETag", '"a"')], []),
    "missing": (404, [("Content-Length", "9")], [b"Not Found"]),
    "failed": (500, [("Content-Length", "0")], [b""]),
}


def find(path: str) -> Reply:
    return REPLIES.get(path.strip("/").split("/")[0], REPLIES["plain"])


def say(*words: object) -> None:
    os.write(2, (" ".join(map(str, words)) + "\n").encode())


def is_loud(record: logging.LogRecord) -> bool:
    """A filter of the access log."""
    return isinstance(record.args, dict) and record.args["U"] != "/plain"


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    say("called", environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("on purpose")
    status, headers, parts = find(environ["PATH_INFO"])
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else parts  # Old Gunicorns would send them.


def encode(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    more = "body" in channels
    while more:
        more = (await channels["body"].receive())["more_content"]
    say("called", message["path"])
    if message["path"] == "/raise":
        raise ValueError("on purpose")
    if message["path"] == "/filter":
        logging.getLogger("gunicorn.access").addFilter(is_loud)
    if message["path"] == "/unfinished":
        await channels["reply"].send({"status": 200, "content": b"a", "more_content": True})
        await asyncio.Event().wait()
    status, headers, parts = find(message["path"])
    reply: dict[str, Any] = {"status": status, "headers": encode(headers)}
    for part in parts[:-1]:
        await channels["reply"].send({**reply, "content": part, "more_content": True})
        reply = {}
    await channels["reply"].send({**reply, "content": parts[-1] if parts else b""})


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept" if scope["path"] == "/socket" else "websocket.close"})
        say("websocket", (await receive())["type"])
        return
    if scope["type"] == "lifespan":
        await receive()
        if "FILTER" in os.environ:
            logging.getLogger("gunicorn.access").addFilter(is_loud)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    say("called", scope["path"])
    if scope["path"] == "/raise":
        raise ValueError("on purpose")
    status, headers, parts = find(scope["path"])
    await send({"type": "http.response.start", "status": status, "headers": encode(headers)})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1] if parts else b""})
