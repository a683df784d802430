"""An exchange as a channel: its name, and its answer through a group, for which it may be held."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn_worker._types import Message
from uvicorn_worker.broadcast.delivery import Delivery, Gathered
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.errors import ClientDisconnected, InvalidReply
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.response import FINISHED, OPEN, WAITING
from uvicorn_worker.interfaces.messages import close_of, content_of, payload_of
from uvicorn_worker.websocket.frames import TEXT

if TYPE_CHECKING:
    _OverExchange = Exchange
else:
    _OverExchange = object

_TEXT_FIELDS = ((b"content-type", b"text/plain; charset=utf-8"),)
_BYTES_FIELDS = ((b"content-type", b"application/octet-stream"),)


class GroupReply(_OverExchange):
    """Makes an exchange a channel that can be a member of groups.

    A reply that is one when the application returns is held: it is answered through a group, or the client goes, or
    the worker stops.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    #: What is delivered leaves at once.
    gathered: Gathered | None = None

    @property
    def groups(self) -> Groups:
        return self.connection.service.groups

    @property
    def name(self) -> str:
        """The channel's name, unique among all channels of all processes."""
        try:
            return self._name
        except AttributeError:  # Few channels are ever asked for it.
            groups = self.connection.service.groups
            self._name = groups.name(self) if self.reply < FINISHED else groups.new_name()
            self._take_the_long_way()
            return self._name

    def _take_the_long_way(self) -> None:
        """Have the end of the reply come by where groups are told of it, which the usual way does not."""
        self.is_usual = False

    def answer(self, message: Message) -> None:
        """Send a response or a part of it, in the words of ``channels['reply'].send``, waiting for nothing.

        Raises as :meth:`Exchange.send_whole`.
        """
        content = content_of(message)
        more_content = message.get("more_content")
        if "status" not in message:
            if self.reply is WAITING:
                raise InvalidReply("the first message of a reply must have a status")
            self.write(content, finish=not more_content)
        elif not more_content:
            self.send_whole(message["status"], message.get("headers", ()), content)
        else:
            self.start(message["status"], message.get("headers", ()))
            if content:
                self.write(content)

    # As a member of groups.

    def deliver(self, delivery: Delivery) -> None:
        """Send what was sent to a group; raises as :meth:`answer`."""
        connection = self.connection
        if self.reply >= FINISHED or connection.is_closing():
            raise ClientDisconnected("there is nobody to answer")
        groups = connection.service.groups
        waiting = connection.backlog() if connection.write_paused else 0
        if waiting > connection.service.settings.groups_max_backlog:
            groups.closed_slow(self, waiting)
            connection.abort()
            raise ClientDisconnected("it reads too slowly")
        is_held = self in groups.held
        self.answer(_as_reply(delivery.message))
        if self.reply is not FINISHED:
            connection.owe(waiting + len(delivery.body))
        elif is_held:
            self._end_hold()

    def shed(self) -> None:
        """Answer, if nobody else will, that nothing comes."""
        if self in self.connection.service.groups.held:
            self._give_up()

    def _give_up(self) -> None:
        if self.reply < OPEN:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE)
            self._end_hold()
        else:
            self.connection.cut(self)

    def _end_hold(self) -> None:
        """The reply is finished, and the application's call has ended long ago."""
        if self.body is not ABSENT:
            self.connection.exchange_ended(self)

    def _application_returned(self) -> None:
        connection = self.connection
        groups = connection.service.groups
        if not groups.has_member(self):
            super()._application_returned()
        elif connection.has_ended:
            connection.cut(self)
        elif connection.service.draining:
            self._give_up()
        else:
            groups.held.add(self)

    def client_ended(self) -> None:
        super().client_ended()
        if self in self.connection.service.groups.held:
            # A client that waits like this and sends no more has gone, or else each that has would be waited for.
            self.connection.cut(self)

    def client_gone(self) -> None:
        super().client_gone()
        self.connection.service.groups.leave(self)


def _as_reply(message: Message) -> Message:
    """What a message for WebSockets is as a reply: text and bytes are its content, and what only closes is empty."""
    if "status" in message:
        return message
    payload = payload_of(message)
    if payload is not None:
        return {"status": 200, "headers": _TEXT_FIELDS if payload[0] == TEXT else _BYTES_FIELDS, "content": payload[1]}
    return message if close_of(message) is None else {"status": 204}
