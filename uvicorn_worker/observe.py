"""What the outside sees of the requests that are served: for Gunicorn's access log and its kin."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from time import monotonic
from types import SimpleNamespace
from typing import Any

from uvicorn_worker._types import ReplyFields, RequestFields
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.exchange import OPEN, Exchange, Wire
from uvicorn_worker.http11.framing import Target


class ObservedExchange(Exchange):
    """An exchange that tells ``service.access_log`` about itself when it is over, unless it was never answered."""

    __slots__ = ("_began", "_fields", "_sent", "_status")

    def __init__(self, connection: Wire, method: str, target: Target, headers: RequestFields) -> None:
        super().__init__(connection, method, target, headers)
        self.is_usual = False  # Every head is made where it is seen here.
        self._began = monotonic()
        self._status = 0
        self._sent = 0

    def _make_head(self, status: int, fields: ReplyFields, content: bytes | None) -> tuple[bytes, bytes]:
        fields = wire.list_fields(fields)
        head, sent = super()._make_head(status, fields, content)
        self._status = status
        self._fields = fields
        self._sent = len(sent)
        return head, sent

    def write(self, content: bytes, *, finish: bool = False, trailers: bytes = b"") -> None:
        before = self._sent
        self._sent += len(content)
        try:
            super().write(content, finish=finish, trailers=trailers)
        except Exception:
            self._sent = before
            raise

    def _finish(self) -> None:
        super()._finish()
        self._tell()

    def client_gone(self) -> None:
        under_way = self.reply is OPEN
        super().client_gone()
        if under_way:
            self._tell()

    def _tell(self) -> None:
        service = self.connection.service
        if service.access_log is None:
            return
        request = SimpleNamespace(headers=[(_text(name).upper(), _text(value)) for name, value in self.headers])
        took = timedelta(seconds=monotonic() - self._began)
        try:
            service.access_log(self._response(), request, self._environ(), took)
        except Exception:  # A logger of the user's must not end what it is told of.
            service.log.error("The access log failed: %s", self, exc_info=True)

    def _response(self) -> SimpleNamespace:
        known = {status.value: status.phrase for status in HTTPStatus}
        return SimpleNamespace(
            status=f"{self._status} {known.get(self._status, '')}".rstrip(),
            status_code=self._status,
            headers=[(_text(name), _text(value)) for name, value in self._fields],
            sent=self._sent,
            response_length=self._sent,
        )

    def _environ(self) -> dict[str, Any]:
        """The variables of PEP 3333 that a log can name."""
        template = self.connection.template
        query = _text(self.target.query_string)
        host, port = template["server"] or ("", None)
        client = template["client"] or ("", None)
        environ = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": _text(self.target.raw_path) + (f"?{query}" if query else ""),
            "PATH_INFO": self.target.path,
            "QUERY_STRING": query,
            "SCRIPT_NAME": template["root_path"],
            "SERVER_PROTOCOL": f"HTTP/{self.version}",
            "SERVER_NAME": host,
            "SERVER_PORT": str(port or ""),
            "REMOTE_ADDR": client[0],
            "REMOTE_PORT": str(client[1] or ""),
            "wsgi.url_scheme": template["scheme"],
        }
        for field_name, value in self.headers:
            name = _text(field_name).upper().replace("-", "_")
            key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
            environ[key] = f"{environ[key]},{_text(value)}" if key in environ else _text(value)
        return environ


def _text(value: bytes) -> str:
    return value.decode("latin-1")
