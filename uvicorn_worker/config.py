"""Every limit, timeout and default, in one frozen object, each with its unit.

A value comes from the first of these that gives it: the environment variable ``UVICORN_WORKER_<NAME>``, the worker
class's ``CONFIG_KWARGS``, Gunicorn's setting, the default below.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from uvicorn_worker import migration
from uvicorn_worker.broadcast import redis_url
from uvicorn_worker.errors import InvalidOption

ENVIRONMENT_PREFIX = "UVICORN_WORKER_"

#: Bytes that the parser is fed at once; what it can't be stopped in the middle of (httptools has no pause).
SLICE = 16 * 1024

#: Bytes of chunk extensions and trailers, neither of which anybody sees, that one request may have.
UNSEEN_BYTES = 16 * 1024

#: Bytes of CRLF that may stand before a request line (RFC 9112 section 2.2 asks to ignore at least one), with the
#: longest method name, of which the parser says nothing either until the target begins.
BLANK_BYTES = 16 + 16

#: Seconds that an idle connection is still read for when the worker stops: a request may be on its way.
IDLE_GRACE = 0.5

#: Seconds that a TLS handshake may take.
TLS_HANDSHAKE_TIMEOUT = 10.0

#: Seconds that receive calls of a WebSocket may still take when the worker stops, and, when its disconnect call has
#: ended, the call for its handshake.
RECEIVE_GRACE = 1.0

#: Bytes past which content is written beside its head instead of being copied behind it.
COPY_BOUND = 16 * 1024

#: Bytes of the fields of a WebSocket handshake that are lists, which take long to parse.
HANDSHAKE_BYTES = 4096

#: Bytes of a file that are read at once.
FILE_PIECE = 256 * 1024

#: Bytes from which a WebSocket message is compressed, where each is compressed by itself: a shorter one gains little.
DEFLATE_FROM = 1024

#: The windows of permessage-deflate, as a power of 2, and zlib's memLevel: 16 KiB and 32 KiB while one is in use.
DEFLATE_WINDOW_BITS = 12
DEFLATE_MEMORY_LEVEL = 5

#: Bytes of UTF-8 of the name of a group.
GROUP_NAME_BYTES = 512

#: The largest that a message to a group may be set to be, in bytes: workers take frames of each other up to this, as
#: another generation of them may have other settings.
GROUP_MESSAGE_BOUND = 256 * 1024 * 1024

#: Seconds that a new worker waits for the others to say that they know it.
GROUPS_JOIN_TIME = 1.0

#: Bytes that may wait for a worker until senders wait for it, and seconds that they do, at most.
PEER_BACKLOG = 1024 * 1024
PEER_PATIENCE = 1.0

#: Bytes that may wait for a worker until messages are dropped for it.
PEER_BOUND = 8 * 1024 * 1024

#: Groups of which a worker is told that it has missed messages; where there are more, it is told so of all.
PEER_MISSED_GROUPS = 1000

#: Bytes that are gathered for other workers until they are written without waiting for the end of the loop's turn.
PEER_BATCH = 256 * 1024

#: Times within so many seconds that a worker writes to the others at once; then it gathers messages for as long.
PEER_FLUSHES = 4
PEER_PACE = 0.001

#: Seconds until a worker that could not be reached is tried again.
PEER_RETRY = 0.1

#: Seconds that what was sent may take to leave when the worker stops.
PEER_FLUSH_TIME = 0.25

#: Bytes of messages to groups, sent or received, after which the loop is let turn, each write to a member counting for
#: some.
TURN_BYTES = 64 * 1024
DELIVERY_BYTES = 4

#: Seconds for which a subscription is kept that no group needs any more: others may.
GROUP_LINGER = 1.0

#: The version of redis-py that is known here.
REDIS_PY = "8"
_REDIS_EXTRA = "pip install 'uvicorn-worker[redis]'"

#: Seconds that a connection to Redis may take to be made, and that joining a group may wait for its answer.
REDIS_CONNECT_TIME = 5.0
REDIS_JOIN_TIME = 5.0

#: Seconds until Redis is tried again: at first, and at most.
REDIS_PAUSE = 0.05
REDIS_LONGEST_PAUSE = 1.0

#: Channels that are asked for by one command, and bytes of messages that are written to Redis at once.
REDIS_CHANNELS = 500
REDIS_BATCH = 256 * 1024

#: Seconds between two looks at the nodes of a cluster, at least.
REDIS_CLUSTER_PAUSE = 0.1

#: Seconds that a member which was closed because it reads too slowly may take to read what it was sent.
SLOW_CLOSE_TIME = 5.0

#: File descriptors that are kept back from connections, for logs, files and the application's own sockets.
RESERVED_DESCRIPTORS = 64

# What Kubernetes sets for a Service that is named uvicorn-worker.
_KUBERNETES_VARIABLE = re.compile(r"UVICORN_WORKER_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)")

#: Statuses of responses that have no body (RFC 9110 section 6.4.1).
BODILESS_STATUSES = frozenset((*range(100, 200), 204, 304))

#: The name of a field (RFC 9110 section 5.6.2).
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class Settings:
    """What one worker goes by. Sizes are bytes, times are seconds; 0 seconds means no limit unless said."""

    #: The mount point of the application, ``''`` or ``'/prefix'``.
    root_path: str = ""
    #: Fields added to every response, as pairs of bytes.
    headers: tuple[tuple[bytes, bytes], ...] = ()
    #: The value of the ``server`` field; ``b''`` leaves it out.
    server_header: bytes = b"uvicorn-worker"
    #: Whether responses have a ``date`` field.
    date_header: bool = True
    #: From the connection, or a request's first byte, to the end of its head.
    head_timeout: float = 10.0
    #: How long a closing connection is still read, so that the client gets the answer instead of a reset.
    linger_timeout: float = 2.0
    #: Requests of one connection that are parsed ahead of the one being answered.
    pipelined_requests: int = 20
    #: Unread bytes of a request's body past which the socket is not read.
    request_body_buffer: int = 64 * 1024
    #: Bytes of an unread body that are read and dropped so that the connection can be kept.
    unread_body_limit: int = 64 * 1024

    #: Of a WebSocket message, uncompressed; 0 means no limit.
    ws_max_size: int = 16 * 1024 * 1024
    #: Unfinished receive calls of one WebSocket, past which the socket is not read.
    ws_max_queue: int = 32
    #: Between two pings of a WebSocket; 0 means none.
    ws_ping_interval: float = 20.0
    #: How long the answer to a ping is waited for; 0 means that none is needed.
    ws_ping_timeout: float = 20.0
    #: How long the client's part in closing a WebSocket is waited for.
    ws_close_timeout: float = 10.0
    #: Whether WebSocket messages are compressed, if the client can do so (RFC 7692).
    ws_per_message_deflate: bool = True
    #: Whether compression goes by the messages before, too, for some 35 KiB of memory a WebSocket.
    ws_context_takeover: bool = False

    #: The URL of the engine that brings messages of groups to all workers.
    groups: str = "local://"
    #: Bytes of a message to a group.
    groups_max_size: int = 16 * 1024 * 1024
    #: Bytes of earlier messages to groups that may still wait for a member when another one comes.
    groups_max_backlog: int = 1024 * 1024
    #: What becomes of members that may have missed a message: ``'log'`` (they stay) or ``'close'``.
    groups_gap: str = "log"

    #: An idle connection is closed after it (Gunicorn ``keepalive``); 0 means no keep-alive.
    keepalive: float = 2.0
    #: A stalled body, or a stalled end of a response, is waited for so long (Gunicorn ``timeout``).
    timeout: float = 30.0
    #: From the signal to stop to the end of the process (Gunicorn ``graceful_timeout``).
    graceful_timeout: float = 30.0
    #: Bytes of a request line, without its end (Gunicorn ``limit_request_line``); 0 means that the head's bound is it.
    request_line_limit: int = 0
    #: Fields of a request (Gunicorn ``limit_request_fields``).
    field_count_limit: int = 1000
    #: Bytes of one field line with its end (Gunicorn ``limit_request_field_size``); 0 as for the request line.
    field_size_limit: int = 0
    #: Bytes of a whole head.
    head_limit: int = 64 * 1024
    #: Connections at a time (Gunicorn ``worker_connections``); 0 means what the file descriptors allow.
    worker_connections: int = 0
    #: Whether there is an access log, if Gunicorn is to write one.
    access_log: bool = True
    #: Whether WebSockets are served.
    ws: bool = True
    #: ``'auto'``, ``'channels'`` or ``'asgi3'``.
    interface: str = "auto"
    #: Whether ASGI's lifespan is ``'on'``, ``'off'``, or tried: ``'auto'`` (Gunicorn ``asgi_lifespan``).
    lifespan: str = "auto"
    #: Whether applications are told that a file can be sent by its path (ASGI ``http.response.pathsend``).
    pathsend: bool = True
    #: How long the application may take to start.
    lifespan_timeout: float = 300.0
    #: How long a call may go on when its client has gone; ``None`` means as long as it likes (Gunicorn
    #: ``asgi_disconnect_grace_period``).
    disconnect_grace: float | None = None
    #: ``'uvloop'`` or ``'asyncio'`` (Gunicorn ``asgi_loop``).
    loop: str = "uvloop"

    @property
    def has_tight_limits(self) -> bool:
        """Whether a limit is set that a head of one slice can exceed."""
        return bool(self.request_line_limit or self.field_size_limit)

    @classmethod
    def from_gunicorn(cls, cfg: Any, options: Mapping[str, Any]) -> Settings:
        """The settings of a worker under Gunicorn.

        ``cfg`` is Gunicorn's configuration; ``options`` are checked ones, as :func:`read_options` returns.
        """
        values: dict[str, Any] = {
            "keepalive": cfg.keepalive,
            "timeout": cfg.timeout,
            "graceful_timeout": cfg.graceful_timeout,
            "root_path": _checked(_root_path, getattr(cfg, "root_path", ""), "root_path"),
            "lifespan": getattr(cfg, "asgi_lifespan", "auto"),
            "disconnect_grace": _set_value(cfg, "asgi_disconnect_grace_period"),
            "loop": "asyncio" if getattr(cfg, "asgi_loop", "auto") == "asyncio" else "uvloop",
            "ws_max_size": getattr(cfg, "websocket_max_message_size", cls.ws_max_size),
            "worker_connections": cfg.worker_connections if _is_set(cfg, "worker_connections") else 0,
        }
        return cls(**(values | _head_limits(cfg) | dict(options)))


def _is_set(cfg: Any, name: str) -> bool:
    """Whether a Gunicorn setting is away from Gunicorn's default."""
    setting = cfg.settings[name]
    return bool(setting.get() != setting.default)


