"""What a WebSocket conversation asks of its connection."""

from __future__ import annotations

from typing import Protocol

from uvicorn_worker._types import ReplyFields


class Wire(Protocol):
    """The connection, as its conversation sees it."""

    __slots__ = ()

    write_paused: bool

    def accept(self, subprotocol: str | None, fields: ReplyFields) -> None:
        """Answer the handshake; raises :class:`InvalidReply`, having sent nothing."""
        ...

    def reject(self, status: int, fields: ReplyFields, content: bytes) -> None:
        """Answer the handshake with another response; raises as :meth:`Exchange.send_whole`."""
        ...

    def send(self, kind: int, payload: bytes) -> None:
        """Send a message, text or binary as ``kind`` of ``websocket.frames`` says."""
        ...

    def write(self, data: bytes, /) -> None:
        """Send frames, once the handshake was accepted."""
        ...

    def backlog(self) -> int:
        """Of messages to groups, the bytes that still wait for the client."""
        ...

    def owe(self, size: int) -> None:
        """So many of the bytes that wait, or all if there are fewer, are of messages to groups."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        ...

    def close_slow(self) -> None:
        """Begin it with a client that reads too slowly, and has less time than others for its part."""
        ...

    def abort(self) -> None:
        """Close now, whatever is under way."""
        ...

    def is_closing(self) -> bool:
        """Whether what is sent may lead nowhere."""
        ...

    async def room_to_write(self) -> None:
        """Return when the client has read enough, or has gone."""
        ...

    def hold(self) -> None:
        """Read no more for now."""
        ...

    def call_ended(self) -> None:
        """A call of the application has ended that somebody may have waited for."""
        ...
