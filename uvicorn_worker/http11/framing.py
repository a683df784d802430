"""What a head means and how a body is delimited: decisions made of values alone (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote_to_bytes

from uvicorn_worker._types import RequestFields
from uvicorn_worker.config import BODILESS_STATUSES, Settings
from uvicorn_worker.errors import InvalidReply, RequestRefused
from uvicorn_worker.memo import Memo

#: Methods of RTSP that the parser knows and HTTP does not have.
_RTSP_METHODS = frozenset(
    (b"DESCRIBE", b"ANNOUNCE", b"SETUP", b"PLAY", b"PAUSE", b"TEARDOWN", b"GET_PARAMETER", b"SET_PARAMETER")
    + (b"REDIRECT", b"RECORD", b"FLUSH")
)

#: Request fields that decide how a request is read; of the others nothing is known here.
DECISIVE_FIELDS = frozenset(
    (b"host", b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade")
)

# RFC 3986 section 3.2.2: a registered name or IPv4 address, or an IP literal in brackets, and a port. Empty is
# allowed: RFC 9112 section 3.2 has it sent where the target has no authority.
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")

_ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]*)(.*)")


@dataclass(slots=True)
class Target:
    """A request target, taken apart; not to be changed."""

    # Not a named tuple, because unpacking one costs 300 instructions more than these attributes; nor frozen, which
    # makes it slow to make.

    path: str
    raw_path: bytes
    query_string: bytes
    #: All of it, as it was sent.
    raw: bytes


class NotOriginForm(Exception):
    """The target doesn't begin with a slash."""


