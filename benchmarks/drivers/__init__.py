"""What drives the servers: closed loops, in which a client asks again when it has its reply. Replies are checked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Load(NamedTuple):
    """What a driver has seen."""

    #: Replies that came, and were right.
    requests: int
    #: Wall time of it all.
    seconds: float
    #: Seconds from a request to its whole reply: of half of them, and of 99 in a hundred.
    p50: float
    p99: float

    @classmethod
    def of(cls, latencies: list[float], seconds: float) -> Load:
        """The load of which each request took so long (seconds)."""
        ranked = sorted(latencies)
        return cls(len(ranked), seconds, percentile(ranked, 50), percentile(ranked, 99))


def percentile(ranked: list[float], percent: int) -> float:
    """The least of the values, which are in order, below or at which ``percent`` of them are (nearest rank)."""
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


class Wrong(Exception):
    """A reply is not what was asked for."""


class Unable(Exception):
    """A server can't do what is asked of it; the message says what."""


@dataclass(frozen=True)
class Target:
    """Where the server is: at a port of 127.0.0.1, behind TLS or not."""

    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/"


async def together(what: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them all at once; where one fails, the others are cancelled, and its exception is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in what:
                group.create_task(coroutine)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