def _set_value(cfg: Any, name: str) -> Any:
    """The value of a Gunicorn setting, if it is away from its default, and exists."""
    return getattr(cfg, name) if name in cfg.settings and _is_set(cfg, name) else None


def _head_limits(cfg: Any) -> dict[str, int]:
    """Gunicorn's three limits as far as they are set, and a bound for the head that lets all of them be reached.

    At Gunicorn's defaults they are left alone: 4,094 bytes of line and 8,190 of field are too few for real tokens and
    cookies, and whoever comes from uvicorn-worker has met no limit.
    """
    limits = {}
    if _is_set(cfg, "limit_request_line"):
        limits["request_line_limit"] = cfg.limit_request_line
    if _is_set(cfg, "limit_request_fields"):
        limits["field_count_limit"] = cfg.limit_request_fields or 32768
    if _is_set(cfg, "limit_request_field_size"):
        limits["field_size_limit"] = cfg.limit_request_field_size
    field_count = limits.get("field_count_limit", 100)
    needed = limits.get("request_line_limit", 0) + field_count * limits.get("field_size_limit", 0)
    limits["head_limit"] = max(Settings.head_limit, needed)
    return limits


def read_options(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    source: str = "CONFIG_KWARGS",
    notice: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """The options ``given`` by ``source`` and by the environment, checked and converted.

    ``notice`` is called with a line for each parameter of uvicorn's that is accepted and means nothing. Raises
    :class:`InvalidOption` for a name that is none and for a value that can't be used.
    """
    options = {}
    if not isinstance(given, Mapping):
        raise InvalidOption(f"{source} must be a dictionary of options, not {given!r}")
    for name, value in given.items():
        where = f"{source}[{name!r}]"
        if name in migration.FOREIGN:
            foreign = migration.judge(name, value)
            if foreign is not None and foreign.refused:
                raise InvalidOption(f"{where} = {value!r} is no option here: {foreign.advice}")
            if foreign is not None and notice is not None:
                notice(f"{where} = {value!r} means nothing here: {foreign.advice}")
        else:
            options[_FIELDS.get(name, name)] = _convert(name, value, where)
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and not _KUBERNETES_VARIABLE.fullmatch(variable):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            options[_FIELDS.get(name, name)] = _convert(name, text, variable)
    return options


def _convert(name: str, value: Any, source: str) -> Any:
    convert = OPTIONS.get(name)
    if convert is None:
        near = difflib.get_close_matches(name.lower(), OPTIONS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(OPTIONS)}"
        raise InvalidOption(f"{source}: there is no option {name!r}; {hint}")
    return _checked(convert, value, source)


def _checked(convert: Callable[[Any], Any], value: Any, source: str) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{source} = {_without_password(value)!r}: {error}") from None


def _without_password(value: Any) -> Any:
    """The value as it can be told; one that can't be parsed may have a password anywhere before the last ``@``."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://)[\s\S]*@", r"\1***@", value))


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError("expected true or false") from None


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError("expected a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError("expected a number of seconds, 0 or more")
    return seconds


def _seconds_or_none(value: Any) -> float:
    """The same, ``None`` standing for 0 as in uvicorn."""
    return 0.0 if str(value).lower() == "none" else _seconds(value)


def _at_least(minimum: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError("expected a whole number") from None
        if number < minimum:
            raise ValueError(f"expected {minimum} or more")
        return number

    return convert


def _groups_max_size(value: Any) -> int:
    size = _at_least(1)(value)
    if size > GROUP_MESSAGE_BOUND:
        raise ValueError(f"expected {GROUP_MESSAGE_BOUND} or less")
    return size


def _one_of(*words: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return str(value)

    return convert


def _loop(value: Any) -> str:
    return "asyncio" if _one_of("auto", "uvloop", "asyncio")(value) == "asyncio" else "uvloop"


def _ws(value: Any) -> bool:
    """uvicorn's names of implementations, all of which are the websockets library here, or ``'none'``."""
    if not isinstance(value, str):
        return True  # A class of an implementation.
    return _one_of("auto", "websockets", "websockets-sansio", "wsproto", "none")(value) != "none"


def _groups(value: Any) -> str:
    """The URL of an engine, as its own module reads it."""
    if isinstance(value, str) and redis_url.is_redis(value):
        redis_url.parse(value)
        _check_redis_py()
        return value
    try:
        scheme, host, path, query, fragment = urlsplit(value)
    except (TypeError, ValueError, AttributeError):
        raise ValueError("expected a URL, as 'local://'") from None
    if scheme != "local" or host or query or fragment or (path and not path.startswith("/")):
        raise ValueError("expected 'local://', 'local:///path/of/a/directory', or a URL of Redis, as 'redis://host'")
    return str(value)


def _check_redis_py() -> None:
    """Whether the extra is there, which is imported by the workers alone."""
    try:
        metadata.version("hiredis")
        version = metadata.version("redis")
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: {_REDIS_EXTRA}") from None
    if version.partition(".")[0] != REDIS_PY:
        raise ValueError(f"redis-py {REDIS_PY} is needed, and not {version}: {_REDIS_EXTRA}")


def _root_path(value: Any) -> str:
    if not isinstance(value, str) or (value and not value.startswith("/")):
        raise ValueError("expected '' or a path that begins with '/'")
    return value.rstrip("/")


def _server_header(value: Any) -> bytes:
    """``True`` for the default, ``False`` for none, any other text for itself."""
    try:
        return Settings.server_header if _boolean(value) else b""
    except ValueError:
        return _field_value(value)


def _headers(value: Any) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of name and value; as text, one ``name: value`` a line."""
    if value is None:  # uvicorn's default
        return ()
    if isinstance(value, str):
        value = [line.split(":", 1) for line in value.splitlines() if line.strip()]
    elif isinstance(value, Mapping):
        value = value.items()
    try:
        fields = [(name, text) for name, text in value]
    except (TypeError, ValueError):
        raise ValueError("expected pairs of a name and a value, or a line `name: value` for each") from None
    return tuple((_field_name(name), _field_value(text)) for name, text in fields)


def _field_name(value: Any) -> bytes:
    name = _latin1(value).strip()
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{value!r} is no field name (RFC 9110 section 5.1)")
    if name.lower() in (b"content-length", b"transfer-encoding", b"connection"):
        raise ValueError(f"{value!r} is the server's to set")
    return name


def _field_value(value: Any) -> bytes:
    text = _latin1(value).strip()
    if not _FIELD_VALUE.fullmatch(text):
        raise ValueError(f"{value!r} is no field value (RFC 9110 section 5.5)")
    return text


def _latin1(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return str.encode(value, "latin-1")
    except (TypeError, UnicodeEncodeError):
        raise ValueError(f"expected text of Latin-1, not {value!r}") from None


#: What Gunicorn has no setting for: the option's name and what makes a value of it.
OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "root_path": _root_path,
    "headers": _headers,
    "access_log": _boolean,
    "timeout_keep_alive": _seconds,
    "loop": _loop,
    "ws": _ws,
    "interface": _one_of("auto", "channels", "asgi3"),
    "lifespan": _one_of("auto", "on", "off"),
    "lifespan_timeout": _seconds,
    "pathsend": _boolean,
    "server_header": _server_header,
    "date_header": _boolean,
    "head_timeout": _seconds,
    "linger_timeout": _seconds,
    "pipelined_requests": _at_least(1),
    "request_body_buffer": _at_least(1),
    "unread_body_limit": _at_least(0),
    "ws_max_size": _at_least(0),
    "ws_max_queue": _at_least(1),
    "ws_ping_interval": _seconds_or_none,
    "ws_ping_timeout": _seconds_or_none,
    "ws_close_timeout": _seconds,
    "ws_per_message_deflate": _boolean,
    "ws_context_takeover": _boolean,
    "groups": _groups,
    "groups_max_size": _groups_max_size,
    "groups_max_backlog": _at_least(1),
    "groups_gap": _one_of("log", "close"),
}

#: Options by uvicorn's names whose fields of Settings have Gunicorn's.
_FIELDS: Mapping[str, str] = {"timeout_keep_alive": "keepalive"}

assert {_FIELDS.get(name, name) for name in OPTIONS} <= {field.name for field in fields(Settings)}
