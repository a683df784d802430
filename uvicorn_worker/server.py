"""One worker's life: listen, serve, drain, stop. The only place that wires the parts together."""

from __future__ import annotations

import asyncio
import errno
import math
import resource
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from uvicorn_worker import groups
from uvicorn_worker._types import Address, Application, Log
from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.broadcast.local import LocalEngine
from uvicorn_worker.clock import TICK, Clock
from uvicorn_worker.config import IDLE_GRACE, RESERVED_DESCRIPTORS, TLS_HANDSHAKE_TIMEOUT, TOKEN, Settings
from uvicorn_worker.errors import InvalidOption, RequestRefused
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.http11.upgrade import Upgrade, UpgradeHandler
from uvicorn_worker.interfaces.asgi import HTTPASGI
from uvicorn_worker.interfaces.asgi_websocket import WebSocketASGI
from uvicorn_worker.interfaces.channels import HTTPChannels, WebSocketChannels
from uvicorn_worker.interfaces.detect import Interface, detect_interface, is_coroutine_function
from uvicorn_worker.interfaces.lifespan import Lifespan
from uvicorn_worker.observe import ObservedExchange, ObservedProtocol, Observer, Recorded
from uvicorn_worker.proxied import take_proxy_header
from uvicorn_worker.proxy import AllowList
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


def engine_of(url: str, directory: str | None, log: Log) -> Engine:
    """The engine for groups that ``url`` names; ``directory`` is where the workers of one master find each other."""
    return LocalEngine(urlsplit(url).path or directory, log)


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
        self._listeners = list(listeners)
        self._log = log
        self._tls = tls
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
        self._service.scheme = "https" if tls else "http"
        self._service.upgrade_class = Upgrade
        if observer is not None:
            self._service.observer = observer
            self._service.upgrade_class = RecordedUpgrade
        self._service.session_class = self._classes.session
        self._service.upgrades = read_upgrades(upgrades)
        if not settings.ws:
            self._service.upgrades.pop(b"websocket", None)
        self._service.on_less = self._less
        self._service.on_quota = self._quota_reached
        self._service.requests_left = max_requests or None
        self._engine = engine_of(settings.groups, directory, log)
        self._ceiling = settings.worker_connections or _descriptor_ceiling()
        #: Connections that are accepted, and not made yet.
        self._connecting: set[asyncio.Task[None]] = set()
        #: Those among them whose clients have to speak first: a PROXY header, or a TLS handshake.
        self._unheard: set[asyncio.Task[Any]] = set()
        self._may_announce = AllowList(settings.proxy_allow_ips)
        self._server_addresses: dict[Address, Address] = {}
        self._accepting = False
        self._full_was_logged = False
        self._exhausted_was_logged = False
        #: Whether the application has started.
        self.started = False
        self._ticking: asyncio.TimerHandle | None = None
        #: Has the time by which the drain has to be over, when it is done.
        self._stopping: asyncio.Future[float] = self._loop.create_future()
        #: Set when something that a drain waits for has ended.
        self._ended = asyncio.Event()

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
            self._accept_again()
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
        self._ticking = self._loop.call_later(TICK, self._tick)
        if self._heartbeat is not None:
            self._heartbeat()
        self._service.tick(time.monotonic(), time.time())
        if self._observer is not None:
            self._observer.look_again()
        if self._service.draining:
            self._drain_connections()
        elif self._accepting:
            self._exhausted_was_logged = False
        elif self.started:
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
        protocol = self._make_protocol(client, server)
        task = self._loop.create_task(self._connect(connection, protocol), context=self._service.context.copy())
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if self._service.draining:
            self._ended.set()

    def _make_protocol(self, client: Address | None, server: Address | None) -> HTTP11Protocol:
        observer = self._observer
        if observer is None:
            return HTTP11Protocol(self._service, self._classes.plain, client, server)
        exchange_class = self._classes.observed if observer.only_writes_lines else self._classes.recorded
        return ObservedProtocol(self._service, exchange_class, client, server)

    async def _connect(self, connection: socket.socket, protocol: HTTP11Protocol) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._tls is not None or self._settings.proxy_protocol != "off":
            self._unheard.add(task)
        try:
            if self._settings.proxy_protocol != "off":
                await self._hear_proxy(connection, protocol)
            if self._tls is None:
                self._unheard.discard(task)
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT if self._tls else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            # A client that has gone, or can't shake hands (ssl.SSLError is an OSError), or the worker stops.
            self._log.debug("A connection failed: %r", error)
            connection.close()
            protocol.connection_lost(None)
        finally:
            self._unheard.discard(task)

    async def _hear_proxy(self, connection: socket.socket, protocol: HTTP11Protocol) -> None:
        """Tell ``protocol`` what a PROXY header says; raises :class:`OSError` where there will be no connection."""
        peer = protocol.peer
        try:
            async with asyncio.timeout(self._settings.head_timeout or None):
                allowed = peer is None or peer[0] in self._may_announce
                told, received = await take_proxy_header(
                    connection, self._settings.proxy_protocol, allowed=allowed, tls=self._tls is not None
                )
            protocol.introduce(told, received)
        except RequestRefused as refusal:
            self._log.warning("Refused a connection of %s: %s", peer[0] if peer else "a Unix socket", refusal)
            if self._tls is not None:
                raise ConnectionAbortedError(refusal.reason) from None
            protocol.turn_away(refusal.with_traceback(None))

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

    async def _drain(self, end: float) -> None:
        """Take no more connections, let requests finish, and end what hasn't by ``end``, a time of ``time.monotonic``.

        Requests are ended early enough for the application to see that, and for the worker to leave by itself, before
        Gunicorn sends SIGKILL.
        """
        service = self._service
        # An application that has a lifespan has something to end, too.
        reserve = min(1.5 if self._lifespan is None else 5.0, max(0.0, end - time.monotonic()) / 4)
        self._accept_no_more()
        service.draining = True
        for listener in self._listeners:
            # Who stands in the queue is served: closing the last copy of a listener would reset them.
            while self._accept(listener) and time.monotonic() < end - reserve:
                await asyncio.sleep(0)
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
        self._give_up_unheard()

    def _give_up_unheard(self) -> None:
        for task in self._unheard:
            task.cancel()

    async def _wait_for_quiet(self, until: float) -> None:
        """Wait until no connection is open and no call of the application is under way, at most ``until`` then."""
        service = self._service
        while service.connections or service.running or self._connecting:
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), until - time.monotonic())
            except TimeoutError:
                return

    def abort(self) -> None:
        """End everything now: for a worker that is told to quit."""
        self._service.draining = True
        self._give_up_unheard()
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
