"""The applications that the live tests of WebSockets serve, and those of `apps` for HTTP.

`app` calls the coroutine named by the first part of the path, with each event of a WebSocket, and says which event
that was, unless the coroutine is one of the `QUIET`.
"""

import asyncio
import json
import os
from collections import Counter
from typing import Any

import apps
from apps import KIB64, gates, last_part, say

unfinished: Counter[str] = Counter()  # receive calls of /unfinished/NAME


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "http.request":
        return await http(message, channels)
    coroutine = globals()[message["path"].split("/")[1]]
    if coroutine not in QUIET or message["channel"] != "websocket.receive":
        end = (message["code"], repr(message["reason"])) if message["channel"] == "websocket.disconnect" else ()
        say(message["channel"], message["path"], message["order"], *end)
    await coroutine(message, channels)


async def http(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["path"].startswith("/unfinished/"):
        await apps.answer(channels, str(unfinished[message["path"]]).encode())
    else:
        await apps.app(message, channels)


# -- conversations


async def echo(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.receive":
        key = "text" if message["text"] is not None else "bytes"
        await channels["reply"].send({key: message[key]})


async def quiet(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await echo(message, channels)


async def what(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Each message itself, as JSON."""
    if message["channel"] != "websocket.disconnect":
        text = json.dumps(message, default=lambda raw: raw.decode("latin-1"))
        await channels["reply"].send({"text": text})


async def pid(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"text": str(os.getpid())})


async def subprotocol(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Takes the last that the client has offered."""
    if message["channel"] == "websocket.connect":
        headers = [[b"x-extra", b"one"], (b"x-extra", b"two")]
        await channels["reply"].send({"accept": True, "subprotocol": message["subprotocols"][-1], "headers": headers})


async def close(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Closes at the first message, with last words."""
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.receive":
        await channels["reply"].send({"text": "last words", "close": 4001, "reason": "enough"})
        try:
            await channels["reply"].send({"text": "too late"})
        except OSError as exc:
            say("send raised", type(exc).__name__)


async def late(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/late/NAME accepts when somebody has asked for /admit/NAME; an echo then."""
    if message["channel"] != "websocket.connect":
        return await echo(message, channels)
    await gates[last_part(message)].wait()
    try:
        await channels["reply"].send({"accept": True})
    except OSError as exc:
        say("accept raised", type(exc).__name__, message["path"])
        raise


# -- no conversations


async def reject(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": False})


async def respond(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.connect":
        headers = [[b"www-authenticate", b"Basic"], [b"content-type", b"text/plain"]]
        await channels["reply"].send({"status": 401, "headers": headers, "content": b"Who are you?"})


async def forget(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Returns without an answer."""


async def fail(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/fail/EVENT/... raises at it."""
    if message["channel"] == "websocket." + message["path"].split("/")[2]:
        raise RuntimeError("as the application likes")
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})


# -- calls that wait


async def wait(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/wait/NAME answers a message when the WebSocket /open/NAME is over."""
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.receive":
        await gates[last_part(message)].wait()
        await channels["reply"].send({"text": "waited"})


async def open(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.disconnect":
        gates[last_part(message)].set()


async def stuck(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """A receive call waits for the end of its own WebSocket."""
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.receive":
        await gates[message["path"]].wait()
        say("receive ended", message["path"])
    else:
        gates[message["path"]].set()


async def unfinished_calls(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Receive calls do not end; /unfinished/... over HTTP tells how many there are."""
    if message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})
    elif message["channel"] == "websocket.receive":
        unfinished["/unfinished/" + last_part(message)] += 1
        await asyncio.Event().wait()


async def endless(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """The connect call sends without end, and says how far it had come when send first made it wait."""
    if message["channel"] != "websocket.connect":
        return
    waited, sent = False, 0
    try:
        while True:
            sending = asyncio.ensure_future(channels["reply"].send({"bytes": KIB64}))
            if not waited:
                _, pending = await asyncio.wait([sending], timeout=0.5)
                if pending:
                    waited = True
                    say("send waits after", sent)
            await sending
            sent += len(KIB64)
    except OSError as exc:
        say("send raised", type(exc).__name__, message["path"])
        raise


async def pour(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """The connect call sends 16 MiB and closes, and says when send makes it wait."""
    if message["channel"] != "websocket.connect":
        return
    for number in range(256):
        sending = asyncio.ensure_future(channels["reply"].send({"bytes": bytes([number]) * 65536}))
        await asyncio.sleep(0)
        if not sending.done():
            say("send waits", message["path"])
        await sending
    await channels["reply"].send({"close": True})


async def ticking(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """The connect call lasts as long as the WebSocket."""
    if message["channel"] != "websocket.connect":
        return
    try:
        while True:
            await channels["reply"].send({"text": "tick"})
            await asyncio.sleep(0.05)
    except OSError as exc:
        say("send raised", type(exc).__name__, message["path"])
        raise


QUIET = (quiet, unfinished_calls)
