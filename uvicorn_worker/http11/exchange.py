"""One request and its response.

Everything that moves the state of either is in this file. The body of the request is READING until all of it came
(COMPLETE) or can't come any more (BROKEN); DROPPING is a body that nobody will read. The reply is WAITING for its
head, which is HELD to the end of the loop's turn for content to join it, and OPEN until it is FINISHED. It is GONE
when there is nobody to send it to, or no way to end it well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn_worker._types import Address, Application, ReplyFields, RequestFields
from uvicorn_worker.errors import BodyStalled, ClientDisconnected, IllegalMove, InvalidReply, RequestRefused, WorkerExit
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.observe import Record
from uvicorn_worker.service import Service


class Body(IntEnum):
    READING = 0
    COMPLETE = 1
    BROKEN = 2
    DROPPING = 3


class Reply(IntEnum):
    WAITING = 0
    HELD = 1
    OPEN = 2
    FINISHED = 3
    GONE = 4


# A global is looked up in a fraction of the time of an attribute of the enumeration, which is tested all the time.
READING, COMPLETE, BROKEN, DROPPING = Body
WAITING, HELD, OPEN, FINISHED, GONE = Reply

# Past this many bytes, content is written beside its head instead of being copied behind it.
_COPY_BOUND = 16 * 1024

_BODILESS_STATUSES = frozenset((204, 304))


class Wire(Protocol):
    """The connection, as its exchanges see it."""

    __slots__ = ()

    service: Service
    client: Address | None
    server: Address | None
    write_paused: bool

    def write(self, data: bytes, /) -> None: ...

    async def room_to_write(self) -> None:
        """Return when the client has read enough, or has gone."""
        ...

    def body_filled(self) -> None:
        """The exchange holds as much unread body as it may."""
        ...

    def body_emptied(self) -> None: ...

    def body_awaited(self) -> None: ...

    def body_arrived(self) -> None: ...

    def reply_finished(self, exchange: Exchange) -> None: ...

    def refuse_body(self, exchange: Exchange, refusal: RequestRefused) -> None: ...

    def cut(self, exchange: Exchange) -> None:
        """End the connection so that the client can tell that the reply is not whole."""
        ...

    def exchange_ended(self, exchange: Exchange) -> None: ...


class Exchange:
    """A parsed request head with its body as it arrives, and the response as it leaves."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_failure",
        "_framing",
        "_head",
        "_left",
        "_name",
        "_task",
        "_waiter",
        "body",
        "body_length",
        "connection",
        "expects_continue",
        "has_body",
        "headers",
        "keep_alive",
        "method",
        "record",
        "reply",
        "target",
        "version",
    )

    def __init__(self, connection: Wire, method: str, target: bytes, version: str, headers: RequestFields) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        #: Whether the connection outlives this exchange, as far as is known yet.
        self.keep_alive = True
        self.has_body = False
        #: Bytes of the body still to come; ``None`` where only its end will tell.
        self.body_length: int | None = 0
        self.expects_continue = False
        self.body = COMPLETE
        self.reply = WAITING
        self.record: Record | None = None
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._name: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.target.decode('latin-1')}"

    @property
    def ends_with_connection(self) -> bool:
        """Whether the content under way is delimited by nothing but the end of the connection."""
        return self.reply is OPEN and self._framing is framing.plain and self._left is None

    # The call of the application.

    def begin(self) -> None:
        """Call the application, in a task and a context of its own."""
        service = self.connection.service
        service.running.add(self)
        if service.observer is not None:
            self.record = service.observer.begin(self)
        self._task = service.loop.create_task(self._run(service), context=service.context.copy())

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        """The application's coroutine for this request; an interface says how it is made."""
        raise NotImplementedError

    async def _run(self, service: Service) -> None:
        try:
            await self.call(service.app)
            if self.reply < FINISHED:
                self._answer_for_the_application("returned without finishing its reply", None)
        except (WorkerExit, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: an application doesn't end the worker (and its siblings).
            self._application_raised(error)
        service.running.discard(self)
        self._task = None
        self.connection.exchange_ended(self)

    def cancel(self) -> None:
        """Cancel the call of the application."""
        if self._task is not None:
            self._task.cancel()

    def _application_raised(self, error: BaseException) -> None:
        if isinstance(error, ClientDisconnected) and (self.reply is GONE or self.body is BROKEN):
            if self.reply is WAITING and isinstance(self._failure, BodyStalled):
                refusal = RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "The body of the request stalled")
                self.connection.refuse_body(self, refusal)
            elif self.reply < FINISHED:
                self.connection.cut(self)
        elif isinstance(error, asyncio.CancelledError) and self.connection.service.draining:
            if self.reply < OPEN:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE)
            elif self.reply is OPEN:
                self.connection.cut(self)
        else:
            self._answer_for_the_application("raised", error)

    def _answer_for_the_application(self, what: str, error: BaseException | None) -> None:
        """Log what the application did, and answer with 500 or, where its reply has begun, end the connection."""
        self.connection.service.log.error("The application %s: %s", what, self, exc_info=error)
        if self.reply < OPEN:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif self.reply is OPEN:
            self.connection.cut(self)

    def _answer(self, status: HTTPStatus) -> None:
        self.reply = WAITING
        self.send_whole(status, ((b"content-type", b"text/plain; charset=utf-8"),), status.phrase.encode("ascii"))

    # The response.

    def send_whole(self, status: int, fields: ReplyFields, content: bytes) -> None:
        """Start, write and finish a response in one transport write.

        Raises :class:`InvalidReply`, :class:`IllegalMove` or :class:`ClientDisconnected`, having sent nothing.
        """
        head, content = self._make_head(status, fields, content)
        if len(content) > _COPY_BOUND:
            self.connection.write(head)
            self.connection.write(content)
        else:
            self.connection.write(head + content)
        self.reply = FINISHED
        self.connection.reply_finished(self)

    def start(self, status: int, fields: ReplyFields) -> None:
        """Start a response whose content is written later. The head leaves with the first of it, or by itself at the
        end of the loop's turn. A status below 200 is an interim response, which doesn't start the final one.

        Raises as :meth:`send_whole`.
        """
        if status in wire.INTERIM_STATUSES:
            self._send_interim(status, fields)
        else:
            self._head = self._make_head(status, fields, None)[0]
            self.reply = HELD
            self.connection.service.loop.call_soon(self._let_head_go)

    def write(self, content: bytes, *, finish: bool = False) -> None:
        """Write content of a started response, and ``finish`` it where this is the last.

        Raises :class:`InvalidReply` where it is more, or in the end less, than the ``content-length`` said, having
        sent nothing of it; :class:`IllegalMove`; :class:`ClientDisconnected`.
        """
        if self.reply is not OPEN and self.reply is not HELD:
            self._check_move("content")
        if self._left is not None:
            self._count(len(content), finish)
        data = self._framing(content)
        if finish and self._framing is framing.chunked:
            data += framing.LAST_CHUNK
        if self.reply is HELD:
            data = self._head + data
            self.reply = OPEN
        if data:
            self.connection.write(data)
        if self.record is not None:
            self.record.sent += len(content)
        if finish:
            self.reply = FINISHED
            self.connection.reply_finished(self)

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written; raises :class:`ClientDisconnected`."""
        while self.connection.write_paused and self.reply is not GONE:
            await self.connection.room_to_write()
        if self.reply is GONE:
            raise ClientDisconnected("the client has gone")

    def _make_head(self, status: int, fields: ReplyFields, content: bytes | None) -> tuple[bytes, bytes]:
        """The head as bytes, and what of a whole response's ``content`` goes behind it."""
        if self.reply is not WAITING:
            self._check_move("a second start")
        service = self.connection.service
        if self.record is not None:
            fields = list(fields)
        lines, given = wire.encode_fields(fields)
        try:
            prefix = service.prefixes[status]
        except (KeyError, TypeError):
            raise InvalidReply(f"status must be a whole number from 100 to 599, not {status!r}") from None
        if given or content is None or status in _BODILESS_STATUSES or self.method == "HEAD":
            if given:
                prefix = service.prefixes.beside(status, given)
            line, content = self._delimit(status, content, given)
        else:
            line = b"content-length: %d\r\n" % len(content)
        if self.record is not None:
            self.record.answer(status, fields, len(content))
        return b"%b%b%b%b\r\n" % (prefix, lines, line, self._connection_line(service)), content

    def _delimit(self, status: int, content: bytes | None, given: dict[int, list[bytes]]) -> tuple[bytes, bytes]:
        """Choose how the content is delimited: the field that says so, and what of ``content`` is sent."""
        declared = None
        if wire.CONTENT_LENGTH in given:
            declared = framing.parse_content_length(given[wire.CONTENT_LENGTH])
        if b"close" in b",".join(given.get(wire.CONNECTION, ())).lower():
            self.keep_alive = False
        bodiless = self.method == "HEAD" or status in _BODILESS_STATUSES
        if content is not None and declared is None and status not in _BODILESS_STATUSES:
            declared = len(content)
        self._framing = framing.bodiless if bodiless else framing.plain
        self._left = None if bodiless else declared
        if content is not None:
            if self._left is not None:
                self._count(len(content), finish=True)
            content = self._framing(content)
        if declared is not None and status != 204:
            return b"content-length: %d\r\n" % declared, content or b""
        if status not in _BODILESS_STATUSES:
            if self.version == "1.1":
                self._framing = framing.bodiless if bodiless else framing.chunked
                return b"transfer-encoding: chunked\r\n", b""
            self.keep_alive = bodiless and self.keep_alive
        return b"", b""

    def _connection_line(self, service: Service) -> bytes:
        """Settle whether the connection is kept, and say so where the client can't know it (RFC 9112 section 9.3)."""
        if self.body is READING and self._body_is_too_long(service):
            self.keep_alive = False
        if not self.keep_alive or service.draining:
            self.keep_alive = False
            return b"connection: close\r\n"
        return b"" if self.version == "1.1" else b"connection: keep-alive\r\n"

    def _body_is_too_long(self, service: Service) -> bool:
        """Whether the rest of the body, if unread, would not be worth reading to keep the connection.

        A client that waits for 100 (Continue) may send its body or not once it has a final answer, so what follows
        can't be told to be a body or a request.
        """
        return self.expects_continue or (self.body_length or 0) > service.settings.unread_body_limit

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
        # RFC 9110 section 15.2: a client of HTTP/1.0 knows of no interim responses.
        if self.version == "1.1":
            self.connection.write(wire.STATUS_LINES[status] + lines + b"\r\n")

    def _let_head_go(self) -> None:
        if self.reply is HELD:
            self.connection.write(self._head)
            self.reply = OPEN

    # The body of the request.

    async def receive_body(self) -> tuple[bytes, bool]:
        """What has come of the body since the last call, and whether more is to come; waits for the first byte.

        Raises :class:`ClientDisconnected` where the rest won't come.
        """
        if self.body is READING and not self._buffered:
            await self._wait_for_body()
        if self._buffered:
            content = b"".join(self._chunks)
            self._chunks.clear()
            self._buffered = 0
            self.connection.body_emptied()
            return content, self.body is not COMPLETE
        if self.body is BROKEN:
            raise self._failure
        return b"", False

    async def _wait_for_body(self) -> None:
        if self._waiter is not None:
            raise IllegalMove("the body is received by another task already")
        connection = self.connection
        if self.expects_continue:
            self.expects_continue = False
            if self.reply is WAITING:
                connection.write(wire.CONTINUE)
        self._waiter = connection.service.loop.create_future()
        connection.body_awaited()
        try:
            await self._waiter
        finally:
            self._waiter = None
            connection.body_arrived()

    def expect_body(self, length: int | None) -> None:
        """A body of ``length`` bytes follows the head, or one that tells its end itself."""
        self.has_body = True
        self.body = READING
        self.body_length = length
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        size = len(data)
        if self.body_length is not None:
            self.body_length -= size
        self._buffered += size
        settings = self.connection.service.settings
        if self.body is DROPPING:
            if self._buffered > settings.unread_body_limit:
                self.keep_alive = False
                self.connection.exchange_ended(self)
        elif self.body is READING:
            self._chunks.append(data)
            self._wake()
            if self._buffered > settings.request_body_buffer:
                self.connection.body_filled()

    def body_complete(self) -> None:
        """The last byte of the body has been fed."""
        self.expects_continue = False
        if self.body is not BROKEN:
            self.body = COMPLETE
            self._wake()

    def drop_body(self) -> None:
        """Nobody will read the rest of the body."""
        self.body = DROPPING
        self._buffered = 0
        self._chunks.clear()
        self.connection.body_emptied()

    def break_body(self, failure: ClientDisconnected) -> None:
        """The rest of the body won't come: whoever waits for it gets ``failure``."""
        if self.body is READING:
            self.body = BROKEN
            self._failure = failure
            self._wake()

    def client_gone(self) -> None:
        """There is nobody to answer any more."""
        self.break_body(ClientDisconnected("the client has gone"))
        self.keep_alive = False
        if self.reply is not FINISHED:
            self.reply = GONE

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
