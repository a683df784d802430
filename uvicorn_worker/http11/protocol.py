"""One client's connection: its exchanges in order, flow control both ways, deadlines, and how it ends.

A connection waits in at most one queue of deadlines: for a head, for the next request, for a body that somebody waits
for or an end that the client doesn't read, or for the client to close after the last answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from uvicorn_worker._types import Address
from uvicorn_worker.clock import Deadlines
from uvicorn_worker.config import IDLE_GRACE, SLICE
from uvicorn_worker.errors import BodyStalled, ClientDisconnected, RequestRefused
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.exchange import COMPLETE, FINISHED, HELD, READING, WAITING, Exchange
from uvicorn_worker.http11.framing import refuse
from uvicorn_worker.http11.reader import HEAD, OVER, RequestReader
from uvicorn_worker.service import Service

# SO_LINGER with no time to linger: the connection ends by a reset.
_RESET = struct.pack("ii", 1, 0)


class HTTP11Protocol(RequestReader, asyncio.Protocol):
    """A connection that speaks HTTP/1.0 and HTTP/1.1 (RFC 9112)."""

    __slots__ = (
        "_exchange",
        "_queue",
        "_reading_paused",
        "_refusal",
        "_room",
        "_transport",
        "_unparsed",
        "_unsent",
        "_waiting",
        "client",
        "server",
        "write",
        "write_paused",
    )

    def __init__(
        self, service: Service, exchange_class: type[Exchange], client: Address | None, server: Address | None
    ) -> None:
        super().__init__(service, exchange_class)
        self.client = client
        self.server = server
        self.write_paused = False
        #: The exchange that is being answered, those behind it, and what is refused after them.
        self._exchange: Exchange | None = None
        self._queue: deque[Exchange] | None = None
        self._refusal: RequestRefused | None = None
        self._unparsed: memoryview | None = None
        self._reading_paused = False
        self._room: asyncio.Future[None] | None = None
        self._waiting: Deadlines | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write: Callable[[bytes], None] = self._transport.write
        self.service.connections.add(self)
        self._wait(self.service.head_waits)

    def data_received(self, data: bytes) -> None:
        if self._phase is OVER:
            return
        if len(data) > SLICE or self._unparsed is not None:
            unparsed = self._unparsed
            self._unparsed = memoryview(data if unparsed is None else unparsed.tobytes() + data)
            self._feed_unparsed()
        else:
            self._feed(data)
        if self._exchange is None and self._waiting is self.service.idle_waits and self._in_head():
            self._wait(self.service.head_waits)

    def _in_head(self) -> bool:
        """Whether a request has begun to arrive, if only by an empty line before it."""
        return self._phase is HEAD and bool(self._url or self._fed)

    # Exchanges, in order.

    def _accept(self, exchange: Exchange) -> None:
        if self._exchange is None and not self.write_paused:
            self._begin(exchange)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(exchange)
        if len(self._queue) >= self.service.settings.pipelined_requests:
            self._pause_reading()

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._wait(None)
        service = self.service
        service.requests_left -= 1
        if not service.requests_left:
            service.on_quota()
        exchange.begin()

    def reply_finished(self, exchange: Exchange) -> None:
        if exchange.body is COMPLETE:
            self._go_on(exchange)

    def _body_completed(self, exchange: Exchange) -> None:
        if exchange is self._exchange and exchange.reply is FINISHED:
            self._go_on(exchange)

    def _go_on(self, exchange: Exchange) -> None:
        """``exchange`` is over: turn to the next one."""
        self._exchange = None
        if not exchange.keep_alive:
            self._end()
        elif self._queue:
            self._begin_next()
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._wait(self.service.head_waits if self._in_head() else self.service.idle_waits)
            self._resume_reading()
            if self.service.draining:
                self.drain()

    def _begin_next(self) -> None:
        if self._queue and self._exchange is None and not self.write_paused:
            self._begin(self._queue.popleft())
            self._resume_reading()

    def exchange_ended(self, exchange: Exchange) -> None:
        """The application's call has returned, or more came of its body than is worth dropping."""
        if exchange is self._exchange and exchange.reply is FINISHED:
            if exchange.keep_alive and exchange.body is READING:
                exchange.drop_body()
                self._wait(self.service.stall_waits)
            else:
                self._end()
        if self.service.draining:
            self.service.on_less()

    # Refusals.

    def _refuse(self, refusal: RequestRefused, incoming: Exchange | None) -> None:
        self._unparsed = None
        if incoming is not None and self._queue and incoming is self._queue[-1]:
            self._queue.pop()
        if incoming is not None and incoming is self._exchange:
            self.refuse_body(incoming, refusal)
        elif self._exchange is None and not self._queue:
            self._send_refusal(refusal)
        else:
            self._refusal = refusal

    def refuse_body(self, exchange: Exchange, refusal: RequestRefused) -> None:
        """The body of the exchange under way is unreadable: answer instead of the application, if it hasn't."""
        unanswered = exchange.reply is WAITING or exchange.reply is HELD
        exchange.client_gone()
        self._exchange = None
        if unanswered:
            self._send_refusal(refusal)
        else:
            self._linger()

    def _send_refusal(self, refusal: RequestRefused) -> None:
        prefix = self.service.prefixes[refusal.status]
        with_body = self._parser.get_method() != b"HEAD"
        self.write(wire.refusal(prefix, refusal.reason, with_body=with_body))
        self._linger()

    # Flow control.

    def _feed_unparsed(self) -> None:
        while self._unparsed is not None and not self._reading_paused and self._phase is not OVER:
            data, rest = self._unparsed[:SLICE], self._unparsed[SLICE:]
            self._unparsed = rest if rest else None
            self._feed(data)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            # Later, because it may be the parser that has called, which can't be fed by its own callback.
            self.service.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._feed_unparsed()
            if not self._reading_paused:
                self._transport.resume_reading()

    def body_filled(self) -> None:
        self._pause_reading()

    def body_emptied(self) -> None:
        if not self._queue:
            self._resume_reading()

    def body_awaited(self) -> None:
        self._wait(self.service.stall_waits)

    def body_arrived(self) -> None:
        if self._waiting is self.service.stall_waits:
            self._wait(None)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._let_writers_go()
        self._begin_next()

    async def room_to_write(self) -> None:
        if self._room is None:
            self._room = self.service.loop.create_future()
        await asyncio.shield(self._room)

    def _let_writers_go(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    # Deadlines.

    def _wait(self, deadlines: Deadlines | None) -> None:
        """Wait in ``deadlines`` from now on, and in no other queue."""
        if self._waiting is not None:
            self._waiting.stop(self)
        self._waiting = deadlines
        if deadlines is not None:
            deadlines.start(self)

    def deadline_passed(self, deadlines: Deadlines) -> None:
        self._waiting = None
        service = self.service
        if deadlines is service.head_waits and self._in_head():
            self._fail(refuse("The head of the request took too long", HTTPStatus.REQUEST_TIMEOUT))
        elif deadlines is service.head_waits or deadlines is service.idle_waits:
            self._close()
        elif self._transport.is_closing() or deadlines is service.linger_waits or self._exchange is None:
            self._check_unsent()
        elif self._exchange.body is READING:
            self._phase = OVER
            self._exchange.keep_alive = False
            self._exchange.break_body(BodyStalled("the body of the request stalled"))
        else:
            self._linger()

    # The end.

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is answered, if it can be (TLS has no half-closing)."""
        last = self._queue[-1] if self._queue else self._exchange
        self._phase = OVER
        if self._incoming is not None:
            self._incoming.break_body(ClientDisconnected("the client closed the connection within the body"))
            self._incoming = None
        if last is None or self.service.scheme == "https":
            return False
        last.keep_alive = False
        return True

    def _end(self) -> None:
        """Close after the last answer, in a way that lets the client read it."""
        if self._incoming is not None or self._queue or self._in_head() or self._unparsed is not None:
            self._linger()
        else:
            self._close()

    def _close(self) -> None:
        """Close when everything that was written has left."""
        self._phase = OVER
        self._transport.close()
        self._watch_unsent()

    def _linger(self) -> None:
        """Close for writing, and drop what still comes.

        A socket that is closed with bytes unread sends a reset, which may overtake the answer (RFC 9112 section 9.6).
        """
        self._phase = OVER
        self._incoming = self._unparsed = self._queue = self._exchange = None
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume_reading()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._wait(self.service.stall_waits if self._unsent else self.service.linger_waits)

    def _check_unsent(self) -> None:
        """The time to close is up, or the client has been reading its last answer for long."""
        if self._transport.get_write_buffer_size() < self._unsent:
            self._watch_unsent()
        else:
            self._transport.abort()

    def cut(self, exchange: Exchange) -> None:
        """End the connection so that the client can tell that the reply is not whole."""
        ends_with_connection = exchange.ends_with_connection
        exchange.client_gone()
        if ends_with_connection:
            # An orderly end of the connection would be the orderly end of the reply.
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._linger()

    def drain(self) -> None:
        if self._exchange is None and not self._queue and self._phase is HEAD:
            # A request may be on its way at this moment: it is still answered.
            self.service.loop.call_later(IDLE_GRACE, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._exchange is None and self._phase is HEAD and not self._in_head():
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._phase = OVER
        for exchange in (self._incoming, self._exchange):
            if exchange is not None:
                exchange.client_gone()
        self._incoming = self._exchange = self._queue = self._unparsed = None
        self._let_writers_go()
        # The parser holds bound methods of this object: a cycle that only the collector could end.
        self._parser = None
        self.service.connections.discard(self)
        self.service.on_less()
