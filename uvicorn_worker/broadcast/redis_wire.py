"""Connections to Redis servers: redis-py makes them, and nothing else here imports it.

It knows how to reach a server (TLS, Unix sockets) and how to authenticate. What it would do beyond that (wait without
end for a server that has vanished, retry what can't be retried) is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from uvicorn_worker.broadcast import resp
from uvicorn_worker.broadcast.forks import close_in_forks
from uvicorn_worker.broadcast.redis_url import Node, Target
from uvicorn_worker.config import REDIS_CONNECT_TIME, TURN_BYTES
from uvicorn_worker.errors import UvicornWorkerError


class Lost(UvicornWorkerError):
    """There is no connection, or none any more, and the text says why."""


class Denied(Lost):
    """The server doesn't let this user in."""


class Refused(UvicornWorkerError):
    """The answer to a command is an error."""


class Moved(Refused):
    """Another node of the cluster has the channel."""


class Wire(asyncio.Protocol):
    """A connection to a server: at first one of redis-py's, which is asked, and then one that is listened to."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        #: Pieces that have come since it is listened to.
        self.heard = 0
        #: Whether nothing more should be written for now.
        self.is_full = False

    async def ask(self, *words: bytes) -> Any:
        """The answer to a command, before it is listened to; raises :class:`Refused` and :class:`Lost`."""
        try:
            await self._connection.send_packed_command(resp.pack(*words), check_health=False)
            return await self._connection.read_response(disable_decoding=True)
        except AuthenticationError as error:
            raise Denied(str(error)) from None
        except ResponseError as error:
            raise Refused(str(error)) from None
        except (RedisError, OSError) as error:
            raise Lost(str(error)) from None

    def listen(
        self,
        on_answer: Callable[[Any], None],
        on_room: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """From now on have ``on_answer`` called with each answer, which for a command that failed is a
        :class:`Refused`, ``on_room`` when it is full no more, and ``on_lost`` with what ended it.

        redis-py's own way to an answer costs five times as much, and does not tell of an answer that has begun.
        """
        self._on_answer, self._on_room, self._on_lost = on_answer, on_room, on_lost
        self._reader = hiredis.Reader(replyError=_refused)
        self._transport = self._find_transport()
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # It may have no socket any more.
            on_lost("closed by the server")
        else:
            close_in_forks(self._transport.get_extra_info("socket").fileno())

    def _find_transport(self) -> asyncio.Transport:
        # It has no public name, and neither has anything else that could end a connection at once: redis-py closes in
        # order, which a network that takes nothing would hold up for ever.
        assert self._connection._writer is not None
        return cast(asyncio.Transport, self._connection._writer.transport)

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        reader, on_answer = self._reader, self._on_answer
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                on_answer(answer)
        except hiredis.ProtocolError as error:
            self._on_lost(f"no Redis: {error}")
        if len(data) >= TURN_BYTES:
            # A loop can call this many times in one turn, and members are written to at the end of each.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost("closed by the server" if exc is None else str(exc))

    async def end(self) -> None:
        """End the connection now, whatever has not left."""
        if self._connection.is_connected:
            self._find_transport().abort()
        await self._connection.disconnect(nowait=True)


def _refused(text: str) -> Refused:
    return Moved(text) if text.startswith("MOVED ") else Refused(text)


def _connection(target: Target, node: Node | None, options: dict[str, Any]) -> AbstractConnection:
    options = {**options, "protocol": 2, "socket_timeout": None, "socket_connect_timeout": REDIS_CONNECT_TIME}
    if node is None:
        return UnixDomainSocketConnection(path=target.path, **options)
    host, port = node
    if target.tls:
        return SSLConnection(host=host, port=port, **options)
    return Connection(host=host, port=port, **options)


def _patience(target: Target) -> float:
    """Seconds until an answer that has not come is not waited for."""
    return min(REDIS_CONNECT_TIME, target.dead)


async def open_wire(target: Target, node: Node | None, options: dict[str, Any] | None = None) -> Wire:
    """A connection to one server; ``node`` is ``None`` for that on a Unix socket. Raises :class:`Lost`, and
    :class:`Denied`."""
    connection = _connection(target, node, dict(target.options if options is None else options))
    connect: Callable[[], Awaitable[None]] = connection.connect  # which has no types
    try:
        async with asyncio.timeout(_patience(target)):
            await connect()
    except (AuthenticationError, ResponseError) as error:
        raise Denied(str(error)) from None
    except (RedisError, OSError) as error:  # TimeoutError is an OSError.
        raise Lost(str(error) or "no answer") from None
    finally:
        if not connection.is_connected:
            await Wire(connection).end()
    return Wire(connection)


async def open_master(target: Target) -> Wire:
    """A connection to a server that has what is sent there reach all others. Raises as :func:`open_wire`."""
    if target.kind == "sentinel":
        node: Node | None = await _ask_sentinels(target)
    else:
        node = target.nodes[0] if target.nodes else None
    wire = await open_wire(target, node)
    try:
        async with asyncio.timeout(_patience(target)):
            role = await wire.ask(b"ROLE")
    except Refused:
        return wire  # A user may not be allowed to ask, and proxies don't know.
    except BaseException as error:
        await wire.end()
        if isinstance(error, TimeoutError):
            raise Lost("no answer") from None
        raise
    if resp.is_replica(role):
        await wire.end()
        raise Lost("it is a replica, from where messages reach nobody else")
    return wire


async def _ask_sentinels(target: Target) -> Node:
    """Where the master is, by the first Sentinel that knows."""
    reasons = []
    for sentinel in target.nodes:
        try:
            answer = await _ask_once(target, sentinel, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", target.service.encode())
            if isinstance(answer, list) and len(answer) == 2:
                return answer[0].decode(), int(answer[1])
            reasons.append(f"{sentinel[0]}:{sentinel[1]} knows no such master")
        except (Lost, Refused) as error:
            reasons.append(f"{sentinel[0]}:{sentinel[1]}: {error}")
    raise Lost(f"no Sentinel knows the master ({'; '.join(reasons)})")


async def read_masters(target: Target, nodes: list[Node]) -> list[Node | None]:
    """The master of each slot of a cluster, by the first of the nodes that answers. Raises as :func:`open_wire`."""
    reasons = []
    for node in nodes:
        try:
            return resp.read_slots(await _ask_once(target, node, b"CLUSTER", b"SLOTS"), node[0])
        except Denied:
            raise
        except (Lost, Refused, ValueError) as error:
            reasons.append(f"{node[0]}:{node[1]}: {error}")
    raise Lost(f"no node says where the slots are ({'; '.join(reasons)})")


async def _ask_once(target: Target, node: Node, *words: bytes) -> Any:
    options = dict(target.options)
    if target.kind == "sentinel":
        # Sentinels have users of their own, and no databases; how TLS goes is the same.
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        options = {**tls, **target.sentinel_options}
    wire = await open_wire(target, node, options)
    try:
        async with asyncio.timeout(_patience(target)):
            return await wire.ask(*words)
    except TimeoutError:
        raise Lost("no answer") from None
    finally:
        await wire.end()
