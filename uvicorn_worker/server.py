"""One worker's life: listen, serve, drain, stop. The only place that wires the parts together."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from uvicorn_worker import groups
from uvicorn_worker._types import AccessLog, Address, Application, Log
from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.broadcast.local import LocalEngine
from uvicorn_worker.broadcast.middleware import choose_engine
from uvicorn_worker.broadcast.redis_url import is_redis
from uvicorn_worker.clock import TICK, Clock
from uvicorn_worker.config import IDLE_GRACE, RESERVED_DESCRIPTORS, TLS_HANDSHAKE_TIMEOUT, TOKEN, Settings
from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.http11.upgrade import Upgrade, UpgradeHandler
from uvicorn_worker.interfaces.asgi import HTTPASGI
from uvicorn_worker.interfaces.asgi_websocket import WebSocketASGI
from uvicorn_worker.interfaces.channels import HTTPChannels, WebSocketChannels
from uvicorn_worker.interfaces.detect import Interface, detect_interface, is_coroutine_function
from uvicorn_worker.interfaces.lifespan import Lifespan
from uvicorn_worker.observe import ObservedExchange
from uvicorn_worker.service import Service
from uvicorn_worker.websocket.protocol import websocket
from uvicorn_worker.websocket.session import Session

#: What requests to switch protocols can ask for, and what serves them.
UPGRADES: Mapping[str, UpgradeHandler] = {"websocket": websocket}

# Connections taken from a listener in one turn of the loop: few, so that workers that share it get even shares.
_ACCEPT_BATCH = 8

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class ChannelsExchange(HTTPChannels, Exchange):
    """An exchange of a message/channels application."""

    __slots__ = ()


class ObservedChannelsExchange(HTTPChannels, ObservedExchange):
    """The same, with an access log."""

    __slots__ = ()


class ChannelsSession(WebSocketChannels, Session):
    """A WebSocket conversation of a message/channels application."""

    __slots__ = WebSocketChannels.SLOTS


class ASGIExchange(HTTPASGI, Exchange):
    """An exchange of an ASGI 3 application."""

    __slots__ = HTTPASGI.SLOTS


class ObservedASGIExchange(HTTPASGI, ObservedExchange):
    """The same, with an access log."""

    __slots__ = HTTPASGI.SLOTS


class ASGISession(WebSocketASGI, Session):
    """A WebSocket conversation of an ASGI 3 application."""

    __slots__ = WebSocketASGI.SLOTS


class ObservedUpgrade(Upgrade, ObservedExchange):
    """A request to switch protocols, with an access log."""


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


#: What an application of each interface is called by: for a request, for one that is observed, and for a WebSocket.
_CLASSES: Mapping[Interface, tuple[type[Exchange], type[Exchange], type[Session]]] = {
    Interface.CHANNELS: (ChannelsExchange, ObservedChannelsExchange, ChannelsSession),
    Interface.ASGI3: (ASGIExchange, ObservedASGIExchange, ASGISession),
}


def engine_of(url: str, directory: str | None, log: Log) -> Engine:
    """The engine for groups that ``url`` names; ``directory`` is where the workers of one master find each other."""
    if not is_redis(url):
        return LocalEngine(urlsplit(url).path or directory, log)
    # Only here, as redis-py is an extra.
    from uvicorn_worker.broadcast.redis import engine_of_redis

    return engine_of_redis(url, log)


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
        access_log: AccessLog | None = None,
        heartbeat: Callable[[], None] | None = None,
        max_requests: int = 0,
        upgrades: Mapping[str, UpgradeHandler] = UPGRADES,
        directory: str | None = None,
    ) -> None:
        """``directory`` is where the workers of one master find each other; without one there are no others."""
        self._settings = settings
        self._listeners = list(listeners)
        self._log = log
        self._tls = tls
        self._heartbeat = heartbeat
        interface = detect_interface(app, settings.interface)
        exchange_class, observed_class, session_class = _CLASSES[interface]
        self._exchange_class = exchange_class if access_log is None else observed_class
        self._loop = asyncio.get_running_loop()
        self._lifespan: Lifespan | None = None
        if interface is Interface.ASGI3 and settings.lifespan != "off":
            self._lifespan = Lifespan(app, log, required=settings.lifespan == "on")
        self._service = Service(app, settings, log, self._loop, Clock(time.monotonic(), time.time()))
        self._service.scheme = "https" if tls else "http"
        self._service.access_log = access_log
        self._service.upgrade_class = ObservedUpgrade if access_log is not None else Upgrade
        self._service.session_class = session_class
        self._service.upgrades = read_upgrades(upgrades)
        if not settings.ws:
            self._service.upgrades.pop(b"websocket", None)
        self._service.on_less = self._less
        self._service.on_quota = self._quota_reached
        self._service.requests_left = max_requests or None
        self._engine = engine_of(choose_engine(settings.groups), directory, log)
        self._ceiling = settings.worker_connections or _descriptor_ceiling()
        #: Connections that are accepted, and not made yet.
        self._connecting: set[asyncio.Task[None]] = set()
        self._server_addresses: dict[Address, Address] = {}
        self._accepting = False
        self._full_was_logged = False
        self._exhausted_was_logged = False
        self._ticking: asyncio.TimerHandle | None = None
        self._stopping = self._loop.create_future()
        #: Set when something that a drain waits for has ended.
        self._ended = asyncio.Event()

    def stop(self) -> None:
        """Begin to drain; :meth:`serve` returns when that is done. More calls change nothing."""
        if not self._stopping.done():
            self._stopping.set_result(None)

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
            if not await self._start_application():
                return
            await service.groups.start(self._engine)
            self._tick()
            self._accept_again()
            await self._stopping
            await self._drain()
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
            await self._engine.stop()
            groups.dismiss(self._loop)

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
        self._ticking = self._loop.call_later(TICK, self._tick)
        if self._heartbeat is not None:
            self._heartbeat()
        self._service.tick(time.monotonic(), time.time())
        if self._service.draining:
            self._drain_connections()
        elif self._accepting:
            self._exhausted_was_logged = False
        else:
            self._accept_again()

    # Accepting.

    def _accept_again(self) -> None:
        """Accept from now on, if there is room."""
        if self._accepting or self._is_full():
            return
        self._accepting = True
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)

    def _accept_no_more(self) -> None:
        if not self._accepting:
            return
        self._accepting = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _is_full(self) -> bool:
        return len(self._service.connections) >= self._ceiling

    def _accept(self, listener: socket.socket) -> bool:
        """Take some connections from the listener; whether there may be more."""
        for _ in range(_ACCEPT_BATCH):
            if self._is_full():
                self._accept_no_more()
                self._log_once_full()
                return False
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._accept_no_more()  # until the next tick
                self._log_once_exhausted(error)
                return False
            self._make_connection(connection, address)
        return True

    def _make_connection(self, connection: socket.socket, address: Any) -> None:
        try:
            connection.setblocking(False)
            client, server = _addresses(connection, address)
            # One object for all connections, as there are few such addresses and many connections.
            server = self._server_addresses.setdefault(server, server)
        except OSError:  # It has gone already.
            connection.close()
            return
        protocol = HTTP11Protocol(self._service, self._exchange_class, client, server)
        task = self._loop.create_task(self._connect(connection, protocol), context=self._service.context.copy())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket, protocol: HTTP11Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT if self._tls else None,
            )
        except OSError as error:  # A client that has gone, or can't shake hands (ssl.SSLError is an OSError).
            self._log.debug("A connection failed: %s", error)
            connection.close()
            protocol.connection_lost(error)

    def _log_once_full(self) -> None:
        """Once per episode: it is over when a quarter of the room is free again."""
        if not self._full_was_logged:
            self._full_was_logged = True
            self._log.warning("%d connections are open (worker_connections): more have to wait", self._ceiling)

    def _log_once_exhausted(self, error: OSError) -> None:
        if not self._exhausted_was_logged:
            self._exhausted_was_logged = True
            self._log.error("Can't accept connections for now: %s", error)

    def _less(self) -> None:
        """A connection is gone, or, while draining, a call of the application has ended."""
        if self._service.draining:
            self._ended.set()
        elif not self._stopping.done():
            if len(self._service.connections) <= self._ceiling * 3 // 4:
                self._full_was_logged = False
            self._accept_again()

    def _quota_reached(self) -> None:
        self._log.info("Autorestarting worker after current request.")
        self.stop()

    # Stopping.

    async def _drain(self) -> None:
        """Take no more connections, let requests finish, and end what hasn't by the worker's own deadline.

        That is early enough for the application to see its cancellation, and for the worker to leave by itself,
        before Gunicorn sends SIGKILL.
        """
        service = self._service
        graceful_timeout = self._settings.graceful_timeout
        end = self._loop.time() + graceful_timeout
        # An application that has a lifespan has something to end, too.
        reserve = min(1.5 if self._lifespan is None else 5.0, graceful_timeout / 4)
        self._accept_no_more()
        service.draining = True
        for listener in self._listeners:
            # Who stands in the queue is served: closing the last copy of a listener would reset them.
            while self._accept(listener) and self._loop.time() < end - reserve:
                await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
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
            await self._lifespan.stop(max(0.1, end - reserve * 3 / 8 - self._loop.time()))
        # Not cancelled when its time is up: that would wait for the threads, and the loop would not turn.
        executor_is_down = self._loop.create_task(self._loop.shutdown_default_executor())
        await asyncio.wait((executor_is_down,), timeout=max(0.0, end - reserve / 4 - self._loop.time()))

    def _drain_connections(self) -> None:
        """Again with every tick: a connection that was promised another request may be idle by now."""
        for connection in list(self._service.connections):
            connection.drain()
        # To an idle connection, a request may be on its way at this moment: it is still answered.
        self._loop.call_later(IDLE_GRACE, self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self._service.connections):
            connection.close_if_idle()

    async def _wait_for_quiet(self, until: float) -> None:
        """Wait until no connection is open and no call of the application is under way, at most ``until`` then."""
        service = self._service
        while service.connections or service.running or self._connecting:
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), until - self._loop.time())
            except TimeoutError:
                return

    def abort(self) -> None:
        """End everything now: for a worker that is told to quit."""
        self._service.draining = True
        for running in list(self._service.running):
            running.cancel()
        for connection in list(self._service.connections):
            connection.abort()


def _descriptor_ceiling() -> int:
    """How many connections the process's file descriptors allow, with some kept back."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 2**31
    return max(soft - RESERVED_DESCRIPTORS, soft // 2)


def _addresses(connection: socket.socket, address: Any) -> tuple[Address | None, Address]:
    """The client's address and the server's, as the interfaces give them."""
    if connection.family == socket.AF_UNIX:
        return None, (connection.getsockname(), None)
    return address[:2], connection.getsockname()[:2]
