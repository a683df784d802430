"""How a message/channels application is called."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Address, Application, Message
from uvicorn_worker.broadcast.delivery import NOTHING
from uvicorn_worker.config import RECEIVE_GRACE
from uvicorn_worker.errors import InvalidReply, WorkerExit
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.response import FINISHED, WAITING
from uvicorn_worker.interfaces.messages import not_utf8
from uvicorn_worker.interfaces.reply import GroupReply
from uvicorn_worker.service import Service
from uvicorn_worker.websocket.frames import TEXT
from uvicorn_worker.websocket.session import OPEN, OVER, Session

if TYPE_CHECKING:
    _OverSession = Session
else:
    _OverSession = object


class HTTPChannels(GroupReply):
    """Makes an exchange the ``reply`` and the ``body`` channel of its own request."""

    __slots__ = ()

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        message = self.template.copy()
        message["method"] = self.method
        target = self.target
        message["path"] = target.path
        message["raw_path"] = target.raw_path
        message["query_string"] = target.query_string
        message["headers"] = self.headers
        if self.body is ABSENT:
            return app(message, {"reply": self, "groups": self.connection.service.groups})
        return app(message, {"reply": self, "groups": self.connection.service.groups, "body": self})

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

    async def send(self, message: Message) -> None:
        """Send a response or a part of it, and wait while the client reads too slowly.

        ``message`` has ``status`` (and ``headers``) where it is the first, ``content``, and ``more_content`` where it
        is not the last. Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and
        ``ClientDisconnected`` (an ``OSError``) once the client has gone.
        """
        try:
            content = message.get("content")
        except AttributeError:
            raise InvalidReply(f"a message is a dict, not {message!r:.100}") from None
        more_content = "more_content" in message and message["more_content"]
        if type(content) is bytes and "status" in message and not more_content:
            return self.send_whole(message["status"], message.get("headers", ()), content)
        if type(content) is bytes and self.reply is not WAITING and len(message) == (2 if more_content else 1):
            self.write(content, not more_content)
            if more_content and self._gathered is not None:
                return  # Nothing has left yet that could be waited for.
        else:
            self.answer(message)
        connection = self.connection
        if connection.write_paused or (self.reply is not FINISHED and connection.is_closing()):
            await self.drain()

    async def receive(self) -> Message:
        """The next part of the request's body: ``{'content': bytes, 'more_content': bool}``.

        Raises ``ClientDisconnected`` where the rest won't come.
        """
        content, more_content = await self.receive_body()
        return {"content": content, "more_content": more_content}


class WebSocketChannels(_OverSession):
    """Makes a session the ``reply`` channel of its own WebSocket, and each event a call."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The session's class has them.

    SLOTS = ("_connecting", "_is_watched", "calls", "channels", "order", "sizes")

    #: The call for the handshake, as long as it lasts.
    _connecting: asyncio.Task[None] | None

    #: Those of every call.
    channels: dict[str, Any]
    #: The number of the last event.
    order: int
    #: The unfinished calls but that of the handshake, by the numbers of their events.
    calls: dict[int, asyncio.Task[None]]
    #: The sizes of large messages among them.
    sizes: dict[int, int]
    #: Whether the end of a call may be waited for.
    _is_watched: bool

    def connected(self, request: Exchange, subprotocols: list[str]) -> Coroutine[Any, Any, None]:
        self.order = 0
        self.calls = {}
        self.sizes = {}
        self._is_watched = False
        self.channels = {"reply": self, "groups": self.service.groups}
        self._connecting = getattr(request, "task", None)  # It has none yet where a task factory runs it at once.
        message = request.template.copy()
        del message["method"]
        message["channel"] = "websocket.connect"
        message["scheme"] = "wss" if message["scheme"] == "https" else "ws"
        target = request.target
        message["path"] = target.path
        message["raw_path"] = target.raw_path
        message["query_string"] = target.query_string
        message["headers"] = request.headers
        message["order"] = 0
        message["subprotocols"] = subprotocols
        return self.service.app(message, self.channels)

    def received(self, text: str | None, data: bytes | None) -> None:
        self.order = order = self.order + 1
        self._start_call(
            {"channel": "websocket.receive", "path": self.path, "order": order, "text": text, "bytes": data}
        )

    def weigh(self, size: int) -> None:
        if self.order in self.calls:
            self.sizes[self.order] = size
            self._is_watched = True
            if self.is_full:
                self.wire.hold()

    def opened(self) -> None:
        self.service.running.add(self)

    def unanswered(self) -> None:
        if self.service.groups.has_member(self):
            self.accept(None, ())
        else:
            super().unanswered()

    def returned(self) -> None:
        self._connecting = None

    def disconnected(self, code: int, reason: str) -> None:
        self.service.running.add(self)
        self._is_watched = True
        self.order = order = self.order + 1
        self._start_call(
            {"channel": "websocket.disconnect", "path": self.path, "order": order, "code": code, "reason": reason}
        )

    @property
    def is_full(self) -> bool:
        settings = self.service.settings
        return len(self.calls) >= settings.ws_max_queue or sum(self.sizes.values()) > (settings.ws_max_size or math.inf)

    @property
    def is_idle(self) -> bool:
        return not self.calls

    def watch(self) -> None:
        self._is_watched = True

    def _start_call(self, message: Message) -> None:
        """Call the application with ``message`` in a task of its own, once those before it have started."""
        order = self.order
        service = self.service
        task = service.create_task(self._run_call(message, order))
        calls = self.calls
        calls[order] = task
        if task.done():  # A task factory of the application's can run it at once.
            del calls[order]
        elif len(calls) >= service.settings.ws_max_queue and self.state is OPEN:
            self._is_watched = True
            self.wire.hold()

    async def _run_call(self, message: Message, order: int) -> None:
        try:
            await self.service.app(message, self.channels)
        except (WorkerExit, GeneratorExit):
            raise
        except BaseException as error:
            self.raised(error)
        self.calls.pop(order, None)
        if self._is_watched:
            self._call_ended(order)

    def _call_ended(self, order: int) -> None:
        self.sizes.pop(order, None)
        if self.state is not OVER:
            self.wire.call_ended()
        elif not self.calls:
            self.service.running.discard(self)
            self.service.on_less()
            self.channels = {}  # They lead back here, and only the collector would notice.
            if self.service.draining and self._connecting is not None:
                # It may be one that lasts until somebody ends it, which would hold the worker up.
                self.service.loop.call_later(RECEIVE_GRACE, self._connecting.cancel)

    def cancel(self) -> None:
        """Cancel the unfinished calls."""
        for order, task in list(self.calls.items()):
            task.cancel()
            # One that has not begun yet never gets to the end of _run_call().
            task.add_done_callback(partial(self._forget_call, order))

    def _forget_call(self, order: int, task: asyncio.Task[None]) -> None:
        if self.calls.pop(order, None) is not None:
            self._call_ended(order)

    async def send(self, message: Message) -> None:
        """Answer the handshake, send a message, close, or several of these, and wait while the client reads too slowly.

        ``message`` has ``accept`` (with ``subprotocol`` and ``headers``), ``text`` or ``bytes``, ``close`` (with
        ``reason``), or ``status`` (with ``headers`` and ``content``), which answers the handshake with a response.
        Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and ``ClientDisconnected``
        (an ``OSError``) once the WebSocket is closed.
        """
        try:
            text = message.get("text")
        except AttributeError:
            raise InvalidReply(f"a message is a dict, not {message!r:.100}") from None
        if type(text) is str and len(message) == 1 and self.state is OPEN:
            if self.gathered is not NOTHING:
                self.write_first()
            try:
                self.wire.send(TEXT, text.encode())
            except UnicodeEncodeError as error:
                raise not_utf8(error) from None
        else:
            self.answer(message)
        if self.state is OPEN and (self.wire.write_paused or self.wire.is_closing()):
            await self.drain()
