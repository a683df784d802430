"""How an ASGI 3 application is called for a request (ASGI HTTP specification 2.5)."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Coroutine
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn_worker._types import Address, Application, Message, ReplyFields
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.config import COPY_BOUND, FILE_PIECE
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.http11.body import ABSENT, BROKEN, READING
from uvicorn_worker.http11.exchange import FINISHED, GONE, OPEN, WAITING
from uvicorn_worker.http11.wire import CONTENT_LENGTH, LAST_LENGTH_LINES, LINES, bytes_of
from uvicorn_worker.interfaces.reply import GroupReply
from uvicorn_worker.interfaces.scope import GroupsExtension, is_of_disconnect, scope_of, template_for, tls_extension
from uvicorn_worker.memo import Memo
from uvicorn_worker.service import Service

_LENGTHS: Memo[bytes, int] = Memo(lambda value: framing.parse_content_length([value]), lambda value: len(value) <= 5)


class Received(IntEnum):
    BODY_DUE = 0
    BODY = 1
    DISCONNECT = 2


BODY_DUE, BODY, DISCONNECT = Received

#: The start of a response until its body shows how it is delimited: the head but for the length (``None`` where more
#: than that decides it), the length that the application gave, the event, and its headers.
Start = tuple[bytes | None, int | None, Message, ReplyFields]


class HTTPASGI(GroupsExtension, GroupReply):
    """Makes an exchange the ``receive`` and the ``send`` of its own request."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The exchange's class has them: SLOTS.

    SLOTS: ClassVar[tuple[str, ...]] = ("_gone", "_head_is_alone", "_received", "_trailers", "held_start")

    has_tuples = True

    #: The start that was sent, and is still held back.
    held_start: Start | None
    #: ``None`` where there are no trailers, ``False`` while the body comes before them, and then their lines.
    _trailers: bytes | bool | None
    #: How much of what there is to receive the application has received.
    _received: Received
    #: Whether the client has gone, or what waits for that.
    _gone: asyncio.Future[None] | bool
    #: Whether the start has left, and nothing of the body.
    _head_is_alone: bool

    @classmethod
    def template_for(cls, service: Service, client: Address | None, server: Address | None) -> Message:
        return template_for(service, client, server)

    @classmethod
    def describe_tls(cls, template: Message, connection: ssl.SSLObject) -> None:
        template["extensions"] = template["extensions"] | {"tls": tls_extension(connection)}

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        self.held_start = self._trailers = None
        self._received = BODY_DUE
        self._gone = False
        return app(scope_of(self), self.receive, self.send)

    async def receive(self) -> Message:
        """The next event of the request: ``http.request``, and ``http.disconnect`` when the client has gone or the
        response is complete."""
        if self.reply is FINISHED:
            return {"type": "http.disconnect"}
        if self.body is ABSENT:
            if self._received is BODY_DUE:
                self._received = BODY
                return {"type": "http.request", "body": b"", "more_body": False}
        elif self._received is BODY_DUE:
            try:
                content, more_content = await self.receive_body()
            except ClientDisconnected:
                self._received = DISCONNECT
                self._end_receiving()
                return {"type": "http.disconnect"}
            if not more_content:
                self._received = BODY
            return {"type": "http.request", "body": content, "more_body": more_content}
        if self._gone is not True and self.reply < FINISHED and not self.connection.has_ended:
            if self._gone is False:
                self._gone = self.connection.service.loop.create_future()
            await asyncio.shield(self._gone)
        self._received = DISCONNECT
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send an event of the response, and wait while the client reads too slowly.

        Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and ``ClientDisconnected``
        (an ``OSError``) once the client has gone.
        """
        kind = message["type"]
        if kind == "http.response.start":
            if self.reply is not WAITING or self.held_start is not None:
                self._refuse_event("a second http.response.start")
            fields = message.get("headers", ())
            service = self.connection.service
            length = None
            try:
                head = service.usual_prefixes[message["status"]]
                if type(fields) is not list:
                    fields = list(fields)  # It may be looked through again.
                for name, value in fields:
                    if name == b"content-length" and length is None:
                        length = _LENGTHS[value]
                    else:
                        head += LINES[name, value]
                whole_head = head if self.is_usual and "trailers" not in message else None
                self.held_start = whole_head, length, message, fields
            except (wire.DecisiveField, KeyError, TypeError, ValueError):
                self.held_start = None, None, message, _check_start(message, fields)
            # It waits for the body. One callback a turn for all that hold something back costs less than one each.
            held = service.held
            if not held:
                service.loop.call_soon(service.let_go)
            held.append(self)
            return
        body = message.get("body", b"")
        more_body = "more_body" in message and message["more_body"]
        start = self.held_start
        if kind != "http.response.body" or start is None or type(body) is not bytes or more_body:
            return await self._send_unusual(kind, message)
        whole_head, given, message_of_start, _ = start
        length = len(body)
        is_other_length = given is not None and given != length
        if whole_head is None or is_other_length or length > COPY_BOUND or self.reply is not WAITING:
            return await self._send_unusual(kind, message)
        self.held_start = None
        connection = self.connection
        connection.write(b"".join((whole_head, LAST_LENGTH_LINES[length], body)))
        self.status = message_of_start["status"]
        self.sent = length
        self.reply = FINISHED
        connection.go_on(self)
        if self._gone is not False:
            self._end_receiving()
        if connection.write_paused:
            await self.drain()

    async def _send_unusual(self, kind: str, message: Message) -> None:
        """Send what is not the start of a response, nor the small whole body behind it."""
        if kind == "http.response.body":
            body = bytes_of(message.get("body", b""), "body")
            start = self.held_start
            if start is None or message.get("more_body") or start[2].get("trailers"):
                self._send_part(body, more=bool(message.get("more_body")))
            else:
                self.held_start = None
                self.send_whole(start[2]["status"], start[3], body)
        else:
            await self._send_extension(kind, message)
        if self._gone is not False and self.reply is FINISHED:
            self._end_receiving()
        connection = self.connection
        if connection.write_paused or (self.reply is not FINISHED and connection.is_closing()):
            await self.drain()

    def let_go(self) -> None:
        """The turn of the loop is over, and the body has not come."""
        if self.reply is WAITING:
            try:
                self._begin()
            except Exception as error:  # What was good when it was sent has been changed since.
                return self._application_raised(error)
            self._let_head_go()
            self._head_is_alone = True

    def _begin(self) -> None:
        """Start a response whose body comes in parts."""
        if self.held_start is None:
            return
        _, _, message, fields = self.held_start
        self.held_start = None
        self.start(message["status"], fields)
        self._head_is_alone = False
        self._trailers = False if message.get("trailers") else None

    def _send_part(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body, or the last of it."""
        self._begin()
        if self.reply is WAITING:
            self._refuse_event("http.response.body before http.response.start")
        self._head_is_alone = False
        if type(self._trailers) is bytes:
            raise IllegalMove("http.response.body where http.response.trailers is due")
        self.write(body, finish=not more and self._trailers is None)
        if not more and self._trailers is False:
            self._trailers = b""

    def _refuse_event(self, what: str) -> None:
        """Raise the error for an event that can't be sent now."""
        if self.reply is not WAITING:
            self._check_move(what)
        raise IllegalMove(what)

    # What the extensions send.

    async def _send_extension(self, kind: str, message: Message) -> None:
        if kind == "http.response.early_hint":
            if self.held_start is not None:
                self._refuse_event("http.response.early_hint after http.response.start")
            links = [(b"link", bytes_of(link, "a link")) for link in message.get("links", ())]
            self._send_interim(HTTPStatus.EARLY_HINTS, links)
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.pathsend":
            await self._send_file(message["path"])
        else:
            self._refuse_event(f"there is no event {kind!r} of an HTTP response")

    def _send_trailers(self, message: Message) -> None:
        """Finish a response with trailers, which reach the client if it is sent in chunks (RFC 9110 section 6.5)."""
        if type(self._trailers) is not bytes:
            self._check_move("http.response.trailers before the end of a body that they were announced with")
            return
        lines, decisive = wire.encode_fields(message.get("headers", ()))
        if decisive:
            raise InvalidReply(f"{min(decisive).decode()} can't be a trailer")
        self._trailers += lines
        if not message.get("more_trailers"):
            self.write(b"", finish=True, trailers=self._trailers)

    async def _send_file(self, path: str) -> None:
        """Send a file as the body, read in a thread and in pieces, so that it neither blocks the loop nor fills the
        memory."""
        start, self.held_start = self.held_start, None  # It waits for the file, unless it has left.
        if start is None and (self.reply is not OPEN or not self._head_is_alone):
            self._refuse_event("http.response.pathsend that is not right behind http.response.start")
        in_thread = self.connection.service.loop.run_in_executor
        opening = in_thread(None, Path(path).open, "rb")
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        try:
            left = (await in_thread(None, os.fstat, file.fileno())).st_size
            if start is not None:
                _, _, message, fields = start
                if all(name.lower() != CONTENT_LENGTH for name, _ in fields):
                    fields = [*fields, (CONTENT_LENGTH, b"%d" % left)]
                self.held_start = None, None, message, fields
                self._begin()
            while left and self.method != "HEAD":
                data = await in_thread(None, file.read, min(left, FILE_PIECE))
                if not data:
                    raise InvalidReply(f"{path} has become shorter while it was sent")
                left -= len(data)
                self._send_part(data, more=bool(left))
                await self.drain()
            if self.reply is not FINISHED and type(self._trailers) is not bytes:
                self._send_part(b"", more=False)
        finally:
            file.close()

    # What groups ask for.

    def _take_the_long_way(self) -> None:
        super()._take_the_long_way()
        if self.held_start is not None:
            self.held_start = None, None, *self.held_start[2:]

    def deliver(self, delivery: Delivery) -> None:
        self._begin()
        super().deliver(delivery)
        if self.reply is FINISHED:
            self._end_receiving()

    # The end of the call, and of the client.

    def _application_returned(self) -> None:
        if self.body is BROKEN and self.reply < OPEN:
            failure, reason = self._failure  # It was told so by an event, and has nothing to answer.
            self._application_raised(failure(reason))
        elif self._received is DISCONNECT:
            self.connection.cut(self)  # As it should: there is nobody to finish for.
        else:
            super()._application_returned()
        self._end_receiving()

    def _application_raised(self, error: BaseException) -> None:
        if not self._is_about_the_client(error):
            super()._application_raised(error)
        elif self.reply < FINISHED:
            self.connection.cut(self)  # It has only ended its part of the connection, which may mean that it waits.
        self._end_receiving()

    def _is_about_the_client(self, error: BaseException) -> bool:
        """Whether ``error`` comes of the client's leaving."""
        if isinstance(error, asyncio.CancelledError):
            service = self.connection.service
            has_left = self.connection.has_ended and not service.draining
            return service.settings.disconnect_grace is not None and (has_left or self.reply is GONE)
        return self.reply is GONE and is_of_disconnect(error)

    def _end_if_read(self) -> None:
        super()._end_if_read()
        if self.body is READING:
            self.connection.exchange_ended(self)  # Nobody can receive what is still to come of the body.

    def client_gone(self) -> None:
        super().client_gone()
        self.client_ended()

    def client_ended(self) -> None:
        super().client_ended()
        self._end_receiving()
        grace = self.connection.service.settings.disconnect_grace
        if grace is not None and self.reply is not FINISHED:
            self.connection.service.loop.call_later(grace, self.cancel)

    def _end_receiving(self) -> None:
        # The call may not have begun.
        gone, self._gone = getattr(self, "_gone", False), True
        if not isinstance(gone, bool) and not gone.done():
            gone.set_result(None)


def _check_start(message: Message, fields: ReplyFields) -> ReplyFields:
    """Raise what is wrong with the start of a response now, and not when it leaves; its fields."""
    status = message["status"]
    wire.check_status(status)
    if status in wire.INTERIM_STATUSES:
        raise InvalidReply(f"a response can't start with {status}, which is an interim status")
    fields = wire.list_fields(fields)
    _, given = wire.encode_fields(fields)
    if CONTENT_LENGTH in given:
        framing.parse_content_length(given[CONTENT_LENGTH])
    return fields


def _close_opened(opening: asyncio.Future[Any]) -> None:
    """A file was opened for a call that has been cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
