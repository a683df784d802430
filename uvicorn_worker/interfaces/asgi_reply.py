"""The response of an ASGI 3 application, from its start to its end, but for the usual small one."""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn_worker._types import Message, ReplyFields
from uvicorn_worker.config import FILE_PIECE
from uvicorn_worker.errors import IllegalMove, InvalidReply
from uvicorn_worker.http11 import framing, wire
from uvicorn_worker.http11.response import FINISHED, OPEN, WAITING
from uvicorn_worker.http11.wire import CONTENT_LENGTH, bytes_of
from uvicorn_worker.interfaces.reply import GroupReply

#: The start of a response until its body shows how it is delimited: the head but for the length (``None`` where more
#: than that decides it), the length that the application gave, with the line that ends such a head, the status, the
#: fields, and whether there are trailers.
Start = tuple[bytes | None, int | None, bytes, int, ReplyFields, bool]


class ASGIReply(GroupReply):
    """Has the start of a response wait for its body, which comes whole, in parts, from a file, or with trailers."""

    if not TYPE_CHECKING:
        __slots__ = ()

    SLOTS: ClassVar[tuple[str, ...]] = ("_trailers", "held_start")

    #: The start that was sent, and is still held back.
    held_start: Start | None
    #: ``None`` where there are no trailers, ``False`` while the body comes before them, and then their lines.
    _trailers: bytes | bool | None

    def let_start_go(self) -> None:
        """The turn of the loop is over, and the body has not come."""
        if self.reply is WAITING:
            try:
                self._begin()
            except Exception as error:  # What was good when it was sent has been changed since.
                return self._settle(error)
            self.let_go()

    def _begin(self) -> None:
        """Start a response whose body comes in parts."""
        if self.held_start is not None:
            _, _, _, status, fields, has_trailers = self.held_start
            self.held_start = None
            self.start(status, fields)
            self._trailers = False if has_trailers else None

    def _send_part(self, body: bytes, finish: bool) -> None:
        """Send a part of the body, or the last of it."""
        self._begin()
        if self.reply is WAITING:
            self._refuse_event("http.response.body before http.response.start")
        trailers = self._trailers
        if trailers is None:
            self.write(body, finish)
        elif trailers is False:
            self.write(body)
            self._trailers = b"" if finish else False
        else:
            raise IllegalMove("http.response.body where http.response.trailers is due")

    def _send_whole_body(self, start: Start, body: bytes) -> None:
        """Send a body that is not small and usual, behind its ``start``."""
        _, _, _, status, fields, has_trailers = start
        if has_trailers:
            self._send_part(body, True)
        else:
            self.held_start = None
            self.send_whole(status, fields, body)

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
            self.write(b"", True, self._trailers)

    async def _send_file(self, path: str) -> None:
        """Send a file as the body, read in a thread and in pieces, so that it neither blocks the loop nor fills the
        memory."""
        start, self.held_start = self.held_start, None  # It waits for the file, unless it has left.
        if start is None and (self.reply is not OPEN or self.sent):
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
                _, _, _, status, fields, has_trailers = start
                if all(name.lower() != CONTENT_LENGTH for name, _ in fields):
                    fields = [*fields, (CONTENT_LENGTH, b"%d" % left)]
                self.held_start = None, None, b"", status, fields, has_trailers
                self._begin()
            while left and self.method != "HEAD":
                data = await in_thread(None, file.read, min(left, FILE_PIECE))
                if not data:
                    raise InvalidReply(f"{path} has become shorter while it was sent")
                left -= len(data)
                self._send_part(data, not left)
                await self.drain()
            if self.reply is not FINISHED and type(self._trailers) is not bytes:
                self._send_part(b"", True)
        finally:
            file.close()

    def _take_the_long_way(self) -> None:
        super()._take_the_long_way()
        if self.held_start is not None:
            self.held_start = None, None, *self.held_start[2:]


def check_start(message: Message, fields: ReplyFields) -> tuple[int, ReplyFields]:
    """Raise what is wrong with the start of a response now, and not when it leaves; its status and its fields."""
    status = message["status"]
    wire.check_status(status)
    if status in wire.INTERIM_STATUSES:
        raise InvalidReply(f"a response can't start with {status}, which is an interim status")
    fields = wire.list_fields(fields)
    _, given = wire.encode_fields(fields)
    if CONTENT_LENGTH in given:
        framing.parse_content_length(given[CONTENT_LENGTH])
    return status, fields


def _close_opened(opening: asyncio.Future[Any]) -> None:
    """A file was opened for a call that has been cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
