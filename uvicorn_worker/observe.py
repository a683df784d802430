"""What the outside sees of the requests that are served: the access log, and hooks around the calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn_worker._types import AccessLog, Address, Application, Hooks, Log, Observing, ReplyFields, RequestFields
from uvicorn_worker.access_log import took
from uvicorn_worker.access_writer import AccessWriter
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.exchange import Exchange, Wire
from uvicorn_worker.http11.framing import Target
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.http11.response import FINISHED, OPEN, WAITING
from uvicorn_worker.service import Service
from uvicorn_worker.views import RequestView, ResponseView, environ_of

_NO_HOOKS = Hooks()

#: What is logged as the status of a request whose client did not wait for the answer; nginx made it known.
CLIENT_CLOSED_REQUEST = 499

#: Of a request whose line has not been read.
_UNKNOWN = Target("", b"", b"", b"")


class Observer:
    """Is told of each request that was answered, and tells the access log."""

    def __init__(
        self,
        log: Log,
        access_log: AccessLog | None = None,
        *,
        writer: AccessWriter | None = None,
        environ: Mapping[str, Any] | None = None,
        hooks: Hooks = _NO_HOOKS,
    ) -> None:
        """``access_log`` is called with what Gunicorn's ``Logger.access`` takes, but where ``writer`` can do the same
        for less. ``environ`` is what the environments of all requests have in common."""
        self.environ: Mapping[str, Any] = environ or {}
        self.hooks = hooks
        self._log = log
        self._access_log = access_log
        self._writer = writer
        #: Is called with each request when its answer has been sent, or what there will be of it.
        self.tell: Callable[[Any], None] = self._tell_logger
        self.look_again()

    def look_again(self) -> None:
        """Follow what has changed in the configuration of logging; called once a second."""
        writer = self._writer
        self.tell = writer.write if writer is not None and writer.look_again() else self._tell_logger

    @property
    def only_writes_lines(self) -> bool:
        """Whether nothing is made of a request but a line, for which what is left of it in the end is enough."""
        writer = self._writer
        if writer is None or writer.reads_response or self.hooks != _NO_HOOKS:
            return False
        return self.tell == writer.write

    def flush(self) -> None:
        """Write what waits for the end of the loop's turn."""
        if self._writer is not None:
            self._writer.flush()

    def _tell_logger(self, entry: ObservedExchange | Refused) -> None:
        if self._access_log is None:
            return
        try:
            request = entry.view
            response = ResponseView(entry, request, closes=not entry.keep_alive)
            self._access_log(response, request, environ_of(entry, self.environ), took(entry))
        except Exception:  # A logger of the user's must not end what it is told of.
            self._log.error("The access log failed: %s", entry, exc_info=True)


class ObservedExchange(Exchange):
    """An exchange that is told of when its answer has been sent, or can't be sent to its end."""

    __slots__ = ("began",)

    #: The fields of the response, where anybody wants to know.
    fields: ReplyFields = ()

    def __init__(self, connection: Wire, method: str, target: Target, headers: RequestFields) -> None:
        Exchange.__init__(self, connection, method, target, headers)  # super() would cost 300 instructions more.
        self.began = monotonic()

    @property
    def view(self) -> RequestView:
        """The request as hooks and loggers are shown it."""
        return RequestView(self)

    @property
    def observer(self) -> Observing:
        return self.connection.service.observer

    def _finish(self) -> None:
        cast(ObservedProtocol, self.connection).over(self)
        super()._finish()

    def client_gone(self) -> None:
        reply = self.reply
        super().client_gone()
        if reply < FINISHED:
            connection = cast(ObservedProtocol, self.connection)
            connection.over(self) if reply is OPEN else connection.left_unanswered(self)


if TYPE_CHECKING:
    _OverObserved = ObservedExchange
else:
    _OverObserved = object


