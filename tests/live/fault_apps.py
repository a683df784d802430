"""The application that is served while things go wrong: HTTP as of `apps`, WebSockets that echo, and faults on demand.

`app` calls the coroutine named by the first part of the path; it says nothing, as it is served under load.
"""

import asyncio
import gc
import json
import os
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apps
from apps import answer, endless, pour, quiet, read_body, soon  # noqa: F401 (paths)

held: list[int] = []  # file descriptors of /exhaust
hoard: list[bytearray] = []
wall = time.time
offset = 0.0  # seconds that /jump has put the wall clock forward


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "http.request":
        await globals()[message["path"].split("/")[1]](message, channels)
    elif message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": message["path"] != "/no"})
    elif message["channel"] == "websocket.receive":
        await channels["reply"].send(told(message))


def told(message: dict[str, Any]) -> dict[str, Any]:
    """What is answered to a message, which may ask for an end."""
    if message["text"] == "raise":
        raise RuntimeError("on purpose")
    if message["text"] == "close":
        return {"close": True}
    return {"text": message["text"]} if message["text"] is not None else {"text": str(len(message["bytes"]))}


async def echo(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, await read_body(channels))


async def stream(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await apps.stream(message, channels)


async def bad(message: dict[str, Any], channels: dict[str, Any]) -> None:
    raise RuntimeError("on purpose")


async def bad_late(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await apps.fail_late(message, channels)


async def pid(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, str(os.getpid()).encode())


# -- what is left


async def counts(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """How many there are of each kind of this package's objects and of asyncio's, and of tasks and descriptors."""
    gc.collect()
    kinds = Counter(type(living) for living in gc.get_objects())
    found = {
        f"{kind.__module__}.{kind.__qualname__}": number
        for kind, number in kinds.items()
        if str(kind.__module__).partition(".")[0] in ("uvicorn_worker", "uvloop", "websockets", "asyncio", "_asyncio")
    }
    found["tasks"] = len(asyncio.all_tasks())
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    await answer(channels, json.dumps(found).encode())


# -- memory


async def shared(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """How many KiB the worker shares with the master, before and after a full collection."""
    before = shared_memory()
    gc.collect()
    await answer(channels, json.dumps([before, shared_memory()]).encode())


def shared_memory() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shared_Dirty:"))


async def memory_error(message: dict[str, Any], channels: dict[str, Any]) -> None:
    raise MemoryError


async def hog(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Takes what memory there is, to the last page, and does not let go of it."""
    take_all(hoard, 4096)


async def hog_for_now(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Takes it to the last byte, and holds it for as long as what this raises is kept."""
    take_all([], 1)


def take_all(kept: list[bytearray], least: int) -> None:
    """Take memory until not even ``least`` bytes of it are left; raises ``MemoryError`` then."""
    size = 1 << 20
    while size >= least:
        try:
            kept.append(bytearray(size))
        except MemoryError:
            size //= 2
    raise MemoryError


async def let_go(message: dict[str, Any], channels: dict[str, Any]) -> None:
    hoard.clear()
    await answer(channels, b"")


async def limit_memory(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/limit_memory/N: N MiB more than there are now, and no more."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + (int(apps.last_part(message)) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    await answer(channels, b"")


# -- file descriptors and disks


async def exhaust(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Opens files until there is no descriptor left."""
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        await answer(channels, os.strerror(error.errno or 0).encode())


async def release(message: dict[str, Any], channels: dict[str, Any]) -> None:
    while held:
        os.close(held.pop())
    await answer(channels, b"")


async def fill_disk(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """From now on, no file grows: what writes to one is told so."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await answer(channels, b"")


async def free_disk(message: dict[str, Any], channels: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await answer(channels, b"")


# -- the wall clock


async def jump(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/jump/N: the wall clock of this process is N seconds ahead from now on, or behind."""
    global offset
    offset = float(apps.last_part(message))
    time.time = lambda: wall() + offset
    await answer(channels, b"")


# -- the same for ASGI


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await asgi_websocket(scope, receive, send)
    elif scope["type"] == "http":
        await asgi_http(scope, receive, send)


async def asgi_http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """By way of the coroutine for the path: an ASGI application's send takes what its channels are told."""

    class Reply:
        has_begun = False

        async def send(self, message: dict[str, Any]) -> None:
            if not self.has_begun:
                self.has_begun = True
                headers = [(name, value) for name, value in message.get("headers", ())]
                await send({"type": "http.response.start", "status": message["status"], "headers": headers})
            body = {"body": message.get("content", b""), "more_body": message.get("more_content", False)}
            await send({"type": "http.response.body", **body})

    class Body:
        async def receive(self) -> dict[str, Any]:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise OSError("the client has gone")
            return {"content": event["body"], "more_content": event["more_body"]}

    await globals()[scope["path"].split("/")[1]](scope, {"reply": Reply(), "body": Body()})


async def asgi_websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"} if scope["path"] == "/no" else {"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        answer = told({"text": event.get("text"), "bytes": event.get("bytes")})
        await send({"type": "websocket.close"} if "close" in answer else {"type": "websocket.send", **answer})
