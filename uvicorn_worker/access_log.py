"""Access lines in Gunicorn's format: compiled once, so that only what a format names is computed.

What an atom is, is what Gunicorn's ``Logger.atoms`` makes of a request of a WSGI worker, byte for byte.
"""

from __future__ import annotations

import binascii
import os
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from uvicorn_worker._types import Address, Message, RequestFields
from uvicorn_worker.http11.framing import Target, path_info
from uvicorn_worker.memo import Memo
from uvicorn_worker.proxy import Told

#: How an answered request comes to the environment of WSGI (PEP 3333).
EnvironOf = Callable[[Any], Mapping[str, Any]]


class Connected(Protocol):
    """A connection, as a line shows it."""

    #: The other end of it, and what that has told of a client by a PROXY header.
    peer: Address | None
    told: Told | None
    #: What is told of every request of the connection: ``client`` is the one that the peer has told of, or the peer.
    template: Message

    def can_be_variable(self, name: bytes) -> bool:
        """Whether a request field of this name may be in an environment (Gunicorn ``header_map``)."""
        ...


class Entry(Protocol):
    """A request and its answer, as a line shows them."""

    @property
    def connection(self) -> Connected: ...

    #: What the application is told of the request beside its head: ``client`` is whom proxies tell of.
    template: Message
    #: Where the request's line is not known, the method is ``'-'``, and ``target.raw`` is empty.
    method: str
    target: Target

    @property
    def version(self) -> str: ...

    headers: RequestFields
    #: Seconds of ``time.monotonic()``.
    began: float
    status: int
    #: Bytes of content.
    sent: int
    #: Fields that the application has given its response.
    fields: Iterable[tuple[bytes, bytes] | list[bytes]]


#: Fields by name, the values of repeated ones joined as WSGI does it.
Joined = Mapping[bytes, bytes]

Atom = Callable[[Entry, Joined], object]


#: Gunicorn's own format.
COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


def combined_line(entry: Entry) -> str:
    """The line in Gunicorn's own format: what :class:`AccessLine` makes of it for a third of the cost."""
    shown: tuple[bytes, ...] = ()
    for name, value in entry.headers:
        if name in _COMBINED_FIELDS:
            shown += (name, value)
    user, end = _COMBINED_ENDS[shown]
    client = entry.connection.template["client"]
    address = client[0] if client else ""
    now = time.time()
    if not _NOW.begin <= now < _NOW.end:
        _NOW.turn(now)
    request = _REQUEST_LINES[entry.method, entry.target.raw, entry.version]
    return f'{address} - {user} {_NOW.text} "{request}" {entry.status} {entry.sent}{end}'


class AccessLine:
    """Gunicorn's ``access_log_format``, compiled."""

    def __init__(self, template: str, environ_of: EnvironOf) -> None:
        """Raises ``TypeError`` or ``ValueError`` where ``template`` is no format for Python's ``%``, or names nothing
        in a part of it."""
        named = _Named()
        template % named
        conversions = template.replace("%%", "")
        if conversions.count("%") != conversions.count("%("):
            raise ValueError("it would show all atoms at once")
        self._template = template
        self._atoms: dict[str, object] = {}
        self._makers: list[tuple[str, Atom]] = []
        self._reads_fields = False
        #: Whether it shows fields of the response.
        self.reads_response = any(key.startswith("{") and key.lower().endswith("}o") for key in named)
        for key in named:
            if key in _CONSTANTS:
                self._atoms[key] = _CONSTANTS[key]()
            else:
                atom = _find_atom(key, environ_of)
                self._reads_fields = self._reads_fields or atom in _ATOMS_OF_FIELDS
                self._makers.append((key, atom))

    def make(self, entry: Entry) -> str:
        """The line for one answered request."""
        fields: Joined = join_fields(entry.headers) if self._reads_fields else {}
        atoms = self._atoms
        for key, atom in self._makers:
            atoms[key] = atom(entry, fields)
        return self._template % atoms


class _Named(dict[str, object]):
    """Keeps what a format asks for, and has something of the right type for it."""

    def __missing__(self, key: str) -> object:
        self[key] = value = 0 if key in _NUMBERS else "-"
        return value


def join_fields(fields: RequestFields) -> dict[bytes, bytes]:
    """``fields`` by name."""
    joined = dict(fields)
    if len(joined) != len(fields):
        joined = {}
        for name, value in fields:
            joined[name] = joined[name] + b"," + value if name in joined else value
    return joined


#: What comes from outside as Gunicorn writes it, where nothing ends a quoted part of a line.
_TEXTS: Memo[bytes, str] = Memo(
    lambda value: value.decode("latin-1").replace('"', '\\"'), lambda value: len(value) <= 256
)

# As Python writes them: what was encoded on its way here could end the line, and begin a forged one.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def _escaped(text: str) -> str:
    """The same of what has been decoded."""
    return text.translate(_CONTROLS).replace('"', '\\"')


def _make_request_line(known: tuple[str, bytes, str]) -> str:
    method, raw, version = known
    return f"{method} {_TEXTS[raw]} HTTP/{version}" if raw else "- - -"


#: Request lines by method, target and version.
_REQUEST_LINES: Memo[tuple[str, bytes, str], str] = Memo(_make_request_line, lambda known: len(known[1]) <= 256)


def _make_combined_end(shown: tuple[bytes, ...]) -> tuple[str, str]:
    fields = join_fields(list(zip(shown[::2], shown[1::2], strict=True)))
    referer, agent = (_TEXTS[fields[name]] if name in fields else "-" for name in (b"referer", b"user-agent"))
    return _user_of(fields), f' "{referer}" "{agent}"'


