"""What an ASGI 3 application is told of a request: its scope (ASGI HTTP and WebSocket specifications 2.5)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from uvicorn_worker._types import Address, Message
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.errors import ClientDisconnected
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.service import Service

VERSIONS = {"version": "3.0", "spec_version": "2.5"}

#: The name of the extension that has the connection's channel, and what speaks to groups.
GROUPS = "uvicorn_worker.groups"

#: What an application may send beside the start and the body of a response, with a place for what is each request's.
_EXTENSIONS: dict[str, Any] = {
    GROUPS: None,
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.trailers": {},
}

_EXTENSIONS_WITHOUT_FILES = {name: value for name, value in _EXTENSIONS.items() if name != "http.response.pathsend"}

# Short names of attributes (RFC 4514 section 3), and what has to be escaped in their values (section 2.4).
_ATTRIBUTES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_SPECIAL = re.compile(r'([,+"\\<>;]|^[# ]| $)')

# What Starlette makes of an OSError that is raised by send.
_DISCONNECTS = frozenset(("ClientDisconnect", "WebSocketDisconnect"))

_TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class GroupsExtension:
    """Makes an exchange or a session what ``scope['extensions']`` has for groups: a mapping of ``channel``, its name,
    and ``send``.

    A dictionary for each request would be made for nothing nearly always, and so would a name.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    groups: Groups
    name: str

    def __getitem__(self, key: str) -> Any:
        if key == "channel":
            return self.name
        if key == "send":
            return self.groups.send
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def keys(self) -> tuple[str, str]:
        return ("channel", "send")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __deepcopy__(self, memo: object) -> GroupsExtension:
        """For who copies a scope: what this stands for can't be made twice."""
        return self


def template_for(service: Service, client: Address | None, server: Address | None) -> Message:
    """What all scopes of a connection have in common: copying it and filling in the rest costs less than making each
    anew."""
    return {
        "type": "http",
        "asgi": VERSIONS,
        "http_version": "1.1",
        "server": server,
        "client": client,
        "scheme": service.scheme,
        "method": None,
        "root_path": service.settings.root_path,
        "path": None,
        "raw_path": None,
        "query_string": None,
        "headers": None,
        "state": None,
        "extensions": _EXTENSIONS if service.settings.pathsend else _EXTENSIONS_WITHOUT_FILES,
    }


def handshake_scope(request: Exchange) -> Message:
    """The scope of a WebSocket, but for what only its session knows."""
    scope = request.template.copy()
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["path"] = request.target.path
    scope["raw_path"] = request.target.raw_path
    scope["query_string"] = request.target.query_string
    mount(scope)
    scope["headers"] = request.headers
    scope["state"] = request.connection.service.state.copy()
    return scope


def mount(scope: Message) -> None:
    """Put the path of a scope below its ``root_path``, as ASGI has it."""
    root_path = scope["root_path"]
    if scope["path"] != "*":
        scope["path"] = root_path + scope["path"]
        scope["raw_path"] = root_path.encode() + scope["raw_path"]


def tls_extension(connection: ssl.SSLObject) -> dict[str, Any]:
    """What the ``tls`` extension of ASGI tells of a connection; the server's own certificate is not known."""
    certificate = connection.getpeercert(binary_form=True)
    cipher = connection.cipher()
    ids = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in connection.context.get_ciphers()}
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
        "client_cert_name": _name_of(connection.getpeercert() or {}),
        "client_cert_error": None,
        "tls_version": _TLS_VERSIONS.get(connection.version() or ""),
        "cipher_suite": ids.get(cipher[0]) if cipher else None,
    }


def _name_of(certificate: dict[str, Any]) -> str | None:
    """The subject of a client's certificate as RFC 4514 writes it, the most specific part first."""
    parts = [
        "+".join(f"{_ATTRIBUTES.get(kind, kind)}={_SPECIAL.sub(_escape, value)}" for kind, value in relative_name)
        for relative_name in certificate.get("subject", ())
    ]
    return ",".join(reversed(parts)) or None


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[0]


def is_of_disconnect(error: BaseException | None) -> bool:
    """Whether ``error`` is a client's leaving, or what a framework has made of that."""
    while error is not None and not isinstance(error, ClientDisconnected):
        if not isinstance(error, OSError) and type(error).__name__ not in _DISCONNECTS:
            return False
        error = error.__cause__ or error.__context__
    return error is not None
