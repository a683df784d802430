"""The response of one exchange, as it leaves.

Everything that moves its state is in this file, but for the end of the connection, and of the exchange, under it. The
reply is WAITING for its head, which is HELD to the end of the loop's turn for content to join it, and OPEN until it is
FINISHED. It is GONE when there is nobody to send it to, or no way to end it well.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn_worker._types import Message, ReplyFields
from uvicorn_worker.config import BODILESS_STATUSES, COPY_BOUND
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.http11.body import ABSENT, COMPLETE, EXPECTED, READING, BodyWire, RequestBody
from uvicorn_worker.http11.framing import bodiless, chunked
from uvicorn_worker.http11.wire import CLOSING_LENGTH_LINES, LAST_LENGTH_LINES, LINES
from uvicorn_worker.service import Service


class Reply(IntEnum):
    WAITING = 0
    HELD = 1
    OPEN = 2
    FINISHED = 3
    GONE = 4


# A global is looked up in a fraction of the time of an attribute of the enumeration, which is tested all the time.
WAITING, HELD, OPEN, FINISHED, GONE = Reply


class ResponseWire(BodyWire, Protocol):
    """The connection, as a response sees it."""

    __slots__ = ()

    write_paused: bool

    def write(self, data: bytes, /) -> None: ...

    def write_pieces(self, pieces: tuple[bytes, ...]) -> None:
        """Write what is too long to be copied into one piece."""
        ...

    def is_closing(self) -> bool:
        """Whether what is written may lead nowhere."""
        ...

    async def room_to_write(self) -> None:
        """Return when the client has read enough, or has gone."""
        ...

    def go_on(self, exchange: Any) -> None:
        """The exchange is over, its request read and its reply written: turn to the next."""
        ...


class Response(RequestBody):
    """What an exchange knows of its response."""

    __slots__ = (
        "_framing",
        "_gathered",
        "_left",
        "connection",
        "is_usual",
        "keep_alive",
        "method",
        "reply",
        "sent",
        "status",
        "template",
    )

    connection: ResponseWire
    method: str
    template: Message
    reply: Reply
    #: Whether the connection outlives the exchange, as far as is known yet.
    keep_alive: bool
    #: Whether nothing about the request changes how a whole response looks, but that it may say ``close``.
    is_usual: bool

    # What only some responses need is set when they come to need it: each attribute costs 75 instructions a request.
    _framing: framing.Framing
    #: The reply from its head on, in the turn of the loop in which it began. Parts that are sent without waiting are
    #: many and small: leaving together, each costs half as much.
    _gathered: list[bytes] | None
    _left: int | None
    #: The status, and the bytes of content that were sent, as soon as it has begun.
    status: int
    sent: int

    @property
    def ends_with_connection(self) -> bool:
        """Whether the content under way is delimited by nothing but the end of the connection."""
        return self.reply is OPEN and self._is_delimited_by_end

    def end_connection(self) -> None:
        """The connection ends with this exchange, and its response says so if it still can."""
        self.keep_alive = False

    def send_whole(self, status: int, fields: ReplyFields, content: bytes) -> None:
        """Start, write and finish a response in one transport write.

        Raises :class:`InvalidReply`, :class:`IllegalMove` or :class:`ClientDisconnected`, having sent nothing.
        """
        if self.reply is not WAITING:
            self._check_move("a second start")
        if not self.is_usual:
            return self._send_whole_unusual(status, fields, content)
        connection = self.connection
        try:
            head = connection.service.usual_prefixes[status]
            if type(fields) is not list:
                fields = list(fields)  # It may be looked through again.
            for name, value in fields:
                head += LINES[name, value]
        except (wire.DecisiveField, KeyError, TypeError, ValueError):
            return self._send_whole_unusual(status, fields, content)
        length = len(content)
        last_lines = LAST_LENGTH_LINES[length] if self.keep_alive else CLOSING_LENGTH_LINES[length]
        if length > COPY_BOUND:
            connection.write_pieces((head + last_lines, content))
        else:
            write = connection.write  # To call it where it is kept takes 130 instructions more.
            write(b"".join((head, last_lines, content)))
        self.status = status
        self.sent = length
        self.reply = FINISHED
        connection.go_on(self)

    def _send_whole_unusual(self, status: int, fields: ReplyFields, content: bytes) -> None:
        """The same where something but the length decides how the response looks, or where it can't be sent."""
        wire.check_status(status)
        if status in wire.INTERIM_STATUSES:
            return self._send_interim(status, fields)
        head, content = self._make_head(status, fields, content)
        self.sent = len(content)
        if len(content) > COPY_BOUND:
            self.connection.write_pieces((head, content))
        else:
            self.connection.write(head + content)
        self._finish()

    def _finish(self) -> None:
        self.reply = FINISHED
        groups = self.connection.service.groups
        if groups.memberships:
            groups.leave(self)
        self._end_if_read()

    def _end_if_read(self) -> None:
        """The reply is finished; so is the exchange, if the request has been read."""
        if self.body is COMPLETE:
            # What was not received is dropped with the exchange.
            self.connection.body_arrived()
            self.connection.body_emptied()
        if self.body is COMPLETE or self.body is ABSENT:
            self.connection.go_on(self)

    def start(self, status: int, fields: ReplyFields) -> None:
        """Start a response whose content is written later. The head leaves at the end of the loop's turn, with what has
        been written of the content by then. A status below 200 is an interim response, which doesn't start the final
        one.

        Raises as :meth:`send_whole`.
        """
        wire.check_status(status)
        if status in wire.INTERIM_STATUSES:
            self._send_interim(status, fields)
        else:
            self._gathered = [self._make_head(status, fields, None)[0]]
            self.reply = HELD
            self.connection.service.loop.call_soon(self.let_go)

    def write(self, content: bytes, finish: bool = False, trailers: bytes = b"") -> None:
        """Write content of a started response, and ``finish`` it where this is the last, with lines of ``trailers``
        where there are chunks.

        Raises :class:`InvalidReply` where it is more, or in the end less, than the ``content-length`` said, having
        sent nothing of it; :class:`IllegalMove`; :class:`ClientDisconnected`.
        """
        if self.reply is not OPEN:
            if self.reply is not HELD:
                self._check_move("content")
            self.reply = OPEN
        if self._left is not None:
            self._count(len(content), finish)
        frame = self._framing
        if frame is not bodiless:
            self.sent += len(content)
        pieces = frame(content)
        gathered = self._gathered
        if gathered is not None and not finish and content and self.sent <= COPY_BOUND:
            gathered += pieces
            return
        if finish and frame is chunked:
            pieces += (framing.last_chunk(trailers),)
        if len(content) > COPY_BOUND and pieces and self.connection.service.has_writev:
            self._send_beside(content, pieces)
        else:
            self._send(pieces)
        if finish:
            self._finish()

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written; raises :class:`ClientDisconnected`."""
        if self.connection.is_closing():
            # That a write has failed is told in the loop's next turn, which a sender that never waits keeps away.
            await asyncio.sleep(0)
        while self.connection.write_paused and self.reply is not GONE:
            await self.connection.room_to_write()
        if self.reply is GONE:
            raise ClientDisconnected("the client has gone")

    def _make_head(self, status: int, fields: ReplyFields, content: bytes | None) -> tuple[bytes, bytes]:
        """The head as bytes, and what of a whole response's ``content`` goes behind it."""
        if self.reply is not WAITING:
            self._check_move("a second start")
        service = self.connection.service
        lines, given = wire.encode_fields(fields)
        prefix = service.prefixes.beside(status, given) if given else service.prefixes[status]
        line = self._delimit(status, content, given)
        if content is not None:
            if self._left is not None:
                self._count(len(content), finish=True)
            content = b"".join(self._framing(content))
        if framing.has_token(given.get(wire.CONNECTION, ()), b"close") or self._is_delimited_by_end:
            self.end_connection()
        self.status = status
        self.sent = 0
        return b"".join((prefix, lines, line, self._connection_line(service), b"\r\n")), content or b""

    def _delimit(self, status: int, content: bytes | None, given: dict[bytes, list[bytes]]) -> bytes:
        """Choose how the content is delimited; the field that says so."""
        declared = None
        if wire.CONTENT_LENGTH in given:
            declared = framing.parse_content_length(given[wire.CONTENT_LENGTH])
        elif content is not None:
            declared = len(content)
            if status in BODILESS_STATUSES:
                declared = None  # It would tell of another response than this.
        line, self._framing, self._left = framing.delimit(
            status, declared, is_head=self.method == "HEAD", has_chunks=self.template["http_version"] == "1.1"
        )
        return line

    @property
    def _is_delimited_by_end(self) -> bool:
        return self._framing is framing.plain and self._left is None

    def _connection_line(self, service: Service) -> bytes:
        """Settle whether the connection is kept, and say so where the client can't know it (RFC 9112 section 9.3)."""
        if not self.keep_alive or self._rest_is_too_long(service):
            self.end_connection()
            return b"connection: close\r\n"
        return b"" if self.template["http_version"] == "1.1" else b"connection: keep-alive\r\n"

    def _rest_is_too_long(self, service: Service) -> bool:
        """Whether the rest of the body, if unread, would not be worth reading to keep the connection.

        A client that waits for 100 (Continue) may send its body or not once it has a final answer, so what follows
        can't be told to be a body or a request.
        """
        if self.body is READING:
            return self.body_length is not None and self.body_length > service.settings.unread_body_limit
        return self.body is EXPECTED

    def _count(self, size: int, finish: bool) -> None:
        left = (self._left or 0) - size
        if left < 0:
            raise InvalidReply(f"{-left} bytes more than the content-length of the response said")
        if finish and left:
            raise InvalidReply(f"{left} bytes less than the content-length of the response said")
        self._left = left

    def _check_move(self, what: str) -> None:
        """Raise the error for something that the application can't send now."""
        if self.reply is GONE:
            raise ClientDisconnected("the client has gone")
        if self.reply is WAITING:
            raise IllegalMove(f"{what} before the start of the reply")
        raise IllegalMove(f"{what} after the {'end' if self.reply is FINISHED else 'start'} of the reply")

    def _send_interim(self, status: int, fields: ReplyFields) -> None:
        if self.reply is not WAITING:
            self._check_move("an interim response")
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise InvalidReply("status 101 can't be sent by an application")
        lines, _ = wire.encode_fields(fields)
        # RFC 9110 section 15.2: a client of HTTP/1.0 knows of no interim responses; and one that reads nothing needs
        # none.
        if self.template["http_version"] == "1.1" and not self.connection.write_paused:
            self.connection.write(wire.STATUS_LINES[status] + lines + b"\r\n")

    def let_go(self) -> None:
        """The turn of the loop in which the reply began is over, or there will be no more of it."""
        if self.reply is HELD:
            self.reply = OPEN
        if self.reply is OPEN:
            self._send(())

    def _send(self, pieces: tuple[bytes, ...]) -> None:
        """Have what was gathered leave, and ``pieces``."""
        gathered, self._gathered = self._gathered, None
        data = b"".join((*gathered, *pieces) if gathered else pieces)
        if data:
            self.connection.write(data)

    def _send_beside(self, content: bytes, pieces: tuple[bytes, ...]) -> None:
        """The same, where ``content`` is one of the ``pieces`` and too long to be copied."""
        gathered, self._gathered = self._gathered, None
        at = pieces.index(content)
        before = b"".join((*(gathered or ()), *pieces[:at]))
        after = b"".join(pieces[at + 1 :])
        self.connection.write_pieces((before, content, after))
