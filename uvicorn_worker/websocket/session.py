"""One WebSocket conversation, as an application leads it.

Everything that moves its state is in this file. The client has ASKED with its handshake; the conversation is OPEN once
that was accepted, CLOSING when the server has said so, and OVER when there is nobody to talk to any more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from enum import IntEnum
from http import HTTPStatus
from typing import Any

from uvicorn_worker._types import Message, ReplyFields
from uvicorn_worker.broadcast.delivery import NOTHING, Delivery, Gathered
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.errors import ClientDisconnected, IllegalMove, InvalidReply, WorkerExit
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.response import WAITING
from uvicorn_worker.interfaces import messages
from uvicorn_worker.service import Service
from uvicorn_worker.websocket.frames import INTERNAL_ERROR, SERVICE_RESTART
from uvicorn_worker.websocket.wire import Wire


class State(IntEnum):
    ASKED = 0
    OPEN = 1
    CLOSING = 2
    OVER = 3


# A global is looked up in a fraction of the time of an attribute of the enumeration, which is tested all the time.
ASKED, OPEN, CLOSING, OVER = State

_PLAIN_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)


class Session:
    """A conversation; an interface says how the application is called for its events."""

    __slots__ = ("_name", "gathered", "path", "service", "state", "wire")

    _name: str
    #: As a :class:`Member` has it; it is written before anything that is sent or that closes.
    gathered: Gathered | None

    def __init__(self, wire: Wire, service: Service, path: str) -> None:
        self.wire = wire
        self.service = service
        self.path = path
        self.state = ASKED
        self.gathered = None

    def __str__(self) -> str:
        return f"WebSocket {self.path}"

    # Events.

    def connected(self, request: Exchange, subprotocols: list[str]) -> Coroutine[Any, Any, None]:
        """The application's coroutine for the handshake."""
        raise NotImplementedError

    def opened(self) -> None:
        """The handshake was accepted."""

    def received(self, text: str | None, data: bytes | None) -> None:
        """A message has come: either text or bytes."""
        raise NotImplementedError

    def weigh(self, size: int) -> None:
        """The last message is a large one, of ``size`` bytes."""
        raise NotImplementedError

    def disconnected(self, code: int, reason: str) -> None:
        """It is over."""
        raise NotImplementedError

    def returned(self) -> None:
        """The call for the handshake has ended, and the handshake is answered."""

    @property
    def is_full(self) -> bool:
        """Whether as much that was received is unfinished as may be: then :meth:`Wire.hold` was called."""
        raise NotImplementedError

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was received is worth waiting for when the worker stops."""
        return True

    def watch(self) -> None:
        """Call :meth:`Wire.call_ended` when it becomes idle, from now on."""

    async def run(self, request: Exchange, subprotocols: list[str]) -> None:
        """Call the application for the handshake, and see that it gets an answer.

        What is raised before there is one is for the request to answer.
        """
        try:
            await self.connected(request, subprotocols)
        except (WorkerExit, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: an application doesn't end the worker (and its siblings).
            if self.state is ASKED:
                raise
            self.raised(error)
        if self.state is ASKED and request.reply is WAITING:
            self.unanswered()
        self.returned()

    def unanswered(self) -> None:
        """The call for the handshake has returned without an answer."""
        self.service.log.warning("The application returned without an answer, which rejects: %s", self)
        self.reject(HTTPStatus.FORBIDDEN, (), b"")

    def raised(self, error: BaseException) -> None:
        """A call of the application has raised ``error``."""
        if isinstance(error, ClientDisconnected) and self.state > OPEN:
            return
        if isinstance(error, asyncio.CancelledError) and self.service.draining:
            return
        try:
            self.service.log.error("The application raised: %s", self, exc_info=error)
            if self.state is OPEN:
                self.close(INTERNAL_ERROR, "")
        except MemoryError:
            error.__traceback__ = None  # As for an exchange.
            self.wire.abort()
            self.service.out_of_memory(self)

    # Moves.

    def accept(self, subprotocol: str | None, fields: ReplyFields) -> None:
        """Accept the handshake. Raises :class:`InvalidReply`, and as :meth:`check_asked`."""
        self.check_asked()
        self.state = OPEN  # What the client has sent behind its handshake may be received at once.
        self.gathered = NOTHING
        try:
            self.wire.accept(subprotocol, fields)
        except Exception:
            self.state = ASKED
            self.gathered = None
            raise
        self.opened()

    def reject(self, status: int, fields: ReplyFields, content: bytes) -> None:
        """Reject the handshake with a response. Raises as :meth:`Exchange.send_whole`, and as :meth:`check_asked`."""
        self.check_asked()
        if not content and status == HTTPStatus.FORBIDDEN and not fields:
            fields, content = _PLAIN_TEXT, b"Forbidden"
        self.wire.reject(status, fields, content)

    def check_asked(self) -> None:
        """Raise :class:`IllegalMove`, or :class:`ClientDisconnected`, where the handshake waits for no answer."""
        self.check_open()
        if self.state is OPEN:
            raise IllegalMove("the handshake is accepted already")

    def check_open(self) -> None:
        """Raise :class:`ClientDisconnected` where there is nobody to send to."""
        if self.state > OPEN:
            raise ClientDisconnected("the WebSocket is closed")

    def close(self, code: int, reason: str) -> None:
        """Close an open conversation; nothing can be sent any more."""
        self._gather_no_more()
        self.state = CLOSING
        self.service.groups.leave(self)
        self.wire.close(code, reason)

    def over(self, code: int, reason: str) -> None:
        """Nothing comes any more, and nothing gets there: with ``code`` and ``reason`` as the client has said, or
        else as was said to it."""
        if self.state is not OVER:
            self._gather_no_more()
            self.state = OVER
            self.service.groups.leave(self)
            self.disconnected(code, reason)

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be sent; raises :class:`ClientDisconnected`."""
        wire = self.wire
        if wire.is_closing():
            # That a write has failed is told in the loop's next turn, which a sender that never waits keeps away.
            await asyncio.sleep(0)
        while wire.write_paused and self.state is OPEN:
            await wire.room_to_write()
        if self.state is OVER:
            self.check_open()

    # As a channel.

    @property
    def groups(self) -> Groups:
        return self.service.groups

    @property
    def name(self) -> str:
        """The channel's name, unique among all channels of all processes."""
        try:
            return self._name
        except AttributeError:  # Few channels are ever asked for it.
            groups = self.service.groups
            self._name = groups.name(self) if self.state <= OPEN else groups.new_name()
            return self._name

    def answer(self, message: Message) -> None:
        """Send what ``message`` says, in the words of ``channels['reply'].send``, waiting for nothing.

        Raises :class:`InvalidReply`, :class:`IllegalMove` or :class:`ClientDisconnected`, having sent nothing.
        """
        self.check_open()
        if "status" in message:
            return self._respond(message)
        accept = message.get("accept")
        if accept is not None and not isinstance(accept, bool):
            raise InvalidReply(f"accept must be true or false, not {accept!r:.100}")
        payload = messages.payload_of(message)
        close = messages.close_of(message)
        if payload is None and close is None and accept is None:
            messages.check_keys(message, messages.ACCEPT_KEYS | {"status"}, "a WebSocket")
            raise InvalidReply("the message asks for nothing: it has no accept, text, bytes, close or status that does")
        if self.state is OPEN:
            if not message.keys() <= messages.OPEN_KEYS:
                messages.check_keys(message, messages.ACCEPT_KEYS, "a WebSocket")
                self.check_asked()
        elif accept or payload is not None:
            messages.check_keys(message, messages.ACCEPT_KEYS, "a message that accepts")
            if accept is False:
                raise InvalidReply("accept: False rejects the handshake, and nothing can be sent with that")
            self.accept(message.get("subprotocol"), message.get("headers") or ())
        else:
            messages.check_keys(message, messages.REJECT_KEYS, "a message that rejects")
            return self.reject(HTTPStatus.FORBIDDEN, message.get("headers") or (), b"")
        if payload is not None:
            self.write_first()
            self.wire.send(*payload)
        if close is not None:
            self.close(*close)

    def _respond(self, message: Message) -> None:
        """Reject the handshake with the response that ``message`` is."""
        content = messages.content_of(message)
        if message.get("more_content"):
            raise InvalidReply("a response to a WebSocket handshake is sent whole, without more_content")
        self.reject(message["status"], message.get("headers", ()), content)

    # As a member of groups.

    def deliver(self, delivery: Delivery) -> None:
        """Send what was sent to a group; raises as :meth:`answer`."""
        frame = delivery.frame
        if frame is None:
            frame = delivery.frame = messages.frame_of(delivery.message)
        if self.state is ASKED:
            self.deliver_early(delivery)
        elif frame and self.gathered is not None:
            turn = self.service.groups.turn
            if self.gathered is NOTHING:
                turn.add((self,))
            self.gathered = turn.gather(self.gathered, frame)
        else:
            self._deliver_at_once(delivery)

    def deliver_early(self, delivery: Delivery) -> None:
        """The same before the handshake is answered, which this does."""
        self.answer(delivery.message)

    def _deliver_at_once(self, delivery: Delivery) -> None:
        """The same where it is more than a frame."""
        self.check_open()
        self.write_first()
        wire = self.wire
        if wire.is_closing():
            raise ClientDisconnected("the client has gone")
        waiting = wire.backlog() if wire.write_paused else 0
        self._check_backlog(waiting)
        self.answer(delivery.message)
        wire.owe(waiting + len(delivery.body))

    def _check_backlog(self, waiting: int) -> None:
        """Close, and raise :class:`ClientDisconnected`, where so much waits that the client reads too slowly."""
        if waiting > self.service.settings.groups_max_backlog:
            self.service.groups.closed_slow(self, waiting)
            self.gathered = None
            self.state = CLOSING
            self.wire.close_slow()
            self.service.groups.leave(self)
            raise ClientDisconnected("it reads too slowly")

    def write_first(self) -> None:
        """Write what was gathered: something is to be written behind it."""
        if self.gathered is not NOTHING:
            self.service.groups.turn.write((self,), False)

    def _gather_no_more(self) -> None:
        self.write_first()
        self.gathered = None

    def write_gathered(self, data: bytes, is_due: bool) -> None:
        """As :class:`Gatherer` has it."""
        wire = self.wire
        # What is written to one that is closing would be a warning in the log.
        if wire.is_closing():
            raise ClientDisconnected("the client has gone")
        if wire.write_paused:
            waiting = wire.backlog()
            if is_due:
                self._check_backlog(waiting)
            wire.write(data)
            wire.owe(waiting + len(data))
        else:
            wire.write(data)
            if wire.write_paused:
                wire.owe(sys.maxsize)

    def shed(self) -> None:
        """Close, because it has missed something that was sent to a group."""
        if self.state is OPEN:
            self.close(SERVICE_RESTART, "messages may have been missed")
        elif self.state is ASKED:
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, (), b"")
