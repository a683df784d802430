"""How a message/channels application is called."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from uvicorn_worker._types import Application, Message
from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.exchange import GONE, HELD, WAITING, Exchange

if TYPE_CHECKING:
    _Over = Exchange
else:
    _Over = object


class HTTPChannels(_Over):
    """Makes an exchange the ``reply`` and the ``body`` channel of its own request."""

    __slots__ = ()

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        connection = self.connection
        service = connection.service
        raw_path, _, query_string = self.target.partition(b"?")
        path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
        message = {
            "channel": "http.request",
            "scheme": service.scheme,
            "http_version": self.version,
            "method": self.method,
            "root_path": service.settings.root_path,
            "path": path.decode("utf-8", "replace"),
            "raw_path": raw_path,
            "query_string": query_string,
            "headers": self.headers,
            "server": connection.server,
            "client": connection.client,
        }
        if self.has_body:
            return app(message, {"reply": self, "body": self})
        return app(message, {"reply": self})

    @property
    def name(self) -> str:
        """The channel's name, unique among all channels of all processes."""
        if self._name is None:
            self._name = secrets.token_urlsafe(16)
        return self._name

    async def send(self, message: Message) -> None:
        """Send a response or a part of it, and wait while the client reads too slowly.

        ``message`` has ``status`` (and ``headers``) where it is the first, ``content``, and ``more_content`` where it
        is not the last. Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and
        ``ClientDisconnected`` (an ``OSError``) once the client has gone.
        """
        content = message.get("content", b"")
        if type(content) is not bytes:
            content = _bytes_of(content)
        if "status" in message:
            status = message["status"]
            headers = message.get("headers", ())
            if not message.get("more_content") and status not in wire.INTERIM_STATUSES:
                self.send_whole(status, headers, content)
                return
            self.start(status, headers)
            if content and self.reply is HELD:
                self.write(content)
        elif self.reply is WAITING:
            raise InvalidReply("the first message of a reply must have a status")
        else:
            self.write(content, finish=not message.get("more_content"))
        if self.connection.write_paused or self.reply is GONE:
            await self.drain()

    async def receive(self) -> Message:
        """The next part of the request's body: ``{'content': bytes, 'more_content': bool}``.

        Raises ``ClientDisconnected`` where the rest won't come.
        """
        content, more_content = await self.receive_body()
        return {"content": content, "more_content": more_content}


def _bytes_of(content: Any) -> bytes:
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise InvalidReply(f"content must be bytes, not {content!r:.100}")
