"""Heads as bytes, with nothing on the wire that is not a head (RFC 9112 sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Container
from http import HTTPStatus

from uvicorn_worker._types import ReplyFields
from uvicorn_worker.config import BODILESS_STATUSES, TOKEN
from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.memo import Memo

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Fields of a response that change what the server does beside writing them.
CONTENT_LENGTH = b"content-length"
TRANSFER_ENCODING = b"transfer-encoding"
CONNECTION = b"connection"
DATE = b"date"
SERVER = b"server"

_DECISIVE = frozenset((CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE, SERVER))

_CR, _LF, _NUL = b"\r\n\0"

_NAMES: Memo[bytes, bool] = Memo(lambda name: TOKEN.fullmatch(name) is not None, lambda name: len(name) <= 256)


class DecisiveField(Exception):
    """A field of a response is not only to be written."""


def _check_field(name: bytes, value: bytes) -> None:
    """Raise :class:`InvalidReply` for a field that would break out of its line, or is none (RFC 9110 section 5)."""
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise InvalidReply(f"a response header must be a pair of bytes, not {name!r}: {value!r:.100}")
    if not _NAMES[name]:
        raise InvalidReply(f"invalid name of a response header: {name!r}")
    if _CR in value or _LF in value or _NUL in value:
        raise InvalidReply(f"invalid byte in the value of a response header: {name!r}: {value!r:.100}")


def _make_line(field: tuple[bytes, bytes]) -> bytes:
    name, value = field
    _check_field(name, value)
    if name.lower() in _DECISIVE:
        raise DecisiveField
    return b"%b: %b\r\n" % field


def _is_short(field: tuple[bytes, bytes]) -> bool:
    return len(field[0]) + len(field[1]) <= 256


#: The line of a field, by name and value. Raises :class:`InvalidReply` and :class:`DecisiveField`.
LINES: Memo[tuple[bytes, bytes], bytes] = Memo(_make_line, _is_short)


def list_fields(fields: ReplyFields) -> list[tuple[bytes, bytes] | list[bytes]]:
    """The fields, to be looked through more than once; raises :class:`InvalidReply` for what has none."""
    try:
        return list(fields)
    except TypeError:
        raise InvalidReply(f"headers must be pairs of bytes, not {fields!r:.100}") from None


def encode_fields(fields: ReplyFields) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """The lines of ``fields``, and the values of the decisive ones by lower-cased name.

    Of these, date and server are among the lines too; the others are the server's to write. Raises
    :class:`InvalidReply`.
    """
    lines = b""
    decisive: dict[bytes, list[bytes]] = {}
    try:
        for name, value in fields:
            try:
                lines += LINES[name, value]
            except DecisiveField:
                kind = name.lower()
                decisive.setdefault(kind, []).append(value)
                if kind == DATE or kind == SERVER:
                    lines += b"%b: %b\r\n" % (name, value)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidReply):
            raise
        raise InvalidReply(f"headers must be a list of pairs of bytes: {error}") from None
    return lines, decisive


def _make_length_line(length: int) -> bytes:
    return b"content-length: %d\r\n\r\n" % length


#: The end of a head whose last field declares so many bytes of content.
LAST_LENGTH_LINES: Memo[int, bytes] = Memo(_make_length_line, lambda length: length < 1 << 16)


def _make_closing_lines(length: int) -> bytes:
    return b"content-length: %d\r\nconnection: close\r\n\r\n" % length


#: The same where the connection ends with the response.
CLOSING_LENGTH_LINES: Memo[int, bytes] = Memo(_make_closing_lines, lambda length: length < 1 << 16)


#: Statuses of responses that come before the final one (RFC 9110 section 15.2).
INTERIM_STATUSES = range(100, 200)


def _status_lines() -> dict[int, bytes]:
    known = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
    return {code: b"HTTP/1.1 %d %b\r\n" % (code, known.get(code, b"")) for code in range(100, 600)}


#: The status line of each status that can be sent; HTTP/1.1 also in answer to 1.0 (RFC 9110 section 2.5).
STATUS_LINES = _status_lines()


def check_status(status: object) -> None:
    """Raise :class:`InvalidReply` for a status that can't be sent."""
    if not isinstance(status, int) or status not in STATUS_LINES:
        raise InvalidReply(f"status must be a whole number from 100 to 599, not {status!r}")


class Prefixes(dict[int, bytes]):
    """What a response begins with, by status: the status line, and the fields that every response has.

    Each is made when it is first asked for, and again once the date has changed.
    """

    def __init__(self, server: bytes, headers: tuple[tuple[bytes, bytes], ...], with_date: bool) -> None:
        super().__init__()
        names = {name.lower() for name, _ in headers}
        self._server = b"server: %b\r\n" % server if server and SERVER not in names else b""
        self._headers = b"".join(b"%b: %b\r\n" % field for field in headers)
        self._with_date = with_date and DATE not in names
        self._date = b""

    def refresh(self, date: bytes) -> None:
        """Have ``date`` as the value of the ``date`` field from now on."""
        self.clear()
        self._date = b"date: %b\r\n" % date if self._with_date else b""

    def __missing__(self, status: int) -> bytes:
        check_status(status)
        prefix = self[status] = STATUS_LINES[status] + self._server + self._date + self._headers
        return prefix

    def beside(self, status: int, given: Container[bytes]) -> bytes:
        """The same without the fields that the application has ``given`` by itself."""
        server = b"" if SERVER in given else self._server
        date = b"" if DATE in given else self._date
        return STATUS_LINES[status] + server + date + self._headers


class UsualPrefixes(Prefixes):
    """The same for the statuses of responses that have a body; ``KeyError`` for others, and for what is no status."""

    def __missing__(self, status: int) -> bytes:
        if status not in STATUS_LINES or status in BODILESS_STATUSES:
            raise KeyError(status)
        return super().__missing__(status)


def refusal(prefix: bytes, reason: str, *, with_body: bool) -> bytes:
    """A whole response that refuses a request in a line of plain text and announces the end of the connection.

    ``prefix`` is the status line with the fields that every response has.
    """
    content = reason.encode("utf-8") + b"\n"
    head = b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (prefix, len(content)) + (content if with_body else b"")


def bytes_of(value: object, what: str) -> bytes:
    """The bytes that an application gives as ``what``; raises :class:`InvalidReply`."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise InvalidReply(f"{what} must be bytes, not {value!r:.100}")
