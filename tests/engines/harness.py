"""Several workers' engines in one process, connected as if each had a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from uvicorn_worker.broadcast.codec import decode, encode
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine, Gap
from uvicorn_worker.broadcast.redis import engine_of_redis

DEADLINE = 10.0  # seconds; only a failing test waits so long

#: Whether tests that can be of two sizes are the larger.
FULL_SIZE = os.environ.get("FULL_SIZE") == "1"


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, line: str, *args: Any, **more: Any) -> None:
        """Nobody reads it."""

    def info(self, line: str, *args: Any, **more: Any) -> None:
        self.lines.append(line % args)

    warning = error = info


class Sink:
    """Takes what comes, for any group, and lets a test wait for it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Any]] = []
        self.gaps: list[Gap] = []
        self._changed = asyncio.Event()

    def deliver(self, group: str, delivery: Delivery) -> int:
        self.received.append((group, delivery.message))
        self._changed.set()
        return 1

    def receive(self, group: str, body: bytes) -> None:
        self.deliver(group, Delivery(decode(body), body))

    def has_missed(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self._changed.set()

    def of(self, group: str) -> list[Any]:
        """The messages to a group, in their order."""
        return [message for name, message in self.received if name == group]

    async def until(self, what: Callable[[], Any]) -> None:
        """Wait until that is true, which becomes so by something that comes."""
        async with asyncio.timeout(DEADLINE):
            while not what():
                self._changed.clear()
                await self._changed.wait()


async def eventually(what: Callable[[], Any]) -> None:
    """The same for what nothing tells of: ask again and again."""
    async with asyncio.timeout(DEADLINE):
        while not what():
            await asyncio.sleep(0.005)


class Worker:
    log: Log

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sink = Sink()

    async def start(self) -> None:
        await self.engine.start(self.sink)

    async def add(self, *groups: str) -> None:
        await asyncio.gather(*(self.engine.add(group) for group in groups))

    async def hears(self, group: str, *texts: str) -> None:
        """Wait until so many messages have come, which are to be these."""
        await self.sink.until(lambda: len(self.sink.of(group)) >= len(texts))
        assert [message["text"] for message in self.sink.of(group)] == list(texts)

    async def send(self, group: str, **message: Any) -> None:
        await self.engine.send(group, Delivery(message, encode(message)))


@asynccontextmanager
async def workers_of(url: str, count: int) -> AsyncIterator[list[Worker]]:
    """Workers that have started, and in the end have stopped."""
    log = Log()
    workers = [Worker(engine_of_redis(url, log)) for _ in range(count)]
    for worker in workers:
        worker.log = log
        await worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.engine.stop()
