"""How a message/channels application is called."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Address, Application, Message
from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import WAITING, Exchange
from uvicorn_worker.service import Service

if TYPE_CHECKING:
    _Over = Exchange
else:
    _Over = object


_KEYS = frozenset(("status", "headers", "content", "more_content"))


class HTTPChannels(_Over):
    """Makes an exchange the ``reply`` and the ``body`` channel of its own request."""

    __slots__ = ()

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        connection = self.connection
        message = connection.template.copy()
        if self.version != "1.1":
            message["http_version"] = self.version
        message["method"] = self.method
        message["path"], message["raw_path"], message["query_string"] = self.target
        message["headers"] = self.headers
        if self.body is ABSENT:
            return app(message, {"reply": self})
        return app(message, {"reply": self, "body": self})

    @classmethod
    def template_for(cls, service: Service, client: Address | None, server: Address | None) -> Message:
        """What all messages of a connection have in common: copying it and filling in the rest costs two thirds of
        making each anew."""
        return {
            "channel": "http.request",
            "scheme": service.scheme,
            "http_version": "1.1",
            "method": None,
            "root_path": service.settings.root_path,
            "path": None,
            "raw_path": None,
            "query_string": None,
            "headers": None,
            "server": server,
            "client": client,
        }

    @property
    def name(self) -> str:
        """The channel's name, unique among all channels of all processes."""
        try:
            return self._name
        except AttributeError:  # Few channels are ever asked for it.
            self._name = secrets.token_urlsafe(16)
            return self._name

    async def send(self, message: Message) -> None:
        """Send a response or a part of it, and wait while the client reads too slowly.

        ``message`` has ``status`` (and ``headers``) where it is the first, ``content``, and ``more_content`` where it
        is not the last. Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and
        ``ClientDisconnected`` (an ``OSError``) once the client has gone.
        """
        content = message.get("content")
        if type(content) is not bytes:
            content = _content_of(message)
        more_content = message.get("more_content")
        if "status" in message:
            if not more_content:
                return self.send_whole(message["status"], message.get("headers", ()), content)
            self.start(message["status"], message.get("headers", ()))
            if content:
                self.write(content)
        elif self.reply is WAITING:
            raise InvalidReply("the first message of a reply must have a status")
        else:
            self.write(content, finish=not more_content)
        if self.connection.write_paused or self.connection.is_closing():
            await self.drain()

    async def receive(self) -> Message:
        """The next part of the request's body: ``{'content': bytes, 'more_content': bool}``.

        Raises ``ClientDisconnected`` where the rest won't come.
        """
        content, more_content = await self.receive_body()
        return {"content": content, "more_content": more_content}


def _content_of(message: Message) -> bytes:
    """The content of a message that has none, or not as ``bytes``."""
    content = message.get("content", b"")
    if not message.keys() <= _KEYS:
        raise InvalidReply(f"a reply has no {min(message.keys() - _KEYS)!r}; its keys are {', '.join(sorted(_KEYS))}")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise InvalidReply(f"content must be bytes, not {content!r:.100}")
