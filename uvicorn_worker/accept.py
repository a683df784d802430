"""Connections taken from listening sockets, as long as there is room, until each has a protocol and a transport."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn_worker._types import Address
from uvicorn_worker.config import RESERVED_DESCRIPTORS, TLS_HANDSHAKE_TIMEOUT
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.proxied import take_proxy_header
from uvicorn_worker.proxy import AllowList
from uvicorn_worker.service import Service

#: Makes the protocol of a connection between a client and a server, of which either may have no address.
MakeProtocol = Callable[[Address | None, Address | None], HTTP11Protocol]

# Connections taken from a listener in one turn of the loop: few, so that workers that share it get even shares.
_BATCH = 8

#: What a listener is bound to that takes connections to any address of the machine.
_ANY_ADDRESS = frozenset(("0.0.0.0", "::", "::ffff:0.0.0.0"))

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Accepts connections when it is told to begin, except while there is no room for more."""

    def __init__(
        self,
        service: Service,
        listeners: Sequence[socket.socket],
        make_protocol: MakeProtocol,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._service = service
        self._settings = service.settings
        self._log = service.log
        self._loop = service.loop
        self._listeners = list(listeners)
        self._make_protocol = make_protocol
        self._tls = tls
        self._ceiling = service.settings.worker_connections or _descriptor_ceiling()
        #: Connections that are accepted, and not made yet.
        self.connecting: set[asyncio.Task[None]] = set()
        #: Those among them whose clients have to speak first: a PROXY header, or a TLS handshake.
        self._unheard: set[asyncio.Task[Any]] = set()
        self._may_announce = AllowList(service.settings.proxy_allow_ips)
        self._server_addresses: dict[Address, Address] = {}
        #: To ask each connection for its family and its address costs 10,000 instructions and a system call.
        self._common_addresses = {listener: common_address(listener) for listener in self._listeners}
        #: Whether there is a PROXY header, or a TLS handshake, before there is a connection.
        self._clients_speak_first = tls is not None or service.settings.proxy_protocol != "off"
        self._accepting = False
        self._full_was_logged = False
        self._exhausted_was_logged = False

    # When to accept.

    def begin(self) -> None:
        """Accept from now on, if there is room."""
        if self._accepting or self._is_full():
            return
        self._accepting = True
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)

    def _pause(self) -> None:
        if not self._accepting:
            return
        self._accepting = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def tick(self) -> None:
        """Once a second: there may be room again."""
        if self._accepting:
            self._exhausted_was_logged = False
        else:
            self.begin()

    def make_use_of_room(self) -> None:
        """A connection is gone."""
        if len(self._service.connections) <= self._ceiling * 3 // 4:
            self._full_was_logged = False
        self.begin()

    async def finish(self, until: float) -> None:
        """Take who stands in the queues, until that time of ``time.monotonic``, and close the listeners.

        Closing the last copy of a listener would reset whoever is in its queue.
        """
        self._pause()
        for listener in self._listeners:
            while self._accept(listener) and time.monotonic() < until:
                await asyncio.sleep(0)
            listener.close()

    def _is_full(self) -> bool:
        return len(self._service.connections) >= self._ceiling

    def _log_once_full(self) -> None:
        """Once per episode: it is over when a quarter of the room is free again."""
        if not self._full_was_logged:
            self._full_was_logged = True
            self._log.warning("%d connections are open (worker_connections): more have to wait", self._ceiling)

    def _log_once_exhausted(self, error: OSError) -> None:
        if not self._exhausted_was_logged:
            self._exhausted_was_logged = True
            self._log.error("Can't accept connections for now: %s", error)

    # What becomes of a connection.

    def _accept(self, listener: socket.socket) -> bool:
        """Take some connections from the listener; whether there may be more."""
        for _ in range(_BATCH):
            if self._is_full():
                self._pause()
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
                    self._pause()  # until the next tick
                self._log_once_exhausted(error)
                return False
            self._make_connection(connection, address, self._common_addresses[listener])
        return True

    def _make_connection(self, connection: socket.socket, address: Any, server: Address | None) -> None:
        try:
            connection.setblocking(False)
            if server is None:
                server = connection.getsockname()[:2]
                # One object for all connections, as there are few such addresses and many connections.
                server = self._server_addresses.setdefault(server, server)
        except OSError:  # It has gone already.
            connection.close()
            return
        client = address[:2] if isinstance(address, tuple) else None  # of a Unix socket
        protocol = self._make_protocol(client, server)
        connect = self._connect(connection, protocol)
        task = self._service.context.copy().run(self._service.create_task, connect)
        self.connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self.connecting.discard(task)
        self._unheard.discard(task)
        if self._service.draining:
            self._service.on_less()

    async def _connect(self, connection: socket.socket, protocol: HTTP11Protocol) -> None:
        task = asyncio.current_task() if self._clients_speak_first else None
        if task is not None:
            self._unheard.add(task)
        try:
            if self._settings.proxy_protocol != "off":
                await self._hear_proxy(connection, protocol)
                if self._tls is None and task is not None:
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

    def give_up_unheard(self) -> None:
        """End what is no connection yet because its client says nothing: it would hold a worker that stops."""
        for task in self._unheard:
            task.cancel()


def _descriptor_ceiling() -> int:
    """How many connections the process's file descriptors allow, with some kept back."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 2**31
    return max(soft - RESERVED_DESCRIPTORS, soft // 2)


def common_address(listener: socket.socket) -> Address | None:
    """The server's address of all connections of ``listener``, as the interfaces give it; ``None`` where each has its
    own."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return name, None
    return None if name[0] in _ANY_ADDRESS else name[:2]
