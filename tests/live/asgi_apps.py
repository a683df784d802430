"""ASGI 3 applications that the live tests serve.

`app` calls the coroutine named by the first part of the path, and has a lifespan that says when it starts and ends.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from apps import gates, last_part, say

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        say("called", scope["type"], scope["path"])
        await globals()[scope["path"].split("/")[1]](scope, receive, send)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    say("startup", os.getpid())
    scope["state"]["made"] = ["at startup"]
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    say("shutdown", os.getpid())
    await send({"type": "lifespan.shutdown.complete"})


async def start(send: Send, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send: Send, content: bytes = b"", more: bool = False) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def answer(send: Send, content: bytes) -> None:
    await start(send)
    await body(send, content)


# -- what behaves


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"hello")


def as_json(value: Any) -> Any:
    """What JSON can have of a value of the scope."""
    return value.decode("latin-1") if isinstance(value, bytes) else dict.fromkeys(value)


async def what(scope: Scope, receive: Receive, send: Send) -> None:
    """The scope, as JSON."""
    await answer(send, json.dumps(scope, default=as_json).encode())


async def gate(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when /open of the same name is asked for."""
    await gates[last_part(scope)].wait()
    await answer(send, b"through")


async def open(scope: Scope, receive: Receive, send: Send) -> None:
    gates[last_part(scope)].set()
    await answer(send, b"open")


async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
    """Says each event that comes, until the client has gone."""
    while True:
        event = await receive()
        say("event", event["type"])
        if event["type"] == "http.disconnect":
            return


async def after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    """Receives when the response is complete."""
    await receive()
    await answer(send, b"complete")
    say("then", (await receive())["type"])


async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends until that raises."""
    await start(send)
    try:
        while True:
            await body(send, b"tick\n", more=True)
            await asyncio.sleep(0.02)
    except OSError as error:
        say("send raised", type(error).__name__)
        raise


async def pathsend(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.pathsend", "path": os.environ["BIG_FILE"]})


async def pathsend_later(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, the head having left in an earlier turn of the loop."""
    await start(send)
    await asyncio.sleep(0.02)
    await send({"type": "http.response.pathsend", "path": os.environ["BIG_FILE"]})


async def pathsend_of_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.pathsend", "path": "/no/such/file"})


async def logs(scope: Scope, receive: Receive, send: Send) -> None:
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).warning("to the error log by %s", name)
    logging.getLogger("uvicorn.access").info("to the access log")
    await answer(send, b"logged")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket whose messages come back."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send(event | {"type": "websocket.send"})
    say("closed with", event["code"])


# -- what misbehaves


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    sys.exit(3)


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("before the start")


async def raises_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    raise RuntimeError("after the start")


async def raises_amid_body(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"some", more=True)
    raise RuntimeError("amid the body")


async def never_sends(scope: Scope, receive: Receive, send: Send) -> None:
    """Returns without a word."""


async def returns_early(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 200, (b"content-length", b"100"))
    await body(send, b"too little", more=True)


async def sends_too_much(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 200, (b"content-length", b"4"))
    await body(send, b"much too much")


async def sends_more_later(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"whole")
    await body(send, b"and more")


async def starts_twice(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 200)
    await start(send, 404)


async def body_first(scope: Scope, receive: Receive, send: Send) -> None:
    await body(send, b"content")


async def invents(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.invented"})


async def bad_status(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 99)
    await body(send)


async def bad_header(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 200, (b"x-split", b"one\r\nx-two: two"))
    await body(send)


async def text_body(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, "text")  # type: ignore[arg-type]


async def receives_for_ever(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        while (event := await receive())["type"] != "http.disconnect":
            pass
        await asyncio.Event().wait()
    finally:
        say("cancelled", event["type"])


# -- lifespans


async def fails_to_start(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is not there"})


async def raises_at_start(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    await app(scope, receive, send)


async def returns_at_start(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await app(scope, receive, send)


async def exits_at_start(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        sys.exit("no licence")
    await app(scope, receive, send)


async def never_starts(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "lifespan", "a request before the startup is complete"
    await receive()
    say("starting")
    await asyncio.Event().wait()


async def starts_by_signal(scope: Scope, receive: Receive, send: Send) -> None:
    """Its startup goes on when the process gets SIGUSR2."""
    if scope["type"] == "lifespan":
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, told.set)
        say("starting", os.getpid())
        await told.wait()
    await app(scope, receive, send)


async def fails_to_stop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await app(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "could not say goodbye"})


async def never_stops(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await app(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.Event().wait()


# -- other shapes


class ASGI2:
    def __init__(self, scope: Scope) -> None: ...

    async def __call__(self, receive: Receive, send: Send) -> None: ...


def asgi2(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    return ASGI2(scope)


def create_app() -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    say("created")
    return app


def plain(*arguments: Any) -> Awaitable[None]:
    """Of no interface that could be told from outside."""
    return app(*arguments)