def _is_short(shown: tuple[bytes, ...]) -> bool:
    return b"authorization" not in shown and sum(map(len, shown)) <= 512  # Passwords are not to stay in memory.


_COMBINED_FIELDS = frozenset((b"authorization", b"referer", b"user-agent"))

#: Of Gunicorn's own format, the user, and what comes behind the size; by names and values, in turn, of fields.
_COMBINED_ENDS: Memo[tuple[bytes, ...], tuple[str, str]] = Memo(_make_combined_end, _is_short)


# Atoms.


def _remote_address(entry: Entry, fields: Joined) -> str:
    client = entry.connection.template["client"]
    return client[0] if client else ""  # A Unix socket's client has none.


def _user(entry: Entry, fields: Joined) -> str:
    return _user_of(fields)


def _user_of(fields: Joined) -> str:
    """Who the credentials of HTTP's basic authentication say it is (RFC 7617)."""
    credentials = fields.get(b"authorization", b"")
    if credentials[:5].lower() != b"basic" or b" " not in credentials:
        return "-"
    try:
        user = b64decode(credentials.split(b" ", 1)[1].strip()).split(b":", 1)[0].decode()
    except (binascii.Error, UnicodeDecodeError):
        return "-"
    return _escaped(user) or "-"


class _Now:
    """The time of the line, written anew once a second."""

    text: str
    #: The second that it is written for, of ``time.time()``.
    begin = end = 0.0

    def turn(self, now: float) -> None:
        self.begin = now // 1
        self.end = self.begin + 1
        self.text = time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(now))


_NOW = _Now()


def _now(entry: Entry, fields: Joined) -> str:
    now = time.time()
    if not _NOW.begin <= now < _NOW.end:
        _NOW.turn(now)
    return _NOW.text


def _request_line(entry: Entry, fields: Joined) -> str:
    return _REQUEST_LINES[entry.method, entry.target.raw, entry.version]


def _path(entry: Entry, fields: Joined) -> str:
    return _escaped(path_info(entry.target.raw)) if entry.target.raw else "-"


def _query(entry: Entry, fields: Joined) -> str:
    return _TEXTS[entry.target.raw.partition(b"?")[2]] if entry.target.raw else "-"


def _protocol(entry: Entry, fields: Joined) -> str:
    return f"HTTP/{entry.version}" if entry.target.raw else "-"


def _referer(entry: Entry, fields: Joined) -> str:
    return _TEXTS[fields[b"referer"]] if b"referer" in fields else "-"


def _user_agent(entry: Entry, fields: Joined) -> str:
    return _TEXTS[fields[b"user-agent"]] if b"user-agent" in fields else "-"


def took(entry: Entry) -> timedelta:
    """The time from the end of the request's head to now."""
    return timedelta(seconds=time.monotonic() - entry.began)


def _seconds(entry: Entry, fields: Joined) -> int:
    return took(entry) // timedelta(seconds=1)


def _milliseconds(entry: Entry, fields: Joined) -> int:
    return took(entry) // timedelta(milliseconds=1)


def _microseconds(entry: Entry, fields: Joined) -> int:
    return took(entry) // timedelta(microseconds=1)


def _decimal_seconds(entry: Entry, fields: Joined) -> str:
    return f"{took(entry).total_seconds():.6f}"


_CONSTANTS: Mapping[str, Callable[[], object]] = {"l": lambda: "-", "p": lambda: f"<{os.getpid()}>"}

_ATOMS: Mapping[str, Atom] = {
    "h": _remote_address,
    "u": _user,
    "t": _now,
    "r": _request_line,
    "s": lambda entry, fields: str(entry.status),
    "m": lambda entry, fields: entry.method,
    "U": _path,
    "q": _query,
    "H": _protocol,
    "b": lambda entry, fields: str(entry.sent),
    "B": lambda entry, fields: entry.sent,
    "f": _referer,
    "a": _user_agent,
    "T": _seconds,
    "M": _milliseconds,
    "D": _microseconds,
    "L": _decimal_seconds,
}

#: The atoms that are numbers to a conversion.
_NUMBERS = frozenset("BTMD")

_ATOMS_OF_FIELDS = frozenset((_user, _referer, _user_agent))


def _find_atom(key: str, environ_of: EnvironOf) -> Atom:
    """What makes the atom ``key``: a letter, or, in any case, a name in braces with ``i``, ``o`` or ``e`` behind it."""
    if key[:1] == "{" and key[-2:].lower() in ("}i", "}o", "}e"):
        name, kind = key[1:-2].lower(), key[-1].lower()
        if kind == "e":
            return _variable(name, environ_of)
        return _field(name.encode("latin-1", "replace"), _of_request if kind == "i" else _of_response)
    return _ATOMS.get(key, _nothing)


def _nothing(entry: Entry, fields: Joined) -> str:
    return "-"


def _of_request(entry: Entry) -> Iterable[tuple[bytes, bytes] | list[bytes]]:
    return entry.headers


def _of_response(entry: Entry) -> Iterable[tuple[bytes, bytes] | list[bytes]]:
    return entry.fields


def _field(name: bytes, fields_of: Callable[[Entry], Iterable[tuple[bytes, bytes] | list[bytes]]]) -> Atom:
    """The atom of a field; the last, where it is repeated."""

    def atom(entry: Entry, fields: Joined) -> str:
        found = "-"
        for field_name, value in fields_of(entry):
            if field_name.lower() == name:
                found = _TEXTS[value.strip(b" \t")]
        return found

    return atom


def _variable(name: str, environ_of: EnvironOf) -> Atom:
    """The atom of a variable of the environment."""

    def atom(entry: Entry, fields: Joined) -> object:
        for key, value in environ_of(entry).items():
            if key.lower() == name:
                return _escaped(value) if isinstance(value, str) else value
        return "-"

    return atom
