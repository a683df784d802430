"""One worker's life: start, serve, drain, stop. The only place that wires the parts together."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from uvicorn_worker import groups
from uvicorn_worker._types import Address, Application, Log
from uvicorn_worker.accept import Acceptor
from uvicorn_worker.broadcast.engines import engine_of
from uvicorn_worker.broadcast.middleware import choose_engine
from uvicorn_worker.clock import Clock, tick_under
from uvicorn_worker.config import IDLE_GRACE, TOKEN, Settings
from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.http11.upgrade import Upgrade, UpgradeHandler
from uvicorn_worker.interfaces.asgi import HTTPASGI
from uvicorn_worker.interfaces.asgi_websocket import WebSocketASGI
from uvicorn_worker.interfaces.channels import HTTPChannels, WebSocketChannels
from uvicorn_worker.interfaces.detect import Interface, detect_interface, is_coroutine_function
from uvicorn_worker.interfaces.lifespan import Lifespan
from uvicorn_worker.observe import ObservedExchange, ObservedProtocol, Observer, Recorded
from uvicorn_worker.service import Service
from uvicorn_worker.websocket.protocol import websocket
from uvicorn_worker.websocket.session import Session

#: What requests to switch protocols can ask for, and what serves them.
UPGRADES: Mapping[str, UpgradeHandler] = {"websocket": websocket}


class ChannelsExchange(HTTPChannels, Exchange):
    """An exchange of a message/channels application."""

    __slots__ = ()


class ObservedChannelsExchange(HTTPChannels, ObservedExchange):
    """The same, with an access log."""

    __slots__ = ()


class RecordedChannelsExchange(Recorded, HTTPChannels, ObservedExchange):
    """The same, with hooks, and with an access log that wants to know more."""

    __slots__ = Recorded.SLOTS


class ChannelsSession(WebSocketChannels, Session):
    """A WebSocket conversation of a message/channels application."""

    __slots__ = WebSocketChannels.SLOTS


class ASGIExchange(HTTPASGI, Exchange):
    """An exchange of an ASGI 3 application."""

    __slots__ = HTTPASGI.SLOTS


class ObservedASGIExchange(HTTPASGI, ObservedExchange):
    """The same, with an access log."""

    __slots__ = HTTPASGI.SLOTS


class RecordedASGIExchange(Recorded, HTTPASGI, ObservedExchange):
    """The same, with hooks, and with an access log that wants to know more."""

    __slots__ = Recorded.SLOTS + HTTPASGI.SLOTS


class ASGISession(WebSocketASGI, Session):
    """A WebSocket conversation of an ASGI 3 application."""

    __slots__ = WebSocketASGI.SLOTS


class RecordedUpgrade(Recorded, Upgrade, ObservedExchange):
    """A request to switch protocols, with an access log and hooks."""

    __slots__ = Recorded.SLOTS


def read_upgrades(upgrades: Mapping[str, UpgradeHandler]) -> dict[bytes, UpgradeHandler]:
    """The handlers by the names of their protocols in lower case; raises :class:`InvalidOption`."""
    if not isinstance(upgrades, Mapping):
        raise InvalidOption(f"UPGRADES must be a dictionary of handlers by the names of protocols, not {upgrades!r}")
    handlers = {}
    for name, handler in upgrades.items():
        if not isinstance(name, str) or not name.isascii() or not TOKEN.fullmatch(name.encode()):
            raise InvalidOption(f"UPGRADES[{name!r}]: the name of a protocol is a token (RFC 9110 section 7.8)")
        if not callable(handler) or not is_coroutine_function(handler):
            raise InvalidOption(f"UPGRADES[{name!r}] = {handler!r}: expected a coroutine function of one argument")
        handlers[name.lower().encode()] = handler
    return handlers


class _Classes(NamedTuple):
    """What an application of an interface is called by."""

    plain: type[Exchange]
    observed: type[ObservedExchange]
    recorded: type[ObservedExchange]
    session: type[Session]


_CLASSES: Mapping[Interface, _Classes] = {
    Interface.CHANNELS: _Classes(
        ChannelsExchange, ObservedChannelsExchange, RecordedChannelsExchange, ChannelsSession
    ),
    Interface.ASGI3: _Classes(ASGIExchange, ObservedASGIExchange, RecordedASGIExchange, ASGISession),
}


class Server:
    """Serves an application on listening sockets until it is told to stop."""

    def __init__(
        self,
        app: Application,
        settings: Settings,
        listeners: Sequence[socket.socket],
        log: Log,
        *,
        tls: ssl.SSLContext | None = None,
        observer: Observer | None = None,
        heartbeat: Callable[[], None] | None = None,
        threads: Executor | None = None,
        max_requests: int = 0,
        upgrades: Mapping[str, UpgradeHandler] = UPGRADES,
        directory: str | None = None,
    ) -> None:
        """``directory`` is where the workers of one master find each other; without one there are no others."""
        self._settings = settings
        self._log = log
        self._heartbeat = heartbeat
        #: The loop's default executor, if it is to be shut down at the end.
        self._threads = threads
        interface = detect_interface(app, settings.interface)
        self._classes = _CLASSES[interface]
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._lifespan: Lifespan | None = None
        if interface is Interface.ASGI3 and settings.lifespan != "off":
            self._lifespan = Lifespan(app, log, required=settings.lifespan == "on")
        self._service = Service(app, settings, log, self._loop, Clock(time.monotonic(), time.time()))
        self._prepare_service(upgrades)
        self._service.scheme = "https" if tls else "http"
        self._service.requests_left = max_requests or None
        self._service.groups.url = choose_engine(settings.groups)
        self._engine = engine_of(self._service.groups.url, directory, log)
        self._acceptor = Acceptor(self._service, listeners, self._make_protocol, tls)
        #: Whether the application has started.
        self.started = False
        self._tick_seconds = tick_under(settings.timeout)
        self._ticking: asyncio.TimerHandle | None = None
        #: Has the time by which the drain has to be over, when it is done.
        self._stopping: asyncio.Future[float] = self._loop.create_future()
        #: Set when something that a drain waits for has ended.
        self._ended = asyncio.Event()

    def _prepare_service(self, upgrades: Mapping[str, UpgradeHandler]) -> None:
        service = self._service
        service.upgrade_class = Upgrade
        if self._observer is not None:
            service.observer = self._observer
            service.upgrade_class = RecordedUpgrade
        service.session_class = self._classes.session
        service.upgrades = read_upgrades(upgrades)
        if not self._settings.ws:
            service.upgrades.pop(b"websocket", None)
        service.on_less = self._less
        service.on_quota = self._quota_reached

    def _make_protocol(self, client: Address | None, server: Address | None) -> HTTP11Protocol:
        observer = self._observer
        if observer is None:
            return HTTP11Protocol(self._service, self._classes.plain, client, server)
        exchange_class = self._classes.observed if observer.only_writes_lines else self._classes.recorded
        return ObservedProtocol(self._service, exchange_class, client, server)

    def stop(self, within: float = math.inf) -> None:
        """Begin to drain; :meth:`serve` returns when that is done. More calls change nothing.

        It takes ``within`` seconds at most, and never longer than ``graceful_timeout``.
        """
        if not self._stopping.done():
            self._stopping.set_result(time.monotonic() + min(within, self._settings.graceful_timeout))

    @property
    def deadline(self) -> float | None:
        """When a stop has to be over, on the clock ``time.monotonic``; ``None`` where none has begun."""
        has_begun = self._stopping.done() and not self._stopping.cancelled()
        return self._stopping.result() if has_begun else None

    def stop_or_abort(self) -> None:
        """Begin to drain or, where that has begun, end everything now."""
        if self._stopping.done():
            self.abort()
        self.stop()

    async def serve(self) -> None:
        """Have the application start, serve until :meth:`stop`, let what is under way finish within
        ``graceful_timeout``, and have the application end. Raises :class:`StartupFailed`.
        """
        service = self._service
        groups.enrol(self._loop, service.groups)
        try:
            self._tick()
            if not await self._start_application():
                return
            await service.groups.start(self._engine)
            self.started = True
            self._tick()
            self._acceptor.begin()
            await self._drain(await self._stopping)
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
            await self._engine.stop()
            groups.dismiss(self._loop)
            if self._observer is not None:
                self._observer.flush()

    async def _start_application(self) -> bool:
        """Whether there is something to serve then: a signal to stop may have come meanwhile."""
        if self._lifespan is not None:
            starting = self._loop.create_task(self._lifespan.start(self._settings.lifespan_timeout or None))
            await asyncio.wait((starting, self._stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                return False
            starting.result()
            self._service.state = self._lifespan.state
        return True

    def _tick(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._ticking = self._loop.call_later(self._tick_seconds, self._tick)
        if self._heartbeat is not None:
            self._heartbeat()
        self._service.tick(time.monotonic(), time.time())
        if self._observer is not None:
            self._observer.look_again()
        if self._service.draining:
            self._drain_connections()
        elif self.started:
            self._acceptor.tick()

    def _less(self) -> None:
        """A connection is gone, or, while draining, a call of the application has ended."""
        if self._service.draining:
            self._ended.set()
        elif not self._stopping.done():
            self._acceptor.make_use_of_room()

    def _quota_reached(self) -> None:
        self._log.info("Autorestarting worker after current request.")
        self.stop()

    # Stopping.

    async def _drain(self, end: float) -> None:
        """Take no more connections, let requests finish, and end what hasn't by ``end``, a time of ``time.monotonic``.

        Requests are ended early enough for the application to see that, and for the worker to leave by itself, before
        Gunicorn sends SIGKILL.
        """
        service = self._service
        # An application that has a lifespan has something to end, too.
        reserve = min(1.5 if self._lifespan is None else 5.0, max(0.0, end - time.monotonic()) / 4)
        service.draining = True
        await self._acceptor.finish(end - reserve)
        self._drain_connections()
        service.groups.shed_held()
        await self._wait_for_quiet(end - reserve)
        for running in list(service.running):
            self._log.warning("Cancelled at the end of graceful_timeout: %s", running)
            running.cancel()
        await self._wait_for_quiet(end - reserve / 2)
        for connection in list(service.connections):
            connection.abort()
        await self._wait_for_quiet(end - reserve * 3 / 8)
        if self._lifespan is not None:
            await self._lifespan.stop(max(0.1, end - reserve * 3 / 8 - time.monotonic()))
        if self._threads is not None:
            # From a thread, as it waits for others. Not by shutdown_default_executor, which can't be given up.
            is_down = self._loop.run_in_executor(ThreadPoolExecutor(1, "shutdown"), self._threads.shutdown)
            await asyncio.wait((is_down,), timeout=max(0.0, end - reserve / 3 - time.monotonic()))

    def _drain_connections(self) -> None:
        """Again with every tick: a connection that was promised another request may be idle by now."""
        for connection in list(self._service.connections):
            connection.drain()
        # To an idle connection, a request may be on its way at this moment: it is still answered.
        self._loop.call_later(IDLE_GRACE, self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self._service.connections):
            connection.close_if_idle()
        self._acceptor.give_up_unheard()

    async def _wait_for_quiet(self, until: float) -> None:
        """Wait until no connection is open and no call of the application is under way, at most ``until`` then."""
        service = self._service
        while service.connections or service.running or self._acceptor.connecting:
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), until - time.monotonic())
            except TimeoutError:
                return

    def abort(self) -> None:
        """End everything now: for a worker that is told to quit."""
        self._service.draining = True
        self._acceptor.give_up_unheard()
        for running in list(self._service.running):
            running.cancel()
        for connection in list(self._service.connections):
            connection.abort()
