"""Frames as bytes (RFC 6455 section 5.2): where one of a client ends, and whole messages of the server."""

from __future__ import annotations

import struct

from websockets.exceptions import ProtocolError
from websockets.frames import Close

from uvicorn_worker.errors import InvalidReply

#: The first byte of a frame that is a whole message: FIN and an opcode, and no reserved bit.
TEXT = 0x81
BINARY = 0x82

#: The same of one that closes.
CLOSE = 0x88

#: Close codes (RFC 6455 section 7.4.1), ABNORMAL being the one that stands for none.
NORMAL_CLOSURE = 1000
ABNORMAL = 1006
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

#: The longest payload whose length fits into the second byte.
LONGEST_SHORT = 125

_MASKED = 0x80

#: Opcodes that RFC 6455 section 11.8 knows.
_OPCODES = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))


def begins_badly(data: bytes, position: int) -> bool:
    """Whether the first two bytes of the frame at ``position`` are enough to see that no client may send it."""
    return data[position] & 0x0F not in _OPCODES or data[position + 1] < _MASKED


def find_payload(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the payload of the frame at ``position`` begins and ends, in ``data`` or behind it.

    ``None`` while too little of its head has come to tell.
    """
    available = len(data) - position
    if available < 2:
        return None
    size = data[position + 1] & ~_MASKED
    begin = position + 2
    if size > LONGEST_SHORT:
        begin += 2 if size == 126 else 8
        if available < begin - position:
            return None
        size = int.from_bytes(data[position + 2 : begin], "big")
    if data[position + 1] & _MASKED:
        begin += 4
    return begin, begin + size


def head(kind: int, size: int) -> bytes:
    """The head of a message of ``size`` bytes, which is not masked; ``kind`` is :data:`TEXT` or :data:`BINARY`."""
    if size <= LONGEST_SHORT:
        return bytes((kind, size))
    if size < 1 << 16:
        return struct.pack("!BBH", kind, 126, size)
    return struct.pack("!BBQ", kind, 127, size)


def check_close(code: object, reason: object) -> tuple[int, str]:
    """The code and reason of a close frame, if they can be sent as such; raises :class:`InvalidReply`."""
    if not isinstance(code, int) or isinstance(code, bool):
        raise InvalidReply(f"close must be true or a code, not {code!r:.100}")
    if not isinstance(reason, str):
        raise InvalidReply(f"the reason of a close must be a str, not {reason!r:.100}")
    try:
        payload = Close(code, reason).serialize()
    except (ProtocolError, UnicodeEncodeError, struct.error) as error:
        raise InvalidReply(
            f"a WebSocket can't be closed with {code}: codes are 1000 to 1014 but for 1004 to 1006, and 3000 to 4999"
            f" ({error})"
        ) from None
    if len(payload) > LONGEST_SHORT:
        raise InvalidReply(f"the reason of a close has 123 bytes at most, and not {len(payload) - 2}: {reason!r:.100}")
    return code, reason
