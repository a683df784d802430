"""Requests to switch to another protocol (RFC 9110 section 7.8), and what the handler of one can do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from uvicorn_worker._types import Application, Connection, ReplyFields, RequestFields
from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.exchange import Exchange, Wire
from uvicorn_worker.http11.framing import Target
from uvicorn_worker.http11.response import WAITING

#: Fields of the answer that are not a handler's to give.
_OWN_FIELDS = frozenset((wire.CONNECTION, wire.CONTENT_LENGTH, wire.TRANSFER_ENCODING, b"upgrade"))


class Upgraded(Connection, Protocol):
    """What a connection speaks after its upgrade: a protocol of asyncio's that can be told to stop.

    It is a member of ``service.connections``, which it leaves when its connection is lost.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def pause_writing(self) -> None: ...


class UpgradedProtocol(asyncio.Protocol):
    """A base for protocols that connections are upgraded to, which keeps the worker's books of them.

    A subclass adds ``data_received``, and calls what it overrides of the rest. Attributes: ``transport``, and
    ``service``, which all connections of the worker share.
    """

    transport: asyncio.Transport

    def __init__(self, upgrade: Upgrade) -> None:
        self.service = upgrade.connection.service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.discard(self)
        self.service.on_less()

    def drain(self) -> None:
        """The worker stops: close when everything that was written has left. Called again with every second."""
        self.transport.close()

    def close_if_idle(self) -> None:
        """Called some time after :meth:`drain`."""

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()


class UpgradeWire(Wire, Protocol):
    """The connection, as a request to switch protocols sees it."""

    __slots__ = ()

    def switch(self, protocol: Upgraded) -> None:
        """The answer has been written: hand the connection over."""
        ...


class Upgrade(Exchange):
    """A request to switch to a protocol that has a handler.

    The handler is a coroutine function that gets this, and answers by :meth:`switch` or, with a response that refuses,
    by :meth:`send_whole`. What it raises, and its return without an answer, is for the worker to answer and to log.
    """

    # No slots: such requests are few, and what observes an exchange has slots of its own.

    connection: UpgradeWire
    handler: UpgradeHandler
    #: The protocol's name, as the client has written it.
    protocol_name: bytes
    #: What ``Connection`` says in the answer.
    connection_options = b"close"
    _successor: Upgraded | None = None

    def __init__(self, connection: Wire, method: str, target: Target, headers: RequestFields) -> None:
        super().__init__(connection, method, target, headers)
        self.end_connection()
        self.is_usual = False  # Its end is told of.
        #: Called when there will be no upgrade: the answer is another one, or the client has gone.
        self.on_failure: Callable[[], object] = _nothing

    def __str__(self) -> str:
        return f"{super().__str__()} (Upgrade: {self.protocol_name.decode('latin-1')})"

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        # The client may have gone before this is run.
        return self.handler(self) if self.reply is WAITING else _not_called()

    def switch(self, protocol: Upgraded, fields: ReplyFields = ()) -> None:
        """Answer with ``101 Switching Protocols`` and ``fields``, and hand the connection over to ``protocol``.

        That gets the transport by ``connection_made`` before this returns, and then what the client has sent behind
        its request. Raises :class:`InvalidReply`, :class:`IllegalMove` or :class:`ClientDisconnected`, having sent
        nothing.
        """
        if self.reply is not WAITING:
            self._check_move("a switch of protocols")
        fields = wire.list_fields(fields)
        wire.encode_fields(fields)  # raises where they are none
        for name, _ in fields:
            if name.lower() in _OWN_FIELDS:
                raise InvalidReply(f"{name.decode('latin-1')} is the server's to set in a switch of protocols")
        self.connection_options = b"Upgrade"
        head, _ = self._make_head(101, [(b"Upgrade", self.protocol_name), *fields], None)
        self.connection.write(head)
        self._successor = protocol
        self._finish()

    def _connection_line(self, service: object) -> bytes:
        return b"Connection: %b\r\n" % self.connection_options

    def _end_if_read(self) -> None:
        if self._successor is not None:
            self.connection.switch(self._successor)
        else:
            super()._end_if_read()
            self._fail()

    def client_gone(self) -> None:
        super().client_gone()
        self._fail()

    def _fail(self) -> None:
        if self._successor is None:
            tell, self.on_failure = self.on_failure, _nothing
            tell()


UpgradeHandler = Callable[[Upgrade], Coroutine[Any, Any, None]]


def _nothing() -> None:
    """For a handler that doesn't ask."""


async def _not_called() -> None:
    """For a handler that is not needed any more."""
