"""What ``channels['reply'].send`` takes, and groups carry: messages to clients, checked."""

from __future__ import annotations

from uvicorn_worker._types import Message
from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.http11.wire import bytes_of
from uvicorn_worker.websocket.frames import BINARY, NORMAL_CLOSURE, TEXT, check_close, head

#: Of a reply.
REPLY_KEYS = frozenset(("status", "headers", "content", "more_content"))

#: What can be sent once a handshake was accepted; what can accept it; and what can reject it without a status.
OPEN_KEYS = frozenset(("text", "bytes", "close", "reason"))
ACCEPT_KEYS = OPEN_KEYS | {"accept", "subprotocol", "headers"}
REJECT_KEYS = frozenset(("accept", "headers", "close", "reason"))


def check_keys(message: Message, known: frozenset[str], what: str) -> None:
    """Raise :class:`InvalidReply` where the message has others than the ``known`` keys of ``what`` it is."""
    if not message.keys() <= known:
        raise InvalidReply(f"{what} has no {min(message.keys() - known)!r}; its keys are {', '.join(sorted(known))}")


def content_of(message: Message) -> bytes:
    """The content of a reply; raises :class:`InvalidReply`, and for keys that none has."""
    content = message.get("content", b"")
    check_keys(message, REPLY_KEYS, "a reply")
    return bytes_of(content, "content")


def not_utf8(error: UnicodeEncodeError) -> InvalidReply:
    """The error for text that can't be sent."""
    return InvalidReply(f"text must be Unicode that UTF-8 can carry: {error}")


def payload_of(message: Message) -> tuple[int, bytes] | None:
    """The kind (as of a frame) and the payload of what is to be sent, if anything is; raises :class:`InvalidReply`."""
    text, data = message.get("text"), message.get("bytes")
    if text is not None and data is not None:
        raise InvalidReply("a message is either text or bytes, and not both")
    if text is not None:
        if not isinstance(text, str):
            raise InvalidReply(f"text must be a str, not {text!r:.100}")
        try:
            return TEXT, text.encode()
        except UnicodeEncodeError as error:
            raise not_utf8(error) from None
    if data is None:
        return None
    return BINARY, bytes_of(data, "bytes")


def frame_of(message: Message) -> bytes:
    """The frame of a message that is text or bytes and nothing more, and nothing for another; raises as
    :func:`payload_of`."""
    payload = payload_of(message) if len(message) == 1 else None
    return b"" if payload is None else head(payload[0], len(payload[1])) + payload[1]


def close_of(message: Message) -> tuple[int, str] | None:
    """The code and the reason, if the message closes; raises :class:`InvalidReply`."""
    close, reason = message.get("close"), message.get("reason")
    if close is None or close is False:
        if reason is not None:
            raise InvalidReply("a reason goes with close")
        return None
    return check_close(NORMAL_CLOSURE if close is True else close, "" if reason is None else reason)
