"""What all connections of one worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context

from uvicorn_worker._types import Application, Connection, Log, Running
from uvicorn_worker.clock import Clock
from uvicorn_worker.config import Settings
from uvicorn_worker.http11.wire import Prefixes
from uvicorn_worker.observe import Observer


class Service:
    """One worker's application, settings and clock, with what is open and what is running at the moment."""

    __slots__ = (
        "app",
        "clock",
        "connections",
        "context",
        "draining",
        "head_waits",
        "idle_waits",
        "linger_waits",
        "log",
        "loop",
        "observer",
        "on_less",
        "on_quota",
        "prefixes",
        "requests_left",
        "running",
        "scheme",
        "settings",
        "stall_waits",
    )

    def __init__(
        self, app: Application, settings: Settings, log: Log, loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        self.app = app
        self.settings = settings
        self.log = log
        self.loop = loop
        self.clock = clock
        self.scheme = "http"
        self.observer: Observer | None = None
        #: Each request runs in a copy of it.
        self.context = copy_context()
        self.prefixes = Prefixes(settings.server_header, settings.headers, settings.date_header)
        self.prefixes.refresh(clock.date)
        self.connections: set[Connection] = set()
        self.running: set[Running] = set()
        #: Whether the worker is on its way out: every reply announces the end of its connection.
        self.draining = False
        self.head_waits = clock.deadlines(settings.head_timeout)
        self.idle_waits = clock.deadlines(settings.keepalive)
        self.stall_waits = clock.deadlines(settings.timeout)
        self.linger_waits = clock.deadlines(settings.linger_timeout)
        #: Requests until ``on_quota`` is called (Gunicorn ``max_requests``); never, where it begins at 0.
        self.requests_left = 0
        self.on_quota: Callable[[], None] = _nothing
        #: Called when a connection or a call of the application has ended.
        self.on_less: Callable[[], None] = _nothing

    def tick(self, now: float, wall: float) -> None:
        """Move the clock on, as :meth:`Clock.tick`, and what depends on it."""
        self.clock.tick(now, wall)
        self.prefixes.refresh(self.clock.date)


def _nothing() -> None:
    """For a hook that nobody has taken."""
