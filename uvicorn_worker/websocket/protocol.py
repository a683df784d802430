"""A connection that was upgraded to a WebSocket (RFC 6455): messages in both directions, pings, and how it ends.

A connection waits in at most one queue of deadlines: for the next ping, for the answer to one, or for the client's
part in closing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, cast

from websockets.frames import Close, CloseCode

from uvicorn_worker._types import ReplyFields
from uvicorn_worker.clock import Deadlines
from uvicorn_worker.config import COPY_BOUND, DEFLATE_FROM, RECEIVE_GRACE
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.flow import FlowControl
from uvicorn_worker.http11.upgrade import Upgrade
from uvicorn_worker.websocket.frames import (
    ABNORMAL,
    BINARY,
    LONGEST_SHORT,
    SERVICE_RESTART,
    TEXT,
    TRY_AGAIN_LATER,
    head,
)
from uvicorn_worker.websocket.handshake import VERSION_FIELDS, Handshake, accepting_fields, negotiate
from uvicorn_worker.websocket.reader import CLOSING, HELD, OVER, PART, MessageReader
from uvicorn_worker.websocket.session import Session

_HEADS = {kind: [head(kind, size) for size in range(LONGEST_SHORT + 1)] for kind in (TEXT, BINARY)}


async def websocket(upgrade: Upgrade) -> None:
    """The handler of ``Upgrade: websocket``: judge the handshake, and have the application answer it."""
    try:
        conversation = _begin(upgrade)
    except RequestRefused as refusal:
        fields: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain; charset=utf-8")]
        if refusal.status == HTTPStatus.UPGRADE_REQUIRED:
            upgrade.connection_options = b"close, Upgrade"  # RFC 9110 section 7.8: with each Upgrade field.
            fields += VERSION_FIELDS
        upgrade.send_whole(refusal.status, fields, f"{refusal.reason}\n".encode())
        return
    await conversation


def _begin(upgrade: Upgrade) -> Coroutine[Any, Any, None]:
    """The conversation that ``upgrade`` is the handshake of; raises :class:`RequestRefused`.

    What is known here would stay as long as the WebSocket if a coroutine knew it.
    """
    service = upgrade.connection.service
    handshake = negotiate(upgrade.method, upgrade.headers, service.settings)
    protocol = WebSocketProtocol(upgrade, handshake)
    session: Session = service.session_class(protocol, service, upgrade.target.path)
    protocol.begin(session)
    return session.run(upgrade, handshake.subprotocols)


class WebSocketProtocol(FlowControl, MessageReader, asyncio.Protocol):
    """One WebSocket, from its handshake on."""

    __slots__ = (
        "_compresses_from",
        "_owed",
        "_pending",
        "_room",
        "_session",
        "_stopping",
        "_transport",
        "_unsent",
        "_waiting",
        "is_closing",
        "service",
        "write",
        "write_paused",
    )

    _session: Session

    def __init__(self, upgrade: Upgrade, handshake: Handshake) -> None:
        service = self.service = upgrade.connection.service
        super().__init__(handshake.library, service.settings.ws_max_size)
        #: What the handshake's answer needs.
        self._pending: tuple[Upgrade, Handshake] | None = (upgrade, handshake)
        #: The size in bytes of the smallest message that is worth compressing.
        self._compresses_from: float = math.inf
        if handshake.library.extensions:
            self._compresses_from = 0 if service.settings.ws_context_takeover else DEFLATE_FROM
        self.write_paused = False
        self._owed = 0
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting: Deadlines | None = None
        self._unsent = 0
        self._stopping: asyncio.TimerHandle | None = None

    # The handshake's answer.

    def begin(self, session: Session) -> None:
        """Have ``session`` lead the conversation."""
        assert self._pending is not None
        self._session = session
        self._receive = session.received
        self._pending[0].on_failure = self._failed

    def accept(self, subprotocol: str | None, fields: ReplyFields) -> None:
        assert self._pending is not None
        upgrade, handshake = self._pending
        upgrade.switch(self, accepting_fields(handshake, subprotocol, fields))
        self._pending = None

    def reject(self, status: int, fields: ReplyFields, content: bytes) -> None:
        assert self._pending is not None
        self._pending[0].send_whole(status, fields, content)

    def _failed(self) -> None:
        """The handshake was answered by a response, or the client has gone before."""
        self._pending = None
        self._session.over(ABNORMAL, "")
        self._part()

    def _part(self) -> None:
        """Let go of the session, which refers to this: only the collector would notice."""
        del self._session, self._receive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing: Callable[[], bool] = transport.is_closing
        self._wait_for_ping()

    # Messages.

    def send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        if size >= self._compresses_from:
            library = self._library
            (library.send_text if kind == TEXT else library.send_binary)(payload)
            self._write_out()
        elif size <= LONGEST_SHORT:
            write = self.write  # To call it where it is kept takes 130 instructions more.
            write(_HEADS[kind][size] + payload)
        elif size <= COPY_BOUND:
            self.write(head(kind, size) + payload)
        else:
            self.write_pieces((head(kind, size), payload))

    def _write_out(self) -> None:
        """Write what the library was asked to send, which is not the end of the stream."""
        for data in self._library.data_to_send():
            self.write(data)

    # Flow control.

    def hold(self) -> None:
        if self._phase < CLOSING and self._transport is not None:
            self._phase = HELD
            self._transport.pause_reading()

    def read_again(self) -> None:
        """Go on reading, if nothing speaks against it any more."""
        if self._phase is HELD and not (self.service.draining or self.write_paused or self._session.is_full):
            self._phase = PART
            self._read_soon()

    def _read_soon(self) -> None:
        # Not in the context of the call that has ended, nor within the reading that it may have been called from.
        self.service.loop.call_soon(self._read_on, context=self.service.context)

    def _read_on(self) -> None:
        if self._phase < HELD:
            self._read()
        if self._phase < HELD and not self.is_closing() and self._transport is not None:
            self._transport.resume_reading()

    def call_ended(self) -> None:
        if not self.service.draining:
            self.read_again()
        elif self._session.is_idle:
            self._stop()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._waiting is self.service.ws_pong_waits:
            self._wait_for_client(self._waiting)
        self.read_again()

    def _weigh(self, size: int) -> None:
        self._session.weigh(size)

    def _rest(self) -> None:
        if self._transport is None:
            return
        self._transport.pause_reading()
        if self._phase is CLOSING:
            self._read_soon()
        else:
            self._phase = HELD
            self.service.loop.call_soon(self.read_again, context=self.service.context)

    def _answer(self, data: bytes) -> None:
        if self._phase is CLOSING:
            return  # It closes, and may go without pongs.
        self._session.write_first()
        self.write(data)
        if self.write_paused:
            self.hold()  # Or a client that asks without reading could fill the memory.

    # Pings and deadlines.

    def _wait_for_ping(self) -> None:
        pings = self.service.ws_ping_waits
        self._wait(pings if pings.seconds else None)

    def _wait_for_client(self, deadlines: Deadlines) -> None:
        """Wait for something that the client does, as long as it reads what it is sent meanwhile."""
        if self._transport is not None:
            self._unsent = self._transport.get_write_buffer_size()
            self._wait(deadlines)

    def _pong(self) -> None:
        if self._waiting is self.service.ws_pong_waits:
            self._wait_for_ping()

    def deadline_passed(self, deadlines: Deadlines) -> None:
        self._waiting = None
        pongs = self.service.ws_pong_waits
        if self._transport is None:
            return
        if deadlines is self.service.ws_ping_waits:
            self._library.send_ping(b"")
            self._write_out()
            if pongs.seconds:
                self._wait_for_client(pongs)
            else:
                self._wait_for_ping()
        elif deadlines is self.service.slow_waits:
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._wait_for_client(self.service.ws_close_waits)
        elif self._transport.get_write_buffer_size() < self._unsent:
            self._wait_for_client(deadlines)
        elif deadlines is not pongs:
            self._transport.abort()
        elif self._phase is HELD and not self.write_paused:
            self._wait_for_client(pongs)  # The pong may be among what is not read.
        else:
            self._library.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            self._flush()

    # The end.

    def close(self, code: int, reason: str) -> None:
        self._library.send_close(code, reason)
        self._write_out()
        if self._phase is HELD:
            self._read_soon()
        self._phase = CLOSING
        self._let_writers_go()
        self._wait_for_client(self.service.ws_close_waits)

    def close_slow(self) -> None:
        self.close(TRY_AGAIN_LATER, "reads too slowly")
        if self._transport is not None:
            self._wait(self.service.slow_waits)

    def _end(self, received: Close | None = None) -> None:
        self._over(received)
        if self._transport is None or self._transport.is_closing():
            return
        self._wait_for_end()
        if self.service.linger_waits.seconds and self._transport.can_write_eof():
            # A socket that is closed with bytes unread sends a reset, which may overtake what it has sent.
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def _wait_for_end(self) -> None:
        """Wait for the client to close, or to read what was sent last."""
        lingers = self.service.linger_waits
        self._wait_for_client(lingers if lingers.seconds else self.service.ws_close_waits)

    def _over(self, received: Close | None = None) -> None:
        """Nothing that comes is looked at any more; tell the session how it ended."""
        if self._phase is OVER:
            return
        self._phase = OVER
        self._data = b""
        self._fragments = None
        self._library.receive_eof()
        end = self._library.close_exc
        if end.__cause__ is not None:
            # It refers to frames, and those to the library and to all that was decompressed.
            end.__cause__.__traceback__ = None
        close = received or end.rcvd or end.sent
        if close is None:
            self._session.over(ABNORMAL, "")
        else:
            self._session.over(int(close.code), close.reason)
        self._let_writers_go()

    def eof_received(self) -> None:
        self._over()
        self._wait_for_end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._transport = None
        if self._stopping is not None:
            self._stopping.cancel()
        self.write_paused = False
        self._over()
        self._let_writers_go()
        self._part()
        self.service.connections.discard(self)
        self.service.on_less()

    def drain(self) -> None:
        """Read no more, and close when the calls under way have ended, or soon."""
        if self._stopping is not None or self._phase is OVER:
            return
        if self._phase is CLOSING:
            if self._waiting is self.service.ws_close_waits:
                self._wait_for_end()
        else:
            self.hold()
            self._session.watch()
            self._stopping = self.service.loop.call_later(RECEIVE_GRACE, self._stop)
            self.call_ended()

    def _stop(self) -> None:
        if self._phase is HELD:
            self._session.close(SERVICE_RESTART, "")
            self._session.over(SERVICE_RESTART, "")
            self._let_writers_go()
            if self._transport is not None and not self.service.linger_waits.seconds:
                self._transport.close()
            self._wait_for_end()

    def close_if_idle(self) -> None:
        """One that is idle is closed by :meth:`drain`."""