class Recorded(_OverObserved):
    """Has an observed exchange keep what hooks and loggers may ask for, and calls the hooks."""

    if not TYPE_CHECKING:
        __slots__ = ()  # The exchange's class has them.

    SLOTS: ClassVar[tuple[str, ...]] = ("_view", "_was_called", "fields")

    fields: ReplyFields
    _view: RequestView | None
    _was_called: bool

    def __init__(self, connection: ObservedProtocol, method: str, target: Target, headers: RequestFields) -> None:
        super().__init__(connection, method, target, headers)
        self.is_usual = False  # Every head is made where its fields are seen here.
        self.fields = ()
        self.status = self.sent = 0
        self._was_called = False
        self._view = None

    @property
    def view(self) -> RequestView:
        if self._view is None:
            protocol = cast(ObservedProtocol, self.connection)
            protocol.requests += 1
            self._view = RequestView(self, protocol.requests)
        return self._view

    def _make_head(self, status: int, fields: ReplyFields, content: bytes | None) -> tuple[bytes, bytes]:
        fields = wire.list_fields(fields)
        head = super()._make_head(status, fields, content)
        self.fields = fields
        return head

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        before = self.observer.hooks.before
        if before is not None:
            try:
                before(self.view)
            except Exception:
                self.connection.service.log.error("Exception in pre_request hook: %s", self, exc_info=True)
                if self.reply is WAITING:  # The client may have gone before this is run.
                    self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
                return _nothing()
        self._was_called = True
        return super().call(app)

    async def run(self, service: Service) -> None:
        await super().run(service)
        after = self.observer.hooks.after
        if after is None:
            return
        try:
            if self._was_called:
                response = ResponseView(self, self.view, closes=not self.keep_alive)
                after(self.view, environ_of(self, self.observer.environ), response)
            else:
                after(self.view, {}, None)
        except Exception:
            service.log.error("Exception in post_request hook: %s", self, exc_info=True)


async def _nothing() -> None:
    """In place of a call of the application."""


class Refused:
    """A request that was refused before there was an exchange."""

    fields: ReplyFields = ()
    keep_alive = False

    def __init__(self, connection: ObservedProtocol) -> None:
        self.connection = connection
        self.template = connection.template
        self.began = monotonic()
        self.method, self.target, self.version, self.headers = connection.head_so_far()
        self.status = self.sent = 0

    def __str__(self) -> str:
        return f"{self.method} {self.target.raw.decode('latin-1')}"

    @property
    def view(self) -> RequestView:
        return RequestView(self, self.connection.requests + 1)


class ObservedProtocol(HTTP11Protocol):
    """A connection whose requests are told of."""

    __slots__ = ("_spoilt", "_told", "requests")

    def __init__(
        self, service: Service, exchange_class: type[Exchange], client: Address | None, server: Address | None
    ) -> None:
        super().__init__(service, exchange_class, client, server)
        #: How many requests it has had, as far as they have been shown.
        self.requests = 0
        #: The request whose body could not be read, and which is refused for that.
        self._spoilt: ObservedExchange | None = None
        #: The exchange that was told of before the connection goes on.
        self._told: Exchange | None = None

    def go_on(self, exchange: Exchange) -> None:
        if exchange is not self._told:
            self.service.observer.tell(exchange)
        self._told = None
        HTTP11Protocol.go_on(self, exchange)  # super() would cost 300 instructions more.

    def over(self, exchange: ObservedExchange) -> None:
        """The answer of ``exchange`` has been sent to its end, or as far as it could be."""
        if exchange is self._exchange and exchange is not self._told:
            self._told = exchange
            self.service.observer.tell(exchange)

    def left_unanswered(self, exchange: ObservedExchange) -> None:
        """There will be no answer, unless it is the server's own to a body that it can't read."""
        if exchange is not self._spoilt:
            # A worker that stops at once leaves its clients, and not they it.
            status = HTTPStatus.SERVICE_UNAVAILABLE.value if self.service.draining else CLIENT_CLOSED_REQUEST
            exchange.status, exchange.sent = status, 0
            self.over(exchange)

    def _begin_next(self) -> None:
        if self._queue and isinstance(self._queue[0], ObservedExchange):
            self._queue[0].began = monotonic()  # It has waited for the one before it.
        super()._begin_next()

    def head_so_far(self) -> tuple[str, Target, str, RequestFields]:
        """What is known of a request that was refused: method, target, version and fields; ``'-'`` and nothing where
        its line has not been read."""
        if not self._headers and self._refusal is None:
            return "-", _UNKNOWN, "1.1", []
        target = Target("", b"", b"", self._url)
        return self._parser.get_method().decode("ascii"), target, self._parser.get_http_version(), self._headers

    def _refuse(self, refusal: RequestRefused, incoming: Exchange | None) -> None:
        self._spoilt = cast("ObservedExchange | None", incoming)
        super()._refuse(refusal, incoming)

    def refuse_body(self, exchange: Exchange, refusal: RequestRefused) -> None:
        self._spoilt = cast(ObservedExchange, exchange)
        super().refuse_body(exchange, refusal)

    def _send_refusal(self, refusal: RequestRefused) -> None:
        spoilt, self._spoilt = self._spoilt, None
        refused = Refused(self) if spoilt is None else spoilt
        refused.status = refusal.status.value
        refused.sent = 0 if refusal.method == "HEAD" else len(refusal.reason.encode()) + 1
        super()._send_refusal(refusal)
        self.service.observer.tell(refused)

    def _leave(self) -> None:
        super()._leave()
        self._spoilt = self._told = None  # They refer to this.