def refuse(reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> RequestRefused:
    """The error that refuses a request with ``status``, 400 unless said."""
    return RequestRefused(status, reason)


def decode_method(method: bytes) -> str:
    """The method as text; raises :class:`RequestRefused` for one that is not served here."""
    if method == b"CONNECT":
        raise refuse("CONNECT is not supported", HTTPStatus.NOT_IMPLEMENTED)
    if method in _RTSP_METHODS:
        raise refuse("Invalid method")
    return method.decode("ascii")


def check_version(version: str) -> None:
    """Raise :class:`RequestRefused` for a version that is not served here."""
    if version != "1.1" and version != "1.0":
        raise refuse(f"HTTP/{version} is not supported", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)


def check_host(hosts: list[bytes], version: str) -> None:
    """Raise :class:`RequestRefused` unless the ``Host`` fields are as RFC 9112 section 3.2 asks."""
    if len(hosts) > 1:
        raise refuse("Repeated Host field")
    if not hosts:
        if version == "1.1":
            raise refuse("Missing Host field")
    elif not is_host(hosts[0]):
        raise refuse("Invalid Host field")


def is_host(value: bytes) -> bool:
    """Whether ``value`` can be the value of a ``Host`` field."""
    match = _HOST.fullmatch(value)
    if match is None or match[1] is None:
        return match is not None
    try:
        IPv6Address(match[1].decode("ascii"))
    except ValueError:
        return False
    return True


def split_target(target: bytes) -> Target:
    """Take a target in origin form apart (RFC 9112 section 3.2.1).

    Raises :class:`NotOriginForm` for another form, and :class:`RequestRefused` for a target that has a fragment.
    """
    if not target.startswith(b"/"):
        raise NotOriginForm
    if b"#" in target:
        raise refuse("Invalid request target")
    raw_path, _, query_string = target.partition(b"?")
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    return Target(path, raw_path, query_string, target)


def split_other_target(
    target: bytes, method: str, fields: RequestFields, pair: Callable[[tuple[bytes, bytes]], object] = list
) -> Target:
    """Take apart a target in absolute or asterisk form (RFC 9112 sections 3.2.2 and 3.2.4).

    The authority of an absolute form takes the place of the ``Host`` field in ``fields``, as a ``pair``. Raises
    :class:`RequestRefused`.
    """
    if target == b"*" and method == "OPTIONS":
        return Target("*", b"*", b"", target)
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise refuse("Invalid request target")
    authority, rest = match.groups()
    # RFC 9110 section 4.2.1 has a URI with an empty host rejected, where a Host field may be without one.
    if authority[:1] in (b"", b":") or not is_host(authority):
        raise refuse("Invalid authority in the request target")
    host: Any = pair((b"host", authority))
    for position, (name, _) in enumerate(fields):
        if name == b"host":
            fields[position] = host
            break
    else:
        fields.insert(0, host)
    if not rest and method == "OPTIONS":
        return Target("*", b"*", b"", target)
    return replace(split_target(rest if rest.startswith(b"/") else b"/" + rest), raw=target)


def sent_path(raw_target: bytes) -> bytes:
    """The path of a target as it was sent."""
    path = raw_target.partition(b"?")[0]
    if not path.startswith(b"/") and b"://" in path:  # The absolute form has an authority before the path.
        _, slash, rest = path.partition(b"://")[2].partition(b"/")
        path = slash + rest
    return path


def path_info(raw_target: bytes) -> str:
    """The path as WSGI has it: the bytes behind the percent-escapes, each a character (PEP 3333)."""
    return unquote_to_bytes(sent_path(raw_target)).decode("latin-1")


def line_too_long() -> RequestRefused:
    return refuse("The request line is too long", HTTPStatus.REQUEST_URI_TOO_LONG)


def too_large(what: str) -> RequestRefused:
    return refuse(f"{what} too large", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def check_limits(method: str, target: bytes, fields: RequestFields, settings: Settings) -> None:
    """Raise :class:`RequestRefused` where a complete head is over a limit."""
    line = len(method) + len(target) + len("  HTTP/1.1")
    sizes = [len(name) + len(value) + len(": \r\n") for name, value in fields]
    if line > (settings.request_line_limit or settings.head_limit):
        raise line_too_long()
    if len(sizes) > settings.field_count_limit:
        raise too_large("The number of header fields is")
    if settings.field_size_limit and max(sizes, default=0) > settings.field_size_limit:
        raise too_large("A header field of the request is")
    if line + sum(sizes) > settings.head_limit:
        raise too_large("The head of the request is")


def is_chunked(codings: list[bytes], version: str) -> bool:
    """Whether the ``Transfer-Encoding`` fields of a request say ``chunked``, the one coding that is served.

    Raises :class:`RequestRefused` for any other, with 501 where a coding is only unknown (RFC 9112 section 6.1), and
    for HTTP/1.0, which has no transfer codings.
    """
    if not codings:
        return False
    if version == "1.0":
        raise refuse("Transfer-Encoding in HTTP/1.0")
    names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
    if names == [b"chunked"]:
        return True
    if b"" in names or names[-1] != b"chunked" or b"chunked" in names[:-1]:
        raise refuse("Invalid Transfer-Encoding")
    raise refuse("Unsupported transfer coding", HTTPStatus.NOT_IMPLEMENTED)


def expects_continue(expectations: list[bytes], version: str) -> bool:
    """Whether the client waits for ``100 (Continue)``; any other expectation is refused with 417.

    RFC 9110 section 10.1.1: HTTP/1.0 has no expectations.
    """
    if version == "1.0" or not expectations:
        return False
    members = {part.strip(b" \t").lower() for value in expectations for part in value.split(b",")} - {b""}
    if members - {b"100-continue"}:
        raise refuse("Unsupported expectation", HTTPStatus.EXPECTATION_FAILED)
    return bool(members)


def find_upgrade(values: list[bytes], known: Container[bytes]) -> bytes | None:
    """The first protocol of the ``Upgrade`` fields that is known by its name in lower case (RFC 9110 section 7.8)."""
    for value in values:
        for part in value.split(b","):
            if part.strip(b" \t").lower() in known:
                return part.strip(b" \t")
    return None


# How the body of a response is delimited. Each is the function that makes of one piece of content what goes on the
# wire, in pieces that are to be joined with others; which one is chosen once, when the head is made.

Framing = Callable[[bytes], tuple[bytes, ...]]

_CHUNK_SIZES: Memo[int, bytes] = Memo(lambda size: b"%x\r\n" % size, lambda size: size < 1 << 16)


def chunked(content: bytes) -> tuple[bytes, ...]:
    """A chunk (RFC 9112 section 7.1). An empty one would end the body, so nothing is made of nothing."""
    return (_CHUNK_SIZES[len(content)], content, b"\r\n") if content else ()


def plain(content: bytes) -> tuple[bytes, ...]:
    """Delimited by the ``content-length`` in the head, or by the end of the connection."""
    return (content,) if content else ()


def bodiless(content: bytes) -> tuple[bytes, ...]:
    """A response that has no body, whatever its head says (RFC 9110 section 6.4.1)."""
    return ()


def last_chunk(trailers: bytes) -> bytes:
    """What ends a chunked body: the last chunk and the trailer section, whose lines ``trailers`` are."""
    return b"0\r\n%b\r\n" % trailers


def delimit(
    status: int, declared: int | None, *, is_head: bool, has_chunks: bool
) -> tuple[bytes, Framing, int | None]:
    """How a response is delimited (RFC 9112 section 6.3): the field that says so, the function that does so, and how
    many bytes of content are to come, where that is enforced.

    ``declared`` is the length of the content, if known; ``is_head`` says that the request is a HEAD, ``has_chunks``
    that its client knows of chunks. Plain content of no known length lasts to the end of the connection.
    """
    is_bodiless = is_head or status in BODILESS_STATUSES
    if declared is not None and status != 204:
        line = b"content-length: %d\r\n" % declared
        return (line, bodiless, None) if is_bodiless else (line, plain, declared)
    if status in BODILESS_STATUSES:
        return b"", bodiless, None
    if has_chunks:
        return b"transfer-encoding: chunked\r\n", bodiless if is_head else chunked, None
    return b"", bodiless if is_head else plain, None


def has_token(values: Iterable[bytes], token: bytes) -> bool:
    """Whether a list-valued field has ``token``, which is in lower case (RFC 9110 section 5.6.1)."""
    return any(token == part.strip(b" \t").lower() for value in values for part in value.split(b","))


def parse_content_length(values: list[bytes]) -> int:
    """The number in the ``content-length`` fields of a response; raises :class:`InvalidReply`."""
    if not all(isinstance(value, bytes) for value in values):
        raise InvalidReply(f"content-length must be bytes, not {values!r:.100}")
    if len(set(values)) != 1 or not values[0].isdigit() or len(values[0]) > 18:
        raise InvalidReply(f"content-length must be one whole number, not {b', '.join(values)!r:.100}")
    return int(values[0])
