"""How a message/channels application is called."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Coroutine
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Address, Application, Message
from uvicorn_worker.config import RECEIVE_GRACE
from uvicorn_worker.errors import InvalidReply, WorkerExit
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import FINISHED, WAITING, Exchange
from uvicorn_worker.http11.wire import bytes_of
from uvicorn_worker.service import Service
from uvicorn_worker.websocket.frames import BINARY, TEXT, check_close
from uvicorn_worker.websocket.session import NORMAL_CLOSURE, OPEN, OVER, Session

if TYPE_CHECKING:
    _OverExchange = Exchange
    _OverSession = Session
else:
    _OverExchange = _OverSession = object


_KEYS = frozenset(("status", "headers", "content", "more_content"))

# What can be sent once the handshake was accepted; what can accept it; and what can reject it without a status.
_OPEN_KEYS = frozenset(("text", "bytes", "close", "reason"))
_ACCEPT_KEYS = _OPEN_KEYS | {"accept", "subprotocol", "headers"}
_REJECT_KEYS = frozenset(("accept", "headers", "close", "reason"))


class Named:
    """Gives a channel its name."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The channel has the attribute.

    _name: str

    @property
    def name(self) -> str:
        """The channel's name, unique among all channels of all processes."""
        try:
            return self._name
        except AttributeError:  # Few channels are ever asked for it.
            self._name = secrets.token_urlsafe(16)
            return self._name


class HTTPChannels(Named, _OverExchange):
    """Makes an exchange the ``reply`` and the ``body`` channel of its own request."""

    __slots__ = ()

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        message = self.template.copy()
        message["method"] = self.method
        message["path"], message["raw_path"], message["query_string"], _ = self.target
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
        connection = self.connection
        if connection.write_paused or (self.reply is not FINISHED and connection.is_closing()):
            await self.drain()

    async def receive(self) -> Message:
        """The next part of the request's body: ``{'content': bytes, 'more_content': bool}``.

        Raises ``ClientDisconnected`` where the rest won't come.
        """
        content, more_content = await self.receive_body()
        return {"content": content, "more_content": more_content}


class WebSocketChannels(Named, _OverSession):
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
        self.channels = {"reply": self}
        self._connecting = getattr(request, "task", None)  # It has none yet where a task factory runs it at once.
        message = request.template.copy()
        del message["method"]
        message["channel"] = "websocket.connect"
        message["scheme"] = "wss" if message["scheme"] == "https" else "ws"
        message["path"], message["raw_path"], message["query_string"], _ = request.target
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
        task = service.create_task(self._run_call(message, order), loop=service.loop, name="uvicorn_worker")
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
            try:
                self.wire.send(TEXT, text.encode())
            except UnicodeEncodeError as error:
                raise _not_utf8(error) from None
        else:
            self._send_unusual(message)
        if self.state is OPEN and (self.wire.write_paused or self.wire.is_closing()):
            await self.drain()

    def _send_unusual(self, message: Message) -> None:
        """Send whatever it is; raises having sent nothing."""
        self.check_open()
        if "status" in message:
            return self._send_response(message)
        accept = message.get("accept")
        if accept is not None and not isinstance(accept, bool):
            raise InvalidReply(f"accept must be true or false, not {accept!r:.100}")
        payload = _payload_of(message)
        close = _close_of(message)
        if payload is None and close is None and accept is None:
            _check_keys(message, _ACCEPT_KEYS | {"status"}, "a WebSocket")
            raise InvalidReply("the message asks for nothing: it has no accept, text, bytes, close or status that does")
        if self.state is OPEN:
            if not message.keys() <= _OPEN_KEYS:
                _check_keys(message, _ACCEPT_KEYS, "a WebSocket")
                self.check_asked()
        elif accept or payload is not None:
            _check_keys(message, _ACCEPT_KEYS, "a message that accepts")
            if accept is False:
                raise InvalidReply("accept: False rejects the handshake, and nothing can be sent with that")
            self.accept(message.get("subprotocol"), message.get("headers") or ())
        else:
            _check_keys(message, _REJECT_KEYS, "a message that rejects")
            return self.reject(HTTPStatus.FORBIDDEN, message.get("headers") or (), b"")
        if payload is not None:
            self.wire.send(*payload)
        if close is not None:
            self.close(*close)

    def _send_response(self, message: Message) -> None:
        """Reject the handshake with the response that ``message`` is."""
        content = _content_of(message)
        if message.get("more_content"):
            raise InvalidReply("a response to a WebSocket handshake is sent whole, without more_content")
        self.reject(message["status"], message.get("headers", ()), content)


def _check_keys(message: Message, known: frozenset[str], what: str) -> None:
    if not message.keys() <= known:
        raise InvalidReply(f"{what} has no {min(message.keys() - known)!r}; its keys are {', '.join(sorted(known))}")


def _content_of(message: Message) -> bytes:
    """The content of a message that has none, or not as ``bytes``."""
    content = message.get("content", b"")
    _check_keys(message, _KEYS, "a reply")
    return bytes_of(content, "content")


def _not_utf8(error: UnicodeEncodeError) -> InvalidReply:
    return InvalidReply(f"text must be Unicode that UTF-8 can carry: {error}")


def _payload_of(message: Message) -> tuple[int, bytes] | None:
    """The kind and the payload of what is to be sent, if anything is."""
    text, data = message.get("text"), message.get("bytes")
    if text is not None and data is not None:
        raise InvalidReply("a message is either text or bytes, and not both")
    if text is not None:
        if not isinstance(text, str):
            raise InvalidReply(f"text must be a str, not {text!r:.100}")
        try:
            return TEXT, text.encode()
        except UnicodeEncodeError as error:
            raise _not_utf8(error) from None
    if data is None:
        return None
    return BINARY, bytes_of(data, "bytes")


def _close_of(message: Message) -> tuple[int, str] | None:
    """The code and the reason, if the message closes."""
    close, reason = message.get("close"), message.get("reason")
    if close is None or close is False:
        if reason is not None:
            raise InvalidReply("a reason goes with close")
        return None
    return check_close(NORMAL_CLOSURE if close is True else close, "" if reason is None else reason)
