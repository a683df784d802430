"""How an ASGI 3 application is called for a request (ASGI HTTP specification 2.5)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn_worker._types import Address, Application, Message
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.config import COPY_BOUND
from uvicorn_worker.errors import ClientDisconnected
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.http11.body import ABSENT, BROKEN, READING
from uvicorn_worker.http11.response import FINISHED, GONE, OPEN, WAITING
from uvicorn_worker.http11.wire import CLOSING_LENGTH_LINES, LAST_LENGTH_LINES, LINES, bytes_of
from uvicorn_worker.interfaces import scope as scopes
from uvicorn_worker.interfaces.asgi_reply import ASGIReply, check_start
from uvicorn_worker.interfaces.scope import GROUPS, GroupsExtension, is_of_disconnect, mount
from uvicorn_worker.memo import Memo
from uvicorn_worker.service import Service


def _read_length(value: bytes) -> tuple[int, bytes]:
    length = framing.parse_content_length([value])
    return (length, LAST_LENGTH_LINES[length]) if length <= COPY_BOUND else (-1, b"")


#: Lengths of content, as applications give them, and the ends of heads that have them; -1 for content that is too long
#: to leave with its head.
_LENGTHS: Memo[bytes, tuple[int, bytes]] = Memo(_read_length, lambda value: len(value) <= 5)


class Received(IntEnum):
    BODY_DUE = 0
    BODY = 1
    DISCONNECT = 2


BODY_DUE, BODY, DISCONNECT = Received


class HTTPASGI(GroupsExtension, ASGIReply):
    """Makes an exchange the ``receive`` and the ``send`` of its own request."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The exchange's class has them: SLOTS.

    SLOTS: ClassVar[tuple[str, ...]] = ("_gone", "_received", *ASGIReply.SLOTS)

    has_tuples = True

    #: How much of what there is to receive the application has received.
    _received: Received
    #: Whether the client has gone, or what waits for that.
    _gone: asyncio.Future[None] | bool

    @classmethod
    def template_for(cls, service: Service, client: Address | None, server: Address | None) -> Message:
        return scopes.template_for(service, client, server)

    @classmethod
    def describe_tls(cls, template: Message, connection: ssl.SSLObject) -> None:
        template["extensions"] = template["extensions"] | {"tls": scopes.tls_extension(connection)}

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        self.held_start = self._trailers = None
        self._received = BODY_DUE
        self._gone = False
        state = self.connection.service.state
        target = self.target
        # Made here, because a call alone costs 350 instructions.
        scope = self.template.copy()
        scope["method"] = self.method
        scope["path"] = target.path
        scope["raw_path"] = target.raw_path
        scope["query_string"] = target.query_string
        if scope["root_path"]:
            mount(scope)
        scope["headers"] = self.headers
        scope["state"] = state.copy() if state else {}
        extensions = scope["extensions"] = scope["extensions"].copy()
        extensions[GROUPS] = self
        return app(scope, self.receive, self.send)

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
            return self._hold_start(message)
        connection = self.connection
        if kind == "http.response.body":
            try:
                body = message["body"]
            except KeyError:
                body = b""
            if type(body) is not bytes:
                body = bytes_of(body, "body")
            more_body = "more_body" in message and message["more_body"]
            start = self.held_start
            if start is not None and not more_body:
                head, given, last_line, status, _, _ = start
                length = len(body)
                if given is None and length <= COPY_BOUND:
                    given, last_line = length, LAST_LENGTH_LINES[length]
                if head is not None and given == length and self.reply is WAITING:
                    self.held_start = None
                    if not self.keep_alive:
                        last_line = CLOSING_LENGTH_LINES[length]
                    write = connection.write
                    write(b"".join((head, last_line, body)))
                    self.status = status
                    self.sent = length
                    self.reply = FINISHED
                    connection.go_on(self)
                    if self._gone is False and not connection.write_paused:
                        return  # Nothing is left of what is done below.
                else:
                    self._send_whole_body(start, body)
            elif self.reply is not WAITING and self._trailers is None:
                self.write(body, not more_body)
                if more_body and self._gathered is not None:
                    return  # Nothing has left yet that could be waited for.
            else:
                self._send_part(body, not more_body)
        else:
            await self._send_extension(kind, message)
        if self._gone is not False and self.reply is FINISHED:
            self._end_receiving()
        if connection.write_paused or (self.reply is not FINISHED and connection.is_closing()):
            await self.drain()

    def _hold_start(self, message: Message) -> None:
        """Keep the start of a response for its body, with the head as far as it can be told."""
        if self.reply is not WAITING or self.held_start is not None:
            self._refuse_event("a second http.response.start")
        service = self.connection.service
        fields = message["headers"] if "headers" in message else ()
        length, last_line = None, b""
        try:
            status = message["status"]
            head = service.usual_prefixes[status]
            if type(fields) is not list:
                fields = list(fields)  # It may be looked through again.
            for name, value in fields:
                if name == b"content-length" and length is None:
                    length, last_line = _LENGTHS[value]
                else:
                    head += LINES[name, value]
            has_trailers = "trailers" in message and bool(message["trailers"])
            is_usual = self.is_usual and not has_trailers
            self.held_start = head if is_usual else None, length, last_line, status, fields, has_trailers
        except (wire.DecisiveField, KeyError, TypeError, ValueError):
            self.held_start = None, None, b"", *check_start(message, fields), bool(message.get("trailers"))
        # It waits for the body. One callback a turn for all that hold something back costs less than one each.
        held = service.held
        if not held:
            service.loop.call_soon(service.let_go)
        held.append(self)

    # What groups ask for.

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
