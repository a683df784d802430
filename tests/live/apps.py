"""The applications that the live tests serve.

`app` calls the coroutine named by the first part of the path. What a test must know of the inside is
said on stderr (`say`), which a test reads as part of the log.
"""

import asyncio
import contextvars
import json
import os
import time
from collections import defaultdict
from typing import Any

KIB64 = b"x" * 65536

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
visitor: contextvars.ContextVar[str] = contextvars.ContextVar("visitor", default="nobody")


def say(*words: object) -> None:
    os.write(2, (" ".join(map(str, words)) + "\n").encode())


async def app(message: dict[str, Any], channels: dict[str, Any]) -> None:
    say("called", message["method"], message["raw_path"].decode())
    name = message["path"].split("/")[1]
    await globals()[name](message, channels)


async def answer(channels: dict[str, Any], content: bytes, status: int = 200, **headers: str) -> None:
    pairs = [[name.replace("_", "-").encode(), value.encode()] for name, value in headers.items()]
    await channels["reply"].send({"status": status, "headers": pairs, "content": content})


async def read_body(channels: dict[str, Any]) -> bytes:
    parts = []
    more = "body" in channels
    while more:
        message = await channels["body"].receive()
        parts.append(message["content"])
        more = message["more_content"]
    return b"".join(parts)


def last_part(message: dict[str, Any]) -> str:
    return str(message["path"].rpartition("/")[2])


# -- plain replies


async def hello(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, b"<h1>Hello World</h1>", content_type="text/html")


async def quiet(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """To be served itself, under load: says nothing."""
    await answer(channels, b"fine")


async def soon(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """To be served itself, under load: 20 ms for each request."""
    await asyncio.sleep(0.02)
    await answer(channels, b"fine")


async def status(message: dict[str, Any], channels: dict[str, Any]) -> None:
    code = int(last_part(message))
    await answer(channels, b"" if code in (204, 304) else b"content", code)


async def redirect(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Sends clients where they say, unescaped, as careless applications do."""
    await answer(channels, b"", 303, location=last_part(message))


async def path(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, message["path"].encode())


async def what(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """The message itself, as JSON."""
    await answer(channels, json.dumps(message, default=lambda raw: raw.decode("latin-1")).encode())


async def pid(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, str(os.getpid()).encode())


async def loop(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, type(asyncio.get_running_loop()).__module__.encode())


async def context(message: dict[str, Any], channels: dict[str, Any]) -> None:
    before = visitor.get()
    visitor.set(last_part(message))
    await asyncio.sleep(0)
    await answer(channels, f"{before} then {visitor.get()}".encode())


async def stream(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "more_content": True})
    for part in (b"one ", b"two ", b"three"):
        await channels["reply"].send({"content": part, "more_content": True})
        await asyncio.sleep(0)
    await channels["reply"].send({"more_content": False})


# -- request bodies


async def body(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await answer(channels, await read_body(channels))


async def parts(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Says each part of the body as it comes."""
    more = True
    while more:
        received = await channels["body"].receive()
        say("part", received["content"].decode(), received["more_content"])
        more = received["more_content"]
    await answer(channels, b"whole")


async def count(message: dict[str, Any], channels: dict[str, Any]) -> None:
    total, more = 0, True
    while more:
        received = await channels["body"].receive()
        total += len(received["content"])
        more = received["more_content"]
    await answer(channels, str(total).encode())


async def careful(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Says how receive fails, and lets it through."""
    try:
        await read_body(channels)
    except Exception as exc:
        say("receive raised", *(cls.__name__ for cls in type(exc).__mro__))
        raise
    await answer(channels, b"whole")


async def refuse(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Replies without a look at the body."""
    await answer(channels, b"too much", 413)


# -- long replies


async def pour(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/pour/sized/N and /pour/chunked/N: N MiB."""
    _, _, framing, mib = message["path"].split("/")
    total = int(mib) << 20
    headers = [[b"content-length", str(total).encode()]] if framing == "sized" else []
    await channels["reply"].send({"status": 200, "headers": headers, "more_content": True})
    for sent in range(len(KIB64), total + 1, len(KIB64)):
        await channels["reply"].send({"content": KIB64, "more_content": sent < total})


async def patient(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Sends /patient/N MiB and says how far it had come when send first made it wait."""
    total = int(last_part(message)) << 20
    headers = [[b"content-length", str(total).encode()]]
    await channels["reply"].send({"status": 200, "headers": headers, "more_content": True})
    waited = False
    for sent in range(0, total, len(KIB64)):
        more = sent + len(KIB64) < total
        sending = asyncio.create_task(channels["reply"].send({"content": KIB64, "more_content": more}))
        if not waited:
            _, pending = await asyncio.wait([sending], timeout=0.5)
            if pending:
                waited = True
                say("send waits after", sent)
        await sending


async def endless(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Sends until the client is gone, and lets that through."""
    await channels["reply"].send({"status": 200, "more_content": True})
    try:
        while True:
            await channels["reply"].send({"content": KIB64, "more_content": True})
    except OSError as exc:
        say("send raised", type(exc).__name__)
        raise


# -- replies that wait


async def wait(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/wait/NAME replies (with the body) when somebody has asked for /admit/NAME."""
    await gates[last_part(message)].wait()
    await answer(channels, b"waited " + await read_body(channels))


async def admit(message: dict[str, Any], channels: dict[str, Any]) -> None:
    gates[last_part(message)].set()
    await answer(channels, b"admitted")


async def forever(message: dict[str, Any], channels: dict[str, Any]) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        say("cancelled", message["path"])
        raise


# -- applications that fail


async def fail(message: dict[str, Any], channels: dict[str, Any]) -> None:
    raise {
        "RuntimeError": RuntimeError,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
    }[last_part(message)]("as the application likes")


async def fail_late(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "content": b"so far", "more_content": True})
    raise RuntimeError("too late for a 500")


async def fail_sized(message: dict[str, Any], channels: dict[str, Any]) -> None:
    headers = [[b"content-length", b"100"]]
    await channels["reply"].send({"status": 200, "headers": headers, "content": b"so far", "more_content": True})
    raise RuntimeError("too late for a 500")


async def forget(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Returns without a reply."""


async def forget_the_end(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "content": b"so far", "more_content": True})


def hold_the_loop() -> None:
    say("holding the loop")
    time.sleep(120)


async def block(message: dict[str, Any], channels: dict[str, Any]) -> None:
    hold_the_loop()


async def hold(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """/hold/N: when its body has come, lets nobody else run for N seconds."""
    await read_body(channels)
    say("holding the loop for", last_part(message))
    time.sleep(float(last_part(message)))
    await answer(channels, b"held")


def sleep_in_a_thread() -> None:
    say("a thread sleeps")
    time.sleep(120)


async def thread(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await asyncio.to_thread(sleep_in_a_thread)


# -- no applications


def not_a_coroutine(message: dict[str, Any], channels: dict[str, Any]) -> None: ...


async def too_few(message: dict[str, Any]) -> None: ...


async def too_many(a: Any, b: Any, c: Any, d: Any) -> None: ...


class OldStyle:
    def __init__(self, message: dict[str, Any], channels: dict[str, Any]) -> None: ...


class SyncCall:
    def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None: ...


sync_call = SyncCall()
number = 42
