"""Where the values of settings come from, checked and converted.

A value comes from the first of these that gives it: the environment variable ``UVICORN_WORKER_<NAME>``, the worker
class's ``CONFIG_KWARGS``, Gunicorn's setting, the default in ``config.py``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from ipaddress import ip_interface, ip_network
from typing import Any

from uvicorn_worker import migration
from uvicorn_worker.broadcast.engine_url import engine_url, without_password
from uvicorn_worker.config import GROUP_MESSAGE_BOUND, TOKEN, Settings
from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.gunicorn_settings import is_set as _is_set

ENVIRONMENT_PREFIX = "UVICORN_WORKER_"

# What Kubernetes sets for a Service that is named uvicorn-worker.
_KUBERNETES_VARIABLE = re.compile(r"UVICORN_WORKER_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)")

_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def settings_under(cfg: Any, options: Mapping[str, Any]) -> Settings:
    """The settings of a worker under Gunicorn.

    ``cfg`` is Gunicorn's configuration; ``options`` are checked ones, as :func:`read_options` returns.
    """
    values: dict[str, Any] = {
        "keepalive": cfg.keepalive,
        "timeout": cfg.timeout,
        "graceful_timeout": cfg.graceful_timeout,
        "root_path": _checked(_root_path, getattr(cfg, "root_path", ""), "root_path"),
        "lifespan": getattr(cfg, "asgi_lifespan", "auto"),
        "pathsend": cfg.sendfile,
        "disconnect_grace": _set_value(cfg, "asgi_disconnect_grace_period"),
        "loop": "asyncio" if getattr(cfg, "asgi_loop", "auto") == "asyncio" else "uvloop",
        "ws_max_size": getattr(cfg, "websocket_max_message_size", Settings.ws_max_size),
        "worker_connections": cfg.worker_connections if _is_set(cfg, "worker_connections") else 0,
    }
    return Settings(**(values | _proxies(cfg) | _head_limits(cfg) | dict(options)))


def _set_value(cfg: Any, name: str) -> Any:
    """The value of a Gunicorn setting, if it is away from its default, and exists."""
    return getattr(cfg, name) if _is_set(cfg, name) else None


def _proxies(cfg: Any) -> dict[str, Any]:
    """What Gunicorn's settings say of proxies.

    ``header_map`` at its default is left alone: whoever comes from uvicorn-worker has met every field. That ``drop``
    was asked for can't be told, as Gunicorn keeps no record of what was set.
    """
    protocol = getattr(cfg, "proxy_protocol", "off")
    if not isinstance(protocol, str):  # It was a boolean before Gunicorn 24.1.
        protocol = "auto" if protocol else "off"
    return {
        "forwarded_allow_ips": tuple(cfg.forwarded_allow_ips),
        "secure_scheme_headers": _checked(_scheme_fields, cfg.secure_scheme_headers, "secure_scheme_headers"),
        "header_map": _set_value(cfg, "header_map") or Settings.header_map,
        "forwarder_headers": tuple(_latin1(name).lower() for name in getattr(cfg, "forwarder_headers", ())),
        "proxy_protocol": protocol,
        "proxy_allow_ips": tuple(cfg.proxy_allow_ips),
    }


def _scheme_fields(value: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((_latin1(name).lower(), _latin1(text)) for name, text in value.items())


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
    options = {name: value for name, value in options.items() if value is not None}
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
        raise InvalidOption(f"{source} = {without_password(value)!r}: {error}") from None



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



def _root_path(value: Any) -> str:
    if not isinstance(value, str) or (value and not value.startswith("/")):
        raise ValueError("expected '' or a path that begins with '/'")
    return value.rstrip("/")


def _allow_list(value: Any) -> tuple[str, ...] | None:
    """Addresses, networks and names, separated by commas where they are text; ``None`` is uvicorn's default."""
    if value is None:
        return None
    try:
        entries = [entry.strip() for entry in (value.split(",") if isinstance(value, str) else value)]
    except (AttributeError, TypeError):
        raise ValueError("expected addresses or networks, separated by commas, or '*'") from None
    for entry in entries:
        # The path of a Unix socket is a name that uvicorn's documentation allows.
        if "/" in entry and not entry.startswith(("/", "unix:")):
            _check_network(entry)
    return tuple(entry for entry in entries if entry)


def _check_network(text: str) -> None:
    """A network that is none would be a name, which matches nobody."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no network; write one as '10.0.0.0/8'") from None
    if network.network_address != ip_interface(text).ip:
        raise ValueError(f"{text!r} is no network; did you mean '{network}'?")


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
    "proxy_headers": _boolean,
    "forwarded_allow_ips": _allow_list,
    "header_map": _one_of("drop", "refuse", "keep", "dangerous"),
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
    "groups": engine_url,
    "groups_max_size": _groups_max_size,
    "groups_max_backlog": _at_least(1),
    "groups_gap": _one_of("log", "close"),
}

#: Options by uvicorn's names whose fields of Settings have Gunicorn's.
_FIELDS: Mapping[str, str] = {"timeout_keep_alive": "keepalive"}

assert {_FIELDS.get(name, name) for name in OPTIONS} <= {field.name for field in fields(Settings)}
