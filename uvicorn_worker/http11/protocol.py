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
from uvicorn_worker.config import SLICE
from uvicorn_worker.errors import BodyStalled, ClientDisconnected, RequestRefused
from uvicorn_worker.flow import FlowControl, Unread
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.body import COMPLETE, DROPPING, READING
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.framing import refuse
from uvicorn_worker.http11.reader import HEAD, OVER, SWITCHING
from uvicorn_worker.http11.response import FINISHED, HELD, OPEN, WAITING
from uvicorn_worker.http11.upgrade import Upgraded
from uvicorn_worker.http11.usual import UsualReader
from uvicorn_worker.proxy import Told
from uvicorn_worker.service import Service

# SO_LINGER with no time to linger: the connection ends by a reset.
_RESET = struct.pack("ii", 1, 0)


class HTTP11Protocol(FlowControl, UsualReader, asyncio.Protocol):
    """A connection that speaks HTTP/1.0 and HTTP/1.1 (RFC 9112)."""

    __slots__ = (
        "_exchange",
        "_idle_until",
        "_last_chance",
        "_owed",
        "_queue",
        "_reading_paused",
        "_room",
        "_transport",
        "_unparsed",
        "_unsent",
        "_waiting",
        "has_ended",
        "is_closing",
        "peer",
        "template",
        "told",
        "write",
        "write_paused",
    )

    def __init__(
        self, service: Service, exchange_class: type[Exchange], client: Address | None, server: Address | None
    ) -> None:
        super().__init__(service, exchange_class)
        self.template = exchange_class.template_for(service, client, server)
        self.peer = client
        self.told: Told | None = None
        self.trust = service.proxies.trust_in(client)
        self.write_paused = False
        self._owed = 0
        #: Whether the client sends no more.
        self.has_ended = False
        #: The exchange that is being answered, and those behind it, with what is refused after them.
        self._exchange: Exchange | None = None
        self._queue: deque[Exchange | RequestRefused] | None = None
        self._unparsed: memoryview | None = None
        self._reading_paused = False
        self._room: asyncio.Future[None] | None = None
        #: It stays among those that are idle while it serves a request, if that is what it was: who asks again within
        #: the same tick has the same deadline then, and to leave a queue and to join it costs 500 instructions more.
        self._waiting: Deadlines | None = None
        self._idle_until = 0.0
        self._transport: asyncio.Transport | None = None
        #: Whether it was idle when it was last asked to drain.
        self._last_chance = False
        service.connections.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing: Callable[[], bool] = transport.is_closing
        if self.service.scheme == "https":
            self._exchange_class.describe_tls(self.template, transport.get_extra_info("ssl_object"))
        self._wait(self.service.head_waits)
        if self._unparsed is not None:
            self._read_unparsed()
        self._begin_next()

    # What is known before it is made, of a connection that can begin with a PROXY header.

    def introduce(self, told: Told | None, received: bytes) -> None:
        """What its peer has ``told`` of a client, if it speaks for one; ``received`` is what it has sent otherwise."""
        if told is not None:
            self.told = told
            self.trust = self.service.proxies.trust_in(self.peer, told.client)
            self.template["client"] = told.client
        if received:
            self._unparsed = memoryview(received)

    def can_be_variable(self, name: bytes) -> bool:
        return self.service.proxies.can_be_variable(name, self.trust)

    def turn_away(self, refusal: RequestRefused) -> None:
        """Nothing but this is to be told to its peer."""
        self._read_no_more()
        self._enqueue(refusal)

    # Exchanges, in order.

    def _accept(self, exchange: Exchange) -> None:
        if self._exchange is not None or self.write_paused:
            return self._enqueue(exchange)
        self._exchange = exchange
        service = self.service
        if self._waiting is not service.idle_waits:
            self._wait(None)
        if service.requests_left is not None:
            service.count_request()
        service.running.add(exchange)
        # The task has a copy of the context that this runs in, which is the connection's own.
        create_task = service.create_task
        exchange.task = create_task(exchange.run(service))

    def _enqueue(self, exchange: Exchange | RequestRefused) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(exchange)
        if self._exchange is None:
            self._watch_unsent()
        if len(self._queue) >= self.service.settings.pipelined_requests:
            self._pause_reading()

    def go_on(self, exchange: Exchange) -> None:
        self._exchange = None
        if not exchange.keep_alive:
            self._end()
        elif self._queue:
            self._begin_next()
        else:
            service = self.service
            waits = service.head_waits if self._unfinished else service.idle_waits
            if self._waiting is not waits or self._idle_until != waits.due:
                if self._waiting is not None:
                    del self._waiting[self]
                self._waiting = waits
                waits[self] = self._idle_until = waits.due

    def _begin_next(self) -> None:
        """Turn to the first in the queue, if the client reads what it is sent."""
        if not self._queue or self._exchange is not None:
            return
        if self.write_paused:
            self._watch_unsent()
            return
        first = self._queue.popleft()
        if isinstance(first, RequestRefused):
            self._send_refusal(first)
        else:
            # Not in the context of the request that was answered before.
            self.service.context.copy().run(self._accept, first)
            self._resume_reading()

    def exchange_ended(self, exchange: Exchange) -> None:
        if exchange is self._exchange and exchange.reply is FINISHED:
            if exchange.keep_alive and exchange.body is READING:
                exchange.drop_body()
                self._wait(self.service.stall_waits)
            elif not exchange.keep_alive or exchange.body is not DROPPING:
                self._end()
        if self.service.draining:
            self.service.on_less()

    def switch(self, protocol: Upgraded) -> None:
        """The last exchange was answered with a switch: hand the connection over, with what has come for it."""
        transport, kept, write_paused = self._transport, self._unparsed, self.write_paused
        assert transport is not None
        self.service.connections.add(protocol)
        self._leave()
        transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
        transport.resume_reading()  # First, because the protocol may pause it.
        # Not in the context of the call that has answered.
        self.service.context.copy().run(_begin, protocol, transport, kept, write_paused)

    # Refusals.

    def _refuse(self, refusal: RequestRefused, incoming: Exchange | None) -> None:
        self._unparsed = None
        if incoming is not None and incoming is self._exchange:
            self.refuse_body(incoming, refusal)
            return
        if incoming is not None and self._queue:
            self._queue.pop()  # It is the last of them, and has not begun.
        if self._exchange is None and not self._queue:
            self._send_refusal(refusal)
        else:
            self._enqueue(refusal)

    def refuse_body(self, exchange: Exchange, refusal: RequestRefused) -> None:
        """The body of the exchange under way is unreadable: answer instead of the application, if it hasn't."""
        unanswered = exchange.reply is WAITING or exchange.reply is HELD
        refusal.method = exchange.method
        if exchange.reply is OPEN:
            exchange.let_go()
        exchange.client_gone()
        self._exchange = None
        if unanswered:
            self._send_refusal(refusal)
        else:
            self._linger()

    def _send_refusal(self, refusal: RequestRefused) -> None:
        client = self.template["client"]
        # In the words of Gunicorn's own workers, for what watches logs.
        self.service.log.warning("Invalid request from ip=%s: %s", client[0] if client else "-", refusal.reason)
        prefix = self.service.prefixes[refusal.status]
        self.write(wire.refusal(prefix, refusal.reason, with_body=refusal.method != "HEAD"))
        self._linger()

    # Flow control.

    def _read_in_slices(self, data: bytes | memoryview) -> None:
        if self._phase is not OVER:
            unparsed = self._unparsed
            self._unparsed = memoryview(data if unparsed is None else unparsed.tobytes() + data)
            if self._phase is SWITCHING:
                self._pause_reading()
            else:
                self._read_unparsed()

    def _keep(self, data: bytes | memoryview) -> None:
        if data:
            self._unparsed = memoryview(bytes(data) + (self._unparsed or b""))
            self._pause_reading()

    def _read_unparsed(self) -> None:
        """Read slices until none is left or reading is paused; as long as one is left, what comes goes behind it."""
        self._watch = 1
        self._fed = self._fed or 1
        while self._unparsed is not None and not self._reading_paused and self._phase < SWITCHING:
            # What is known to be of a body can be no request. It is read at once, so that less has to be joined again.
            size = self._slice = SLICE if self._incoming is None else max(SLICE, self._incoming.room)
            data, rest = self._unparsed[:size], self._unparsed[size:]
            self._unparsed = rest if rest else None
            self.feed(data)
        self._watch = 0
        if not self._unfinished:
            self._fed = 0  # It is of the next request, which may have no slices.
        if self._phase < SWITCHING and self._unparsed is None:
            self._slice = self.service.slice_without_limits
        else:
            self._slice = -1

    def _head_begun(self) -> None:
        is_idle = self._waiting is self.service.idle_waits and self._exchange is None
        if is_idle or self._waiting is self.service.closing_waits:
            self._wait(self.service.head_waits)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            # Later, because it may be the parser that has called, which can't be fed by its own callback; and not in
            # the context of the request that is being answered.
            self.service.loop.call_soon(self._read_on, context=self.service.context)

    def _read_on(self) -> None:
        if not self.is_closing():
            self._read_unparsed()
            if not self._reading_paused and self._transport is not None:
                self._transport.resume_reading()

    def body_filled(self) -> None:
        self._pause_reading()

    def body_emptied(self) -> None:
        if not self._queue:
            self._resume_reading()

    def body_awaited(self) -> None:
        self._wait(self.service.stall_waits)

    def body_arrived(self) -> None:
        dropped = self._exchange is not None and self._exchange.body is DROPPING
        if self._waiting is self.service.stall_waits and not dropped:
            self._wait(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._begin_next()

    async def room_to_write(self) -> None:
        """As :class:`FlowControl` has it; a client that reads nothing for ``timeout`` is made to go."""
        if self._transport is None:
            return
        waits, unread = self.service.closing_waits, Unread(self._transport)
        waits[unread] = waits.due
        try:
            await super().room_to_write()
        finally:
            waits.pop(unread, None)

    # Deadlines.

    def deadline_passed(self, deadlines: Deadlines) -> None:
        self._waiting = None
        service = self.service
        exchange = self._exchange
        if deadlines is service.head_waits and self._unfinished:
            self._fail(refuse("The head of the request took too long", HTTPStatus.REQUEST_TIMEOUT))
        elif deadlines is service.head_waits:
            self._close()
        elif deadlines is service.idle_waits:
            if exchange is not None:
                return  # It was idle then, and will be again.
            if self._transport is not None and self._transport.get_write_buffer_size():
                self._watch_unsent()  # Not idle yet: the client reads its last reply.
            else:
                self._close()
        elif deadlines is not service.stall_waits or exchange is None:
            self._check_unsent()
        elif exchange.body is DROPPING:
            self._linger()
        elif exchange.body is not COMPLETE:
            self._read_no_more()
            exchange.end_connection()
            exchange.break_body(BodyStalled, "the body of the request stalled")

    # The end.

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is answered, if it can be (TLS has no half-closing)."""
        last = self._queue[-1] if self._queue else self._exchange
        if self._phase is SWITCHING:
            # No other protocol begins with its end.
            if last is self._exchange or not self._queue:
                return False
            self._queue.pop()
            last = self._queue[-1] if self._queue else self._exchange
        self._read_no_more()
        self._unfinished = False
        if self._incoming is not None:
            self._incoming.break_body(ClientDisconnected, "the client closed the connection within the body")
            self._incoming = None
        self.has_ended = True
        if self._exchange is not None:
            self._exchange.client_ended()
        if last is None or self.service.scheme == "https":
            return False
        if isinstance(last, Exchange):
            last.end_connection()
            return last.body is not DROPPING
        return True

    def _end(self) -> None:
        """Close after the last answer, in a way that lets the client read it."""
        if self._unfinished or self._queue or self._unparsed is not None:
            self._linger()
        else:
            self._close()

    def _close(self) -> None:
        """Close when everything that was written has left."""
        self._read_no_more()
        if self._transport is not None:
            self._transport.close()
            self._watch_unsent()

    def _linger(self) -> None:
        """Close for writing, and drop what still comes.

        A socket that is closed with bytes unread sends a reset, which may overtake the answer (RFC 9112 section 9.6).
        """
        self._read_no_more()
        self._incoming = self._unparsed = self._queue = self._exchange = None
        if self._transport is None or self._transport.is_closing():
            return
        if self.has_ended or not self.service.linger_waits.seconds:  # Nothing comes, or nobody waits for it.
            return self._close()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume_reading()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        """Wait for the client to read what it was sent, as long as it reads some of it within ``timeout``."""
        if self._transport is not None:
            self._unsent = self._transport.get_write_buffer_size()
            self._wait(self.service.closing_waits if self._unsent else self.service.linger_waits)

    def _check_unsent(self) -> None:
        """The time to close is up, or the client has been reading its last answer for long."""
        if self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if not unsent and self._phase is HEAD:
            self._wait(self.service.idle_waits)
        elif unsent < self._unsent:
            self._watch_unsent()
        else:
            self._transport.abort()

    def cut(self, exchange: Exchange) -> None:
        """End the connection so that the client can tell that the reply is not whole."""
        ends_with_connection = exchange.ends_with_connection
        if exchange.reply is OPEN:
            exchange.let_go()
        exchange.client_gone()
        if ends_with_connection and self._transport is not None:
            # An orderly end of the connection would be the orderly end of the reply.
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._linger()

    def drain(self) -> None:
        self.keeps_alive = False
        if self._exchange is not None and self._exchange.reply is WAITING:
            self._exchange.end_connection()
        self._last_chance = self._is_idle()

    def close_if_idle(self) -> None:
        if self._last_chance and self._is_idle():
            self._close()

    def _is_idle(self) -> bool:
        if self._transport is None:
            return False  # It was accepted just now, and what it asks for was not read yet.
        return self._exchange is None and not self._queue and self._phase is HEAD and not self._unfinished

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_no_more()
        for exchange in (self._incoming, self._exchange):
            if exchange is not None:
                exchange.client_gone()
        self._leave()
        self.service.on_less()

    def _leave(self) -> None:
        """Let go of everything: the connection has gone, or speaks another protocol."""
        self.has_ended = True
        self.write_paused = False
        self._wait(None)
        self._read_no_more()
        self._incoming = self._exchange = self._queue = self._unparsed = None
        self._let_writers_go()
        # The parser holds bound methods of this object: a cycle that only the collector could end.
        self._parser = self._transport = None
        self.service.connections.discard(self)


def _begin(
    protocol: Upgraded, transport: asyncio.Transport, received: memoryview | None, write_paused: bool
) -> None:
    """Have ``protocol`` take over ``transport``, with what was ``received`` for it already."""
    try:
        protocol.connection_made(transport)
        if write_paused:
            protocol.pause_writing()
        if received is not None:
            protocol.data_received(bytes(received))
    except BaseException:
        transport.abort()
        raise
