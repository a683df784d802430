"""The applications of the workloads, for ASGI 3; they give the length that they know, so that nobody has to chunk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .payloads import CHUNK, CHUNKS, DOCUMENT, DOWNLOAD, HELLO

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

#: The send functions of those who get a broadcast.
members: set[Send] = set()


async def hello(scope: Event, receive: Receive, send: Send) -> None:
    await answer(scope, send, b"text/plain", HELLO)


async def document(scope: Event, receive: Receive, send: Send) -> None:
    await answer(scope, send, b"application/json", DOCUMENT)


async def download(scope: Event, receive: Receive, send: Send) -> None:
    await answer(scope, send, b"application/octet-stream", DOWNLOAD)


async def stream(scope: Event, receive: Receive, send: Send) -> None:
    expect(scope, "http")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range(CHUNKS - 1):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": CHUNK})


async def upload(scope: Event, receive: Receive, send: Send) -> None:
    expect(scope, "http")
    size, more = 0, True
    while more:
        part = await receive()
        size += len(part.get("body", b""))
        more = part.get("more_body", False)
    await answer(scope, send, b"text/plain", b"%d" % size)


async def echo(scope: Event, receive: Receive, send: Send) -> None:
    expect(scope, "websocket")
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def broadcast(scope: Event, receive: Receive, send: Send) -> None:
    expect(scope, "websocket")
    await receive()
    await send({"type": "websocket.accept"})
    members.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            for member in tuple(members):
                await member({"type": "websocket.send", "text": event["text"]})
    finally:
        members.discard(send)


async def answer(scope: Event, send: Send, kind: bytes, content: bytes) -> None:
    """Send a whole response."""
    expect(scope, "http")
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def expect(scope: Event, kind: str) -> None:
    """Refuse everything else, such as a lifespan, which is how a server learns that there is none."""
    if scope["type"] != kind:
        raise RuntimeError(f"for {kind} only")
