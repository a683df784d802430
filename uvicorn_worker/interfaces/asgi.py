"""How an ASGI 3 application is called for a request (ASGI HTTP specification 2.5)."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Address, Application, Message, ReplyFields
from uvicorn_worker.config import COPY_BOUND, FILE_PIECE
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import FINISHED, GONE, WAITING, Exchange
from uvicorn_worker.http11.framing import BODILESS_STATUSES
from uvicorn_worker.http11.wire import CONTENT_LENGTH, LAST_LENGTH_LINES, LINES
from uvicorn_worker.interfaces.scope import scope_of, template_for, tls_extension
from uvicorn_worker.memo import Memo
from uvicorn_worker.service import Service

if TYPE_CHECKING:
    _OverExchange = Exchange
else:
    _OverExchange = object

_DIGITS: Memo[int, bytes] = Memo(lambda length: b"%d" % length, lambda length: length < 1 << 16)


#: The start of a response until its body shows how it is delimited: the status, the fields, the head but for the length
#: (``None`` where more than that decides it), the length that the application gave, and whether trailers follow.
Start = tuple[int, ReplyFields, bytes | None, bytes | None, bool]


class HTTPASGI(_OverExchange):
    """Makes an exchange the ``receive`` and the ``send`` of its own request."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The exchange's class has them: SLOTS.

    SLOTS = ("_asked", "_gone", "_start", "_trailers")

    #: The start that was sent, and is still held back.
    _start: Start | None
    #: The lines of trailers, where some will come.
    _trailers: bytes | None
    #: Whether all that there is of the request was received.
    _asked: bool
    #: Whether the client has gone, or what waits for that.
    _gone: asyncio.Future[None] | bool

    @classmethod
    def template_for(cls, service: Service, client: Address | None, server: Address | None) -> Message:
        return template_for(service, client, server)

    @classmethod
    def describe_tls(cls, template: Message, connection: ssl.SSLObject) -> None:
        template["extensions"] = template["extensions"] | {"tls": tls_extension(connection)}

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        scope = scope_of(self)
        self._start = self._trailers = None
        self._asked = False
        self._gone = self.reply is GONE
        return app(scope, self.receive, self.send)

    async def receive(self) -> Message:
        """The next event of the request: ``http.request``, and ``http.disconnect`` when the client has gone or the
        response is complete."""
        if self.body is ABSENT:
            if not self._asked:
                self._asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
        elif not self._asked:
            try:
                content, more_content = await self.receive_body()
            except ClientDisconnected:
                self._asked = True
                return {"type": "http.disconnect"}
            self._asked = not more_content
            return {"type": "http.request", "body": content, "more_body": more_content}
        if self.reply < FINISHED and self._gone is not True:
            if self._gone is False:
                self._gone = self.connection.service.loop.create_future()
            await asyncio.shield(self._gone)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send an event of the response, and wait while the client reads too slowly.

        Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and ``ClientDisconnected``
        (an ``OSError``) once the client has gone.
        """
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = _bytes_of(body)
            start = self._start
            if start is not None and not message.get("more_body"):
                self._start = None
                self._send_whole(start, body)
            else:
                self._send_part(body, more=bool(message.get("more_body")))
            if self.reply is FINISHED and self._gone is not False:
                self.client_ended()
        elif kind == "http.response.start":
            self._hold(message)
        else:
            await self._send_extension(kind, message)
        if self.connection.write_paused or self.connection.is_closing():
            await self.drain()

    # The start waits for the body in the same turn of the loop.

    def _hold(self, message: Message) -> None:
        if self.reply is not WAITING or self._start is not None:
            self._refuse_event("a second http.response.start")
        status = message["status"]
        fields = message.get("headers", ())
        service = self.connection.service
        length = None
        try:
            head = service.prefixes[status]
            if type(fields) is not list:
                fields = list(fields)  # It may be looked through again.
            for name, value in fields:
                if name == b"content-length" and length is None and value.isdigit():
                    length = value
                else:
                    head += LINES[name, value]
            self._start = status, fields, head, length, "trailers" in message and bool(message["trailers"])
        except (wire.DecisiveField, AttributeError, TypeError, ValueError):
            self._start = self._unusual_start(status, fields, message)
        # One callback a turn for all that hold something back costs less than one each.
        held = service.held
        if not held:
            service.loop.call_soon(service.let_go)
        held.append(self)

    def _unusual_start(self, status: int, fields: ReplyFields, message: Message) -> Start:
        """The start where more than its length decides how the response looks; raises where it can't be sent."""
        wire.check_status(status)
        if status in wire.INTERIM_STATUSES:
            raise InvalidReply(f"a response can't start with {status}, which is an interim status")
        fields = wire.list_fields(fields)
        _, given = wire.encode_fields(fields)
        if CONTENT_LENGTH in given:
            framing.parse_content_length(given[CONTENT_LENGTH])
        return status, fields, None, None, bool(message.get("trailers"))

    def let_go(self) -> None:
        """The turn of the loop is over: what was held back leaves without the body."""
        if self._start is not None and self.reply is WAITING:
            self._begin()
            self._let_head_go()

    def _begin(self) -> None:
        """Start a response whose body comes in parts."""
        if self._start is None:
            return
        status, fields, _, _, trailers = self._start
        self._start = None
        self.start(status, fields)
        if trailers:
            self._trailers = b""

    def _send_whole(self, start: Start, body: bytes) -> None:
        """Send a response whose body is all there: in one transport write, if it is not large."""
        status, fields, head, given, trailers = start
        length = len(body)
        if (
            head is None
            or (given is not None and given != _DIGITS[length])
            or not self.is_usual
            or length > COPY_BOUND
            or trailers
            or status in BODILESS_STATUSES
            or self.method == "HEAD"
            or self.reply is not WAITING
        ):
            if trailers:
                self._start = start
                self._send_part(body, more=False)
            else:
                self.send_whole(status, fields, body)
            return
        connection = self.connection
        connection.write(b"".join((head, LAST_LENGTH_LINES[length], body)))
        self.reply = FINISHED
        connection.go_on(self)

    def _send_part(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body, or the last of it."""
        self._begin()
        if self.reply is WAITING:
            self._refuse_event("http.response.body before http.response.start")
        self.write(body, finish=not more and self._trailers is None)

    def _refuse_event(self, what: str) -> None:
        """Raise the error for an event that can't be sent now."""
        if self.reply is not WAITING:
            self._check_move(what)
        raise IllegalMove(what)

    # What the extensions send.

    async def _send_extension(self, kind: str, message: Message) -> None:
        if kind == "http.response.early_hint":
            if self._start is not None:
                self._refuse_event("http.response.early_hint after http.response.start")
            self._send_interim(HTTPStatus.EARLY_HINTS, [(b"link", bytes(link)) for link in message.get("links", ())])
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.pathsend":
            await self._send_file(message["path"])
        else:
            self._refuse_event(f"there is no event {kind!r} of an HTTP response")

    def _send_trailers(self, message: Message) -> None:
        """Finish a response with trailers, which reach the client if it is sent in chunks (RFC 9110 section 6.5)."""
        if self._trailers is None:
            self._refuse_event("http.response.trailers without an http.response.start that says trailers")
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
        if self._start is None:
            self._refuse_event("http.response.pathsend without an http.response.start before it")
            return
        status, fields, _, _, _ = self._start
        self._start = None  # It waits for the file.
        in_thread = self.connection.service.loop.run_in_executor
        file = await in_thread(None, Path(path).open, "rb")
        try:
            left = (await in_thread(None, os.fstat, file.fileno())).st_size
            if all(name.lower() != CONTENT_LENGTH for name, _ in fields):
                fields = [*fields, (CONTENT_LENGTH, b"%d" % left)]
            self.start(status, fields)
            while left and self.method != "HEAD":
                data = await in_thread(None, file.read, min(left, FILE_PIECE))
                if not data:
                    raise InvalidReply(f"{path} has become shorter while it was sent")
                left -= len(data)
                self.write(data, finish=not left)
                await self.drain()
            if self.reply is not FINISHED:
                self.write(b"", finish=True)
        finally:
            await in_thread(None, file.close)

    # The end of the client.

    def client_gone(self) -> None:
        super().client_gone()
        self.client_ended()
        grace = self.connection.service.settings.disconnect_grace
        if grace is not None and self.task is not None:
            self.connection.service.loop.call_later(grace, self.cancel)

    def client_ended(self) -> None:
        # The call may not have begun.
        gone, self._gone = getattr(self, "_gone", False), True
        if not isinstance(gone, bool) and not gone.done():
            gone.set_result(None)


def _bytes_of(body: object) -> bytes:
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    raise InvalidReply(f"body must be bytes, not {body!r:.100}")
