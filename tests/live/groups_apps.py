"""The applications that the live tests of groups serve: one of each interface, with the same paths."""

import asyncio
import json
import os
import threading
from typing import Any

from apps import say

from uvicorn_worker import groups

GROUPS = "uvicorn_worker.groups"


@groups.on_gap
def gap(missed: groups.Gap) -> None:
    say("on_gap", os.getpid(), missed.reason, sorted(missed.groups) if missed.groups is not None else None)


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/GROUP/... of a WebSocket joins the group, and says there what it receives; `http` has the rest."""
    if message["channel"] == "http.request":
        return await http(message, channels)
    group, reply = message["path"].split("/")[1], channels["reply"]
    if message["channel"] == "websocket.connect":
        await channels["groups"].send({"group": group, "add": reply.name})
        await reply.send({"text": str(os.getpid())})
    elif message["channel"] == "websocket.receive":
        kind = "bytes" if message["text"] is None else "text"
        await channels["groups"].send({"group": group, "send": {kind: message[kind]}})


async def http(message: dict[str, Any], channels: dict[str, Any]) -> None:
    what, _, group = message["path"][1:].partition("/")
    content = b""
    while "body" in channels:
        part = await channels["body"].receive()
        content += part["content"]
        if not part["more_content"]:
            break
    if what == "poll":
        await channels["groups"].send({"group": group, "add": channels["reply"].name})
        say("polled", group)
        return
    await channels["reply"].send({"status": 200, "content": await answer(what, group, content.decode())})


async def answer(what: str, group: str, text: str) -> bytes:
    if what == "stats":
        return json.dumps(groups.stats() | {"pid": os.getpid()}).encode()
    if what == "thread":
        thread = threading.Thread(target=lambda: groups.send_threadsafe(group, {"text": text}).result(10))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)
    elif what == "send":
        await groups.send(group, {"text": text})
    elif what == "flood":  # so many messages among ten times as many of 64 KiB to a group without members
        for number in range(int(text) * 10):
            await groups.send("bulk", {"bytes": bytes(64 * 1024)})
            if number % 10 == 9:
                await groups.send(group, {"text": str(number // 10)})
    return str(os.getpid()).encode()


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same of ASGI 3; what is sent when it starts goes to the group `starts`."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        content = await answer(*scope["path"][1:].split("/"), "")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": content})
    else:
        await converse(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await groups.send("starts", {"text": f"started {os.getpid()}"})
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await groups.send("starts", {"text": f"ended {os.getpid()}"})
    await send({"type": "lifespan.shutdown.complete"})


async def converse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    extension, group = scope["extensions"][GROUPS], scope["path"].split("/")[1]
    await receive()
    await extension["send"]({"group": group, "add": extension["channel"]})
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": str(os.getpid())})
    while (event := await receive())["type"] == "websocket.receive":
        await extension["send"]({"group": group, "send": {"text": event["text"]}})
