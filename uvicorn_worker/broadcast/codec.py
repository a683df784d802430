"""Messages of groups as bytes, and back.

JSON is what carries a message, as text in UTF-8, wherever it can: so any program that can write JSON to the engine can
take part. What JSON can't carry (bytes, and floats that are no numbers) has an envelope, told by its first byte, which
begins no JSON:

* ``0x01``: the rest is the ``bytes`` of a message that has nothing else.
* ``0x02``: a value, as a byte that says what it is and then: of a str, bytes or int (in decimal digits) the length and
  the content; of a float 8 bytes; of a list the length and its values; of a dict the length and, in turn, keys (the
  length and the content of a str) and values. Lengths have 4 bytes; all is big-endian.

Bytes that come are not trusted: they decode to such a message, or an error is raised, whatever they are.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from uvicorn_worker._types import Message
from uvicorn_worker.errors import InvalidGroupMessage

_BYTES = 0x01
_VALUE = 0x02

_LENGTH = struct.Struct("!I")
_DOUBLE = struct.Struct("!d")

#: Lists and dicts within each other.
_MOST_LEVELS = 64

#: The JSON of text and nothing else, and what can't stand in a string of JSON as it is (RFC 8259 section 7).
_TEXT_BEGIN, _TEXT_END = b'{"text":"', b'"}'
_SHORTEST_TEXT = len(_TEXT_BEGIN + _TEXT_END)
_ESCAPED = bytes(range(0x20)) + b'"\\'

_CONSTANTS = {b"n": None, b"t": True, b"f": False}
_CONSTANT_TAGS = {None: b"n", True: b"t", False: b"f"}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_from_json = json.JSONDecoder(parse_constant=_no_constant).decode


def encode(message: Message) -> bytes:
    """The bytes of a message: a dict of ``str``, ``bytes``, ``bool``, ``int``, ``float``, ``None``, and of lists and
    dicts of these.

    Raises :class:`InvalidGroupMessage` for anything else.
    """
    if not isinstance(message, dict):
        raise InvalidGroupMessage(f"the message to a group is a dict, not {message!r:.100}")
    if len(message) == 1:
        text, data = message.get("text"), message.get("bytes")
        if type(text) is str:
            encoded = _utf8(text)
            if len(encoded.translate(None, _ESCAPED)) == len(encoded):
                return _TEXT_BEGIN + encoded + _TEXT_END
        if type(data) is bytes:
            return b"\x01" + data
    try:
        if _is_json(message, 0):
            return _utf8(_to_json(message))
        parts = [b"\x02"]
        _add_value(parts, message, 0)
    except (ValueError, struct.error) as error:
        if isinstance(error, InvalidGroupMessage):
            raise
        raise InvalidGroupMessage(f"the message can't be sent to a group: {error}") from None
    return b"".join(parts)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidGroupMessage(f"text must be Unicode that UTF-8 can carry: {error}") from None


def _is_json(value: Any, level: int) -> bool:
    """Whether JSON can carry the value, as far as that can be told; what it can't, the envelope may not either."""
    if value is None or isinstance(value, (str, int)):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if level > _MOST_LEVELS:
        return False
    if isinstance(value, (list, tuple)):
        return all(_is_json(item, level + 1) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item, level + 1) for key, item in value.items())
    return False


def _add_value(parts: list[bytes], value: Any, level: int) -> None:
    if value is None or isinstance(value, bool):
        parts.append(_CONSTANT_TAGS[value])
    elif isinstance(value, str):
        _add_content(parts, b"s", _utf8(value))
    elif isinstance(value, int):
        _add_content(parts, b"i", str(int(value)).encode("ascii"))
    elif isinstance(value, float):
        parts.append(b"d" + _DOUBLE.pack(value))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _add_content(parts, b"b", bytes(value))
    elif level > _MOST_LEVELS:
        raise InvalidGroupMessage(f"a message has {_MOST_LEVELS} levels at most")
    elif isinstance(value, (list, tuple)):
        parts.append(b"l" + _LENGTH.pack(len(value)))
        for item in value:
            _add_value(parts, item, level + 1)
    elif isinstance(value, dict):
        _add_dict(parts, value, level)
    else:
        raise InvalidGroupMessage(f"a message can't have {value!r:.100}: it is of str, bytes, numbers, lists and dicts")


def _add_dict(parts: list[bytes], value: dict[Any, Any], level: int) -> None:
    parts.append(b"m" + _LENGTH.pack(len(value)))
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidGroupMessage(f"the keys of a message are str, and not {key!r:.100}")
        _add_content(parts, b"", _utf8(key))
        _add_value(parts, item, level + 1)


def _add_content(parts: list[bytes], tag: bytes, content: bytes) -> None:
    parts.append(tag + _LENGTH.pack(len(content)))
    parts.append(content)


def decode(body: bytes) -> Message:
    """The message that the bytes are of; raises :class:`InvalidGroupMessage`."""
    try:
        if len(body) >= _SHORTEST_TEXT and body.startswith(_TEXT_BEGIN) and body.endswith(_TEXT_END):
            # What comes nearly always. Without an escape it needs no parser, which costs four times as much.
            text = body[len(_TEXT_BEGIN) : -len(_TEXT_END)]
            if len(text.translate(None, _ESCAPED)) == len(text):
                return {"text": text.decode()}
        kind = body[0]
        if kind == _BYTES:
            return {"bytes": body[1:]}
        if kind == _VALUE:
            value, end = _read_value(body, 1, 0)
            if end != len(body):
                raise ValueError(f"{len(body) - end} bytes behind the message")
        else:
            value = _from_json(body.decode())
    except (ValueError, IndexError, struct.error, RecursionError) as error:
        raise InvalidGroupMessage(f"the bytes {body!r:.100} are no message: {error}") from None
    if not isinstance(value, dict):
        raise InvalidGroupMessage(f"a message is an object of JSON, not {body!r:.100}")
    return value


def _read_value(body: bytes, at: int, level: int) -> tuple[Any, int]:
    """The value that begins at ``at``, and where it ends."""
    tag = body[at : at + 1]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"d":
        return _DOUBLE.unpack_from(body, at)[0], at + _DOUBLE.size
    if tag in b"sbi" and tag:
        return _read_content(tag, body, at)
    if tag not in (b"l", b"m"):
        raise ValueError(f"there is no value {tag!r}")
    if level > _MOST_LEVELS:
        raise ValueError("too many levels")
    count = _LENGTH.unpack_from(body, at)[0]
    at += _LENGTH.size
    if count > len(body) - at:  # Each takes a byte at least.
        raise ValueError("more values than there are bytes")
    return (_read_list if tag == b"l" else _read_dict)(body, at, level + 1, count)


def _read_content(tag: bytes, body: bytes, at: int) -> tuple[Any, int]:
    begin = at + _LENGTH.size
    end = begin + _LENGTH.unpack_from(body, at)[0]
    if end > len(body):
        raise ValueError("a value that is not whole")
    content = body[begin:end]
    if tag == b"b":
        return content, end
    text = content.decode()
    if tag == b"s":
        return text, end
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise ValueError(f"{text!r:.20} is no number")
    return int(text), end


def _read_list(body: bytes, at: int, level: int, count: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(count):
        value, at = _read_value(body, at, level)
        values.append(value)
    return values, at


def _read_dict(body: bytes, at: int, level: int, count: int) -> tuple[Message, int]:
    values = {}
    for _ in range(count):
        key, at = _read_content(b"s", body, at)
        values[key], at = _read_value(body, at, level)
    return values, at
