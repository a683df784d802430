"""URLs of Redis servers, read without redis-py.

* ``redis://user:password@host:6379/0`` is a server, ``redis+unix:///path/of/a/socket`` one on a Unix socket;
* ``redis+sentinel://host:26379,host:26379/name`` is the master that Sentinels know by this name;
* ``redis+cluster://host:6379,host:6379`` is a cluster, some of whose nodes are named.

``rediss`` instead of ``redis`` is TLS, and ``valkey`` is as good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(unix|sentinel|cluster))?")

_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}

#: A host and a port.
Node = tuple[str, int]


@dataclass(frozen=True)
class Target:
    """What a URL says."""

    #: ``''`` (one server), ``'unix'``, ``'sentinel'`` or ``'cluster'``.
    kind: str
    nodes: tuple[Node, ...] = ()
    #: Of a Unix socket.
    path: str = ""
    #: The name that Sentinels know a master by.
    service: str = ""
    tls: bool = False
    #: What redis-py is told beside: ``username``, ``password``, ``db``, ``ssl_…``.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The same of Sentinels.
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)
    #: Stands before the names of groups in those of channels.
    prefix: str = ""
    #: Seconds between two signs of life, and until a connection without any is given up.
    ping: float = 5.0
    dead: float = 15.0
    #: Seconds that a message may wait to be taken.
    send_timeout: float = 1.0

    def __str__(self) -> str:
        """What it is called in logs, which are told no password."""
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes) or self.path
        return {"sentinel": f"{self.service!r} of the Sentinels ", "cluster": "the cluster "}.get(self.kind, "") + nodes


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0.05 <= seconds < 1e6:
        raise ValueError("expected seconds, 0.05 or more")
    return seconds


def _boolean(value: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _requirement(value: str) -> str:
    if value not in ("none", "optional", "required"):
        raise ValueError("expected none, optional or required")
    return value


_OWN: Mapping[str, Callable[[str], Any]] = {
    "prefix": str,
    "ping": _seconds,
    "dead": _seconds,
    "send_timeout": _seconds,
}

_SENTINEL = "sentinel_"

#: Parameters of redis-py's connections that a URL may have.
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": int,
    "client_name": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": _requirement,
    "ssl_check_hostname": _boolean,
    "ssl_ciphers": str,
}

_OF_SENTINELS: Mapping[str, Callable[[str], Any]] = {"sentinel_username": str, "sentinel_password": str}

_PARAMETERS: Mapping[str, Callable[[str], Any]] = {**_OWN, **_OPTIONS, **_OF_SENTINELS}


def is_redis(url: str) -> bool:
    """Whether the URL is meant to be one of Redis."""
    scheme, colon, _ = url.partition(":")
    return bool(colon and _SCHEME.fullmatch(scheme))


def parse(url: str) -> Target:
    """What the URL says; raises ``ValueError``, with a text that has no part of a password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # Its text may have all that stands before the path.
        raise ValueError("expected host:port") from None
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None:
        raise ValueError("expected redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://")
    if parts.fragment or "@" in f"{parts.path}{parts.query}":
        raise ValueError("in a user's name, a password, a path and a parameter, / ? # @ are %2F %3F %23 %40")
    kind = scheme[2] or ""
    own, options, sentinel_options = _read_query(parts.query)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    options |= {k: unquote(v) for k, v in (("username", username), ("password", password)) if v}
    tls = bool(scheme[1])
    if not tls and any(name.startswith("ssl_") for name in options):
        raise ValueError("ssl_... is for rediss://")
    if own.get("ping", Target.ping) >= own.get("dead", Target.dead):
        raise ValueError("ping is to be less than dead")
    where = _read_unix(parts, tls, hosts) if kind == "unix" else _read_nodes(kind, hosts, parts.path, options)
    return Target(kind, tls=tls, options=options, sentinel_options=sentinel_options, **where, **own)


def _read_query(query: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters of this engine's, of redis-py's, and of redis-py's for Sentinels."""
    own, options, sentinel_options = {}, {}, {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        convert = _PARAMETERS.get(name)
        if convert is None:
            raise ValueError(f"there is no parameter {name!r}; there are {', '.join(_PARAMETERS)}")
        try:
            value = convert(text)
        except (ValueError, KeyError):
            raise ValueError(f"the parameter {name!r} has no good value") from None
        if name in _OWN:
            own[name] = value
        elif name.startswith(_SENTINEL):
            sentinel_options[name.removeprefix(_SENTINEL)] = value
        else:
            options[name] = value
    return own, options, sentinel_options


def _read_unix(parts: SplitResult, tls: bool, hosts: str) -> dict[str, Any]:
    if tls or hosts or not parts.path.strip("/"):
        raise ValueError("expected redis+unix:///path/of/a/socket")
    return {"path": unquote(parts.path)}


def _read_nodes(kind: str, hosts: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    names = [unquote(name) for name in path.split("/") if name]
    service = ""
    if kind == "sentinel":
        if not names:
            raise ValueError("expected the name of the master behind the Sentinels: redis+sentinel://host:26379/name")
        service = names.pop(0)
    if names and kind != "cluster" and names[0].isdecimal():
        options.setdefault("db", int(names.pop(0)))
    if names:
        raise ValueError("expected nothing behind the servers but the number of a database, or a Sentinels' name")
    nodes = tuple(_read_node(host, _PORTS[kind]) for host in (hosts or "localhost").split(","))
    if not kind and len(nodes) > 1:
        raise ValueError("several servers are redis+sentinel:// or redis+cluster://")
    return {"nodes": nodes, "service": service}


def _read_node(text: str, port: int) -> Node:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        host = ""
    if not host or parts.username is not None:
        raise ValueError("expected host:port")
    return host, port
