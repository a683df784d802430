"""How an ASGI 3 application is called for a WebSocket (ASGI WebSocket specification 2.5)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Message, ReplyFields
from uvicorn_worker.broadcast.delivery import NOTHING, Delivery
from uvicorn_worker.errors import IllegalMove, InvalidReply
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.response import WAITING
from uvicorn_worker.http11.wire import bytes_of, list_fields
from uvicorn_worker.interfaces.scope import GROUPS, GroupsExtension, handshake_scope, is_of_disconnect
from uvicorn_worker.websocket.frames import BINARY, NORMAL_CLOSURE, TEXT, check_close
from uvicorn_worker.websocket.session import ASKED, OPEN, Session

if TYPE_CHECKING:
    _OverSession = Session
else:
    _OverSession = object


class WebSocketASGI(GroupsExtension, _OverSession):
    """Makes a session the ``receive`` and the ``send`` of its own WebSocket."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The session's class has them.

    SLOTS = ("_denial", "_early", "_events", "_offered", "_received", "_request", "_sizes", "_taken", "_waiters")

    #: What was delivered before the handshake is answered.
    _early: list[Delivery]
    #: What was received by the server, and not yet by the application; an empty deque has 700 bytes.
    _events: list[Message]
    #: How many messages the server has received, and how many of these the application; the sizes of large ones
    #: between.
    _received: int
    _taken: int
    _sizes: dict[int, int]
    #: One for each task that receives; whoever is told first gets the event.
    _waiters: list[asyncio.Future[None]]
    _request: Exchange
    #: The subprotocols that the client has offered.
    _offered: list[str]
    #: The status and the headers of the response that denies the handshake.
    _denial: tuple[int, ReplyFields] | None

    def connected(self, request: Exchange, subprotocols: list[str]) -> Coroutine[Any, Any, None]:
        self._events = [{"type": "websocket.connect"}]
        self._received = self._taken = 0
        self._sizes = {}
        self._early = []
        self._waiters = []
        self._denial = None
        self._request = request
        self._offered = subprotocols
        scope = handshake_scope(request)
        scope["subprotocols"] = subprotocols
        extensions = {"websocket.http.response": {}, GROUPS: self}
        if "tls" in scope["extensions"]:
            extensions["tls"] = scope["extensions"]["tls"]
        scope["extensions"] = extensions
        return self.service.app(scope, self.receive, self.send)

    # Events.

    def received(self, text: str | None, data: bytes | None) -> None:
        self._received += 1
        if text is not None:
            self._events.append({"type": "websocket.receive", "text": text})
        else:
            self._events.append({"type": "websocket.receive", "bytes": data})
        self._wake()
        if len(self._events) - len(self._waiters) >= self.service.settings.ws_max_queue:
            self.wire.hold()

    def weigh(self, size: int) -> None:
        self._sizes[self._received] = size
        if self.is_full:
            self.wire.hold()

    @property
    def is_full(self) -> bool:
        settings = self.service.settings
        return len(self._events) >= settings.ws_max_queue or sum(self._sizes.values()) > (
            settings.ws_max_size or math.inf
        )

    def disconnected(self, code: int, reason: str) -> None:
        self._events.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def receive(self) -> Message:
        """The next event: ``websocket.connect``, ``websocket.receive`` for each message, and
        ``websocket.disconnect``, after which there is nothing else."""
        events = self._events
        while not events:
            waiter = self.service.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        event = events[0]
        if event["type"] == "websocket.disconnect":
            return event.copy()
        del events[0]
        if event["type"] == "websocket.receive":
            self._taken += 1
            if self._sizes:
                self._sizes.pop(self._taken, None)
            if self.state is OPEN:
                self.wire.call_ended()
        return event

    async def send(self, message: Message) -> None:
        """Send an event, and wait while the client reads too slowly.

        Raises ``InvalidReply`` (a ``ValueError``), ``IllegalMove`` (a ``RuntimeError``), and ``ClientDisconnected``
        (an ``OSError``) once the WebSocket is closed.
        """
        kind = message["type"]
        if self.state is not OPEN:
            self.check_open()
            if kind == "websocket.send":
                raise IllegalMove("websocket.send before websocket.accept")
        if kind == "websocket.send":
            if self.gathered is not NOTHING:
                self.write_first()
            self.wire.send(*_payload_of(message))
        elif self._denial is not None and kind in ("websocket.accept", "websocket.close"):
            raise IllegalMove(f"{kind} after websocket.http.response.start")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._close(message)
        elif kind == "websocket.http.response.start":
            self.check_asked()
            if self._denial is not None:
                raise IllegalMove("a second websocket.http.response.start")
            self._denial = message["status"], message.get("headers") or ()
        elif kind == "websocket.http.response.body":
            await self._deny(bytes_of(message.get("body", b""), "body"), more=bool(message.get("more_body")))
        else:
            raise IllegalMove(f"there is no event {kind!r} of a WebSocket")
        if self.state is OPEN and (self.wire.write_paused or self.wire.is_closing()):
            await self.drain()

    def _accept(self, message: Message) -> None:
        fields = list_fields(message.get("headers") or ())
        subprotocol = message.get("subprotocol") or None
        for name, value in fields:
            if name.lower() == b"sec-websocket-protocol" and subprotocol is None:
                subprotocol = value.decode("latin-1")
        if subprotocol is not None and subprotocol not in self._offered:
            self.service.log.warning("Left out, because not offered: subprotocol %r: %s", subprotocol, self)
            subprotocol = None
        self.accept(subprotocol, [field for field in fields if field[0].lower() != b"sec-websocket-protocol"])

    def _close(self, message: Message) -> None:
        if self.state is ASKED:
            self.reject(HTTPStatus.FORBIDDEN, (), b"")
            return
        code, reason = message.get("code"), message.get("reason")
        self.close(*check_close(NORMAL_CLOSURE if code is None else code, reason or ""))

    async def _deny(self, body: bytes, *, more: bool) -> None:
        """Send a part of the response that denies the handshake, or the last of it."""
        request = self._request
        if self._denial is not None:
            denial, self._denial = self._denial, None
            if not more:
                self.reject(*denial, body)
                return
            request.start(*denial)
        elif request.reply is WAITING:
            raise IllegalMove("websocket.http.response.body before websocket.http.response.start")
        request.write(body, finish=not more)
        if more:
            await request.drain()

    def deliver_early(self, delivery: Delivery) -> None:
        # The application is to answer, and may want a subprotocol.
        self._early.append(delivery)
        if sum(len(kept.body) for kept in self._early) > self.service.settings.groups_max_backlog:
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, (), b"")

    def opened(self) -> None:
        early = self._early
        del self._early
        for delivery in early:
            self.deliver(delivery)

    def raised(self, error: BaseException) -> None:
        if self.state <= OPEN or not is_of_disconnect(error):
            super().raised(error)

    def returned(self) -> None:
        if self.state is OPEN:
            self.close(NORMAL_CLOSURE, "")


def _payload_of(message: Message) -> tuple[int, bytes]:
    """The kind and the payload of what is to be sent."""
    text = message.get("text")
    if text is not None:
        try:
            return TEXT, str.encode(text)
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidReply(f"text must be a str of Unicode that UTF-8 can carry: {error}") from None
    data = message.get("bytes")
    if data is None:
        raise InvalidReply("websocket.send must have text or bytes")
    return BINARY, bytes_of(data, "bytes")
