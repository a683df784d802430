"""Heads as bytes, with nothing on the wire that is not a head (RFC 9112 sections 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Container
from http import HTTPStatus

from uvicorn_worker._types import ReplyFields
from uvicorn_worker.errors import InvalidReply

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Fields whose presence in a response changes what the server adds. All others have kind ``PLAIN``.
PLAIN, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE, SERVER = range(6)

_DECISIVE = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

# Names that were found to be tokens, and their kinds. Applications use the same few names all the time, so a name is
# matched once (a match costs as much as all the rest that is done with a field). Bounded, lest an application that
# makes names up grow it without end.
_kinds: dict[bytes, int] = dict(_DECISIVE)
_KINDS_BOUND = 1024


def _kind_of(name: bytes) -> int:
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        raise InvalidReply(f"invalid name of a response header: {name!r}")
    kind = _DECISIVE.get(name.lower(), PLAIN)
    if len(_kinds) < _KINDS_BOUND:
        _kinds[name] = kind
    return kind


def encode_fields(fields: ReplyFields) -> tuple[bytes, dict[int, list[bytes]]]:
    """The lines of ``fields``, and the values of those that are not plain, by kind.

    Transfer-encoding and connection are the server's to write and content-length is written by whoever knows what it
    must be; these three are left out of the lines. Raises :class:`InvalidReply` for anything that would break out of
    its line.
    """
    parts: list[bytes] = []
    decisive: dict[int, list[bytes]] = {}
    count = 0
    try:
        for name, value in fields:
            try:
                kind = _kinds[name]
            except KeyError:
                kind = _kind_of(name)
            if kind:
                decisive.setdefault(kind, []).append(value)
                if kind <= CONNECTION:
                    continue
            parts += (name, b": ", value, b"\r\n")
            count += 1
        lines = b"".join(parts)
    except (TypeError, ValueError) as error:
        raise _malformed(fields, error) from None
    # One look over all values at once instead of one at each: the only line ends are the ones added above.
    if lines.count(b"\n") != count or lines.count(b"\r") != count or b"\0" in lines:
        raise _malformed(fields, None)
    return lines, decisive


def _malformed(fields: ReplyFields, error: Exception | None) -> InvalidReply:
    """Say which field it is that can't be sent."""
    if isinstance(error, InvalidReply):
        return error
    for field in fields:
        try:
            name, value = field
        except (TypeError, ValueError):
            return InvalidReply(f"a response header must be a pair of a name and a value, not {field!r}")
        if not isinstance(value, bytes):
            return InvalidReply(f"the value of a response header must be bytes: {name!r}: {value!r}")
        if b"\r" in value or b"\n" in value or b"\0" in value:
            return InvalidReply(f"invalid byte in the value of a response header: {name!r}: {value!r}")
    return InvalidReply(f"headers must be pairs of bytes: {error}")


#: Statuses of responses that come before the final one (RFC 9110 section 15.2).
INTERIM_STATUSES = range(100, 200)


def _status_lines() -> dict[int, bytes]:
    known = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
    return {code: b"HTTP/1.1 %d %b\r\n" % (code, known.get(code, b"")) for code in range(100, 600)}


#: The status line of each status that can be sent; HTTP/1.1 also in answer to 1.0 (RFC 9110 section 2.5).
STATUS_LINES = _status_lines()


class Prefixes(dict[int, bytes]):
    """What a response begins with, by status: the status line, and the fields that every response has.

    Each is made when it is first asked for, and again once the date has changed.
    """

    def __init__(self, server: bytes, headers: tuple[tuple[bytes, bytes], ...], with_date: bool) -> None:
        super().__init__()
        self._server = b"server: %b\r\n" % server if server else b""
        self._headers = b"".join(b"%b: %b\r\n" % field for field in headers)
        self._with_date = with_date
        self._date = b""

    def refresh(self, date: bytes) -> None:
        """Have ``date`` as the value of the ``date`` field from now on."""
        self.clear()
        self._date = b"date: %b\r\n" % date if self._with_date else b""

    def __missing__(self, status: int) -> bytes:
        prefix = self[status] = STATUS_LINES[status] + self._server + self._date + self._headers
        return prefix

    def beside(self, status: int, given: Container[int]) -> bytes:
        """The same without the fields that the application has ``given`` by itself, by kind."""
        server = b"" if SERVER in given else self._server
        date = b"" if DATE in given else self._date
        return STATUS_LINES[status] + server + date + self._headers


def refusal(prefix: bytes, reason: str, *, with_body: bool) -> bytes:
    """A whole response that refuses a request in a line of plain text and announces the end of the connection.

    ``prefix`` is the status line with the fields that every response has.
    """
    content = reason.encode("utf-8") + b"\n"
    head = b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (prefix, len(content)) + (content if with_body else b"")
