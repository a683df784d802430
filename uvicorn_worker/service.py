"""What all connections of one worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any

from uvicorn_worker._types import Application, Connection, Log, Observing, Running
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.clock import Clock
from uvicorn_worker.config import SLICE, SLOW_CLOSE_TIME, Settings
from uvicorn_worker.http11.known import KnownHeads
from uvicorn_worker.http11.wire import Prefixes, UsualPrefixes
from uvicorn_worker.proxy import ProxyPolicy


class Service:
    """One worker's application, settings and clock, with what is open and what is running at the moment."""

    __slots__ = (
        "app",
        "clock",
        "closing_waits",
        "connections",
        "context",
        "create_task",
        "draining",
        "groups",
        "head_waits",
        "held",
        "idle_waits",
        "known_heads",
        "linger_waits",
        "log",
        "loop",
        "observer",
        "on_less",
        "on_quota",
        "prefixes",
        "proxies",
        "requests_left",
        "running",
        "scheme",
        "settings",
        "slice_without_limits",
        "slow_waits",
        "session_class",
        "stall_waits",
        "state",
        "upgrade_class",
        "upgrades",
        "usual_prefixes",
        "ws_close_waits",
        "ws_ping_waits",
        "ws_pong_waits",
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
        #: Where requests are observed, and only there.
        self.observer: Observing
        #: Connections begin in copies of it, and so do the tasks of their requests.
        self.context = copy_context()
        # A task made by the loop is named by a number, which costs 2,000 instructions to write out; only a loop
        # that was given a factory has something to say in the matter.
        make_task = partial(_by_factory, loop) if loop.get_task_factory() else asyncio.Task
        self.create_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
        self.create_task = partial(make_task, name="uvicorn_worker")
        self.prefixes = Prefixes(settings.server_header, settings.headers, settings.date_header)
        self.usual_prefixes = UsualPrefixes(settings.server_header, settings.headers, settings.date_header)
        self._refresh_prefixes()
        self.proxies = ProxyPolicy(settings)
        #: A slice of so many bytes can't go over a limit of a head.
        self.slice_without_limits = 0 if settings.has_tight_limits else min(SLICE, 4 * settings.field_count_limit)
        self.known_heads = KnownHeads()
        self.connections: set[Connection] = set()
        self.running: set[Running] = set()
        #: Whether the worker is on its way out: every reply announces the end of its connection.
        self.draining = False
        self._make_waits(clock)
        #: What applications and their clients are members of.
        self.groups = Groups(settings, log, loop.call_soon)
        #: What serves requests to switch protocols, by the lower-cased name of the protocol.
        self.upgrades: dict[bytes, Callable[[Any], Coroutine[Any, Any, None]]] = {}
        #: What is made of such a request, and of a WebSocket conversation: a subclass of each for the interface.
        self.upgrade_class: Callable[..., Any]
        self.session_class: Callable[..., Any]
        #: What the application has made when it started (ASGI ``lifespan``): each request gets a copy.
        self.state: dict[str, Any] = {}
        #: Exchanges that hold the start of a response back to the end of the loop's turn.
        self.held: list[Any] = []
        #: Requests until ``on_quota`` is called (Gunicorn ``max_requests``).
        self.requests_left: int | None = None
        self.on_quota: Callable[[], None] = _nothing
        #: Called when a connection or a call of the application has ended.
        self.on_less: Callable[[], None] = _nothing

    @property
    def has_writev(self) -> bool:
        """Whether transports write several pieces by one system call and copy none, as uvloop's do.

        With TLS, each piece would be a record of its own. asyncio's transports copy all pieces or, in Python 3.12.0 to
        3.13.0 at least, forget to pause the protocol.
        """
        return self.scheme == "http" and not isinstance(self.loop, asyncio.BaseEventLoop)

    def _make_waits(self, clock: Clock) -> None:
        settings = self.settings
        self.head_waits = clock.deadlines(settings.head_timeout)
        self.idle_waits = clock.deadlines(settings.keepalive)
        self.stall_waits = clock.deadlines(settings.timeout)
        self.closing_waits = clock.deadlines(settings.timeout)
        self.linger_waits = clock.deadlines(settings.linger_timeout)
        self.slow_waits = clock.deadlines(SLOW_CLOSE_TIME)
        self.ws_ping_waits = clock.deadlines(settings.ws_ping_interval)
        self.ws_pong_waits = clock.deadlines(settings.ws_ping_timeout)
        self.ws_close_waits = clock.deadlines(settings.ws_close_timeout)

    def tick(self, now: float, wall: float) -> None:
        """Move the clock on, as :meth:`Clock.tick`, and what depends on it."""
        self.clock.tick(now, wall)
        self._refresh_prefixes()

    def _refresh_prefixes(self) -> None:
        self.prefixes.refresh(self.clock.date)
        self.usual_prefixes.refresh(self.clock.date)

    def let_go(self) -> None:
        """The turn of the loop is over, for all that held something back in it."""
        held, self.held = self.held, []
        for exchange in held:
            if exchange.held_start is not None:
                exchange.let_start_go()

    def out_of_memory(self, what: object) -> None:
        """Say that there was no memory to end ``what`` in order, unless there is none for saying so, either."""
        try:
            self.log.error("Closed for want of memory: %s", what)
        except MemoryError:
            pass

    def count_request(self) -> None:
        """Count one more of the requests that the worker may serve."""
        if self.requests_left is not None:
            self.requests_left -= 1
            if self.requests_left == 0:
                self.on_quota()


def _by_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], *, name: str
) -> asyncio.Task[None]:
    return loop.create_task(coroutine, name=name)


def _nothing() -> None:
    """For a hook that nobody has taken."""
