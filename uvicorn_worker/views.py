"""A request and its response as Gunicorn's WSGI workers show them to hooks and to loggers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any

from uvicorn_worker.access_log import Entry
from uvicorn_worker.config import BODILESS_STATUSES
from uvicorn_worker.http11.framing import path_info, sent_path
from uvicorn_worker.proxy import Told

_PORTS = {"http": "80", "https": "443"}

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class RequestView:
    """What ``gunicorn.http.message.Request`` is to a hook or a logger, as far as it can be read.

    A hook may keep what it likes in further attributes: the same object goes to every hook and logger of a request.
    """

    #: What only a WSGI worker reads itself.
    body = None
    trailers: tuple[tuple[str, str], ...] = ()
    #: A request that has a fragment is refused.
    fragment = ""

    def __init__(self, entry: Entry, number: int = 1) -> None:
        self.scheme: str = entry.template["scheme"]
        #: The other end of the connection: ``(host, port)``, or ``''`` for a Unix socket's.
        self.peer_addr: Any = entry.connection.peer or ""
        self.remote_addr = self.peer_addr
        #: What a PROXY header has told, by Gunicorn's names; ``None`` where there was none, or it told nothing.
        self.proxy_protocol_info = _proxy_info(entry.connection.told)
        self.method = entry.method
        self.uri = _text(entry.target.raw) or "-"
        self.path = _text(sent_path(entry.target.raw)) if entry.target.raw else "-"
        self.version = tuple(int(part) for part in entry.version.split("."))
        #: The number of the request on its connection.
        self.req_number = number
        self.must_close = False
        self._fields = entry.headers

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """The fields, their names in upper case."""
        return [(_text(name).upper(), _text(value)) for name, value in self._fields]

    @property
    def query(self) -> str:
        return self.uri.partition("?")[2]

    def should_close(self) -> bool:
        """Whether the connection ends with this request, as far as the request says so."""
        options = [value.lower().strip() for name, value in self.headers if name == "CONNECTION"]
        return self.must_close or "close" in options or (self.version <= (1, 0) and "keep-alive" not in options)


class ResponseView:
    """What ``gunicorn.http.wsgi.Response`` is to a hook or a logger."""

    version = "gunicorn"

    def __init__(self, entry: Entry, request: RequestView, *, closes: bool) -> None:
        self.req = request
        #: ``'200 OK'``; ``None`` where there was no response.
        self.status = f"{entry.status} {_PHRASES.get(entry.status, '')}".rstrip() if entry.status else None
        self.status_code = entry.status or None
        self.headers = [(_text(name), _text(value).strip(" \t")) for name, value in entry.fields]
        self.headers_sent = bool(entry.status)
        #: Bytes of content.
        self.sent = entry.sent
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        self.response_length = int(lengths[0]) if lengths else None
        is_bodiless = request.method == "HEAD" or entry.status in BODILESS_STATUSES
        self.chunked = self.response_length is None and request.version > (1, 0) and not is_bodiless
        self.upgrade = entry.status == HTTPStatus.SWITCHING_PROTOCOLS
        self.must_close = closes

    def should_close(self) -> bool:
        """Whether the connection ends with this response."""
        return self.must_close


def environ_of(entry: Entry, base: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a request (PEP 3333, with Gunicorn's ``RAW_URI``), over what is the same for all."""
    template = entry.template
    server = template["server"] or ("", None)
    client, told = entry.connection.template["client"], entry.connection.told
    target = entry.target.raw
    environ = {
        **base,
        "REQUEST_METHOD": entry.method,
        "QUERY_STRING": _text(target.partition(b"?")[2]) if target else "-",
        "RAW_URI": _text(target) or "-",
        "SERVER_PROTOCOL": f"HTTP/{entry.version}" if target else "-",
    }
    fields: dict[str, str] = {}
    for field_name, value in entry.headers:
        if b"_" in field_name and not entry.connection.can_be_variable(field_name):
            continue
        name = _text(field_name).upper().replace("-", "_")
        key = name if field_name in (b"content-type", b"content-length") else f"HTTP_{name}"
        fields[key] = f"{fields[key]},{_text(value)}" if key in fields else _text(value)
    environ.update(fields)
    environ["wsgi.url_scheme"] = template["scheme"]
    environ["REMOTE_ADDR"] = client[0] if client else ""
    if client:
        environ["REMOTE_PORT"] = str(client[1])
    if told is not None:
        environ |= {"PROXY_PROTOCOL": told.protocol, "PROXY_ADDR": told.proxy[0], "PROXY_PORT": str(told.proxy[1])}
    # A Unix socket's path is no server to WSGI, so that Gunicorn asks the Host field.
    host, _, port = fields.get("HTTP_HOST", "").partition(":")
    is_named = server[1] is None and host
    environ["SERVER_NAME"] = host if is_named else server[0]
    environ["SERVER_PORT"] = (port or _PORTS[template["scheme"]]) if is_named else str(server[1] or "")
    environ["PATH_INFO"] = path_info(target) if target else "-"
    environ["SCRIPT_NAME"] = template["root_path"]
    return environ


def _proxy_info(told: Told | None) -> dict[str, Any] | None:
    if told is None:
        return None
    (client_addr, client_port), (proxy_addr, proxy_port) = told
    return {
        "proxy_protocol": told.protocol,
        "client_addr": client_addr,
        "client_port": client_port,
        "proxy_addr": proxy_addr,
        "proxy_port": proxy_port,
    }


def _text(value: bytes) -> str:
    return value.decode("latin-1")
