"""What the applications of all frameworks share: gates that a test opens, and files."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from apps import gates, say

STATIC = Path(__file__).parent / "static"

#: Beside `gates`, for code in threads.
doors: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def open_gate(name: str) -> None:
    gates[name].set()
    doors[name].set()


def wait_in_thread(name: str) -> dict[str, bool]:
    """Block the thread that this is called in until the gate is opened."""
    say("waiting", name)
    opened = doors[name].wait(10)
    return {"opened": opened, "main_thread": threading.current_thread() is threading.main_thread()}


async def two_parts(name: str) -> AsyncIterator[bytes]:
    """The second comes when the gate is opened."""
    yield b"first "
    await gates[name].wait()
    yield b"second"


async def events(name: str) -> AsyncIterator[str]:
    """Server-sent events, without end; says when it is closed."""
    number = 0
    try:
        while True:
            yield f"data: {number}\n\n"
            number += 1
            await asyncio.sleep(0.02)
    finally:
        say("closed", name)


async def silent_events(name: str) -> AsyncIterator[str]:
    """One event, and then nothing; says when it is closed."""
    try:
        yield "data: 0\n\n"
        await gates[name].wait()
    finally:
        say("closed", name)


async def slow_work(name: str) -> None:
    """Done when the gate is opened."""
    say("begun", name)
    await gates[name].wait()
    say("done", name)
