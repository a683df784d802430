"""Bytes become requests: what the parser tells, judged by the RFCs' rules and the limits. It knows no socket."""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus
from typing import Any

import httptools

from uvicorn_worker._types import RequestFields
from uvicorn_worker.config import BLANK_BYTES, SLICE, UNSEEN_BYTES, Settings
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.http11 import framing
from uvicorn_worker.http11.exchange import READING, Exchange, Wire
from uvicorn_worker.http11.framing import DECISIVE_FIELDS, refuse
from uvicorn_worker.service import Service


class Phase(IntEnum):
    """What the next bytes are."""

    HEAD = 0
    BODY = 1
    PRIMING = 2  # nothing yet: a fresh parser must be told first that a body follows
    OVER = 3  # nothing that is looked at: no further request is read from this connection


HEAD, BODY, PRIMING, OVER = Phase

_SLASH = ord("/")

# Methods and Host fields that were found good. Decoding and matching them anew for each request costs as much as all
# else that is done with a head; bounded, lest a client that makes them up grow it without end.
_methods: dict[bytes, str] = {}
_hosts: set[bytes] = set()
_HOSTS_BOUND = 1024

# The parser's words for a version that it can't read at all, and for the preface of HTTP/2.
_VERSION_ERRORS = frozenset(("Invalid HTTP version", "Pause on PRI/Upgrade"))


class RequestReader(Wire):
    """Feeds a parser and makes exchanges of what it tells.

    The parser can't be stopped in the middle of what it is fed, and an error that a callback raises ends it; so it is
    fed slices, and refusing a request is raising :class:`RequestRefused` from a callback.
    """

    __slots__ = ("_decisive", "_exchange_class", "_fed", "_headers", "_incoming", "_parser", "_phase", "_url", "service")

    def __init__(self, service: Service, exchange_class: type[Exchange]) -> None:
        self.service = service
        self._exchange_class = exchange_class
        self._parser: Any = httptools.HttpRequestParser(self)
        self._phase = HEAD
        self._url = b""
        self._headers: RequestFields | None = None
        self._decisive: RequestFields = []
        #: Bytes fed for the head, beyond the slice it began in; in a body, bytes that are not of it.
        self._fed = 0
        #: The exchange whose body is being read.
        self._incoming: Exchange | None = None

    # What the protocol makes of it.

    def _accept(self, exchange: Exchange) -> None:
        """A head is complete and good."""
        raise NotImplementedError

    def _body_completed(self, exchange: Exchange) -> None:
        """The body of ``exchange`` is complete."""
        raise NotImplementedError

    def _refuse(self, refusal: RequestRefused, incoming: Exchange | None) -> None:
        """Nothing more can be read: a head, or the body of ``incoming``, is not as it must be."""
        raise NotImplementedError

    # Bytes in.

    def _feed(self, data: bytes | memoryview) -> None:
        """Let the parser read one slice, and see to what it left unfinished."""
        self._fed += len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserError as error:
                self._parser_failed(error)
                break
        if self._fed > 0:
            self._check_unfinished()

    def on_url(self, url: bytes) -> None:
        if not self._url:
            self._headers = []
            self._fed = 0
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if headers is None:
            return  # A trailer (RFC 9112 section 7.1.2): dropped, and counted among the bytes beside the body.
        field = [name.lower(), value.rstrip(b" \t")]
        if field[0] in DECISIVE_FIELDS:
            self._decisive.append(field)
        headers.append(field)

    def on_headers_complete(self) -> None:
        if self._phase is PRIMING:
            self._phase = BODY
            return
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        headers = self._headers
        target = self._url
        settings = self.service.settings
        assert headers is not None
        if version != "1.1" or method not in _methods:
            framing.check_method(method, version)
            _methods[method] = method.decode("ascii")
        if self._fed or settings.has_tight_limits or len(headers) > settings.field_count_limit:
            self._check_limits(method, headers, settings)
        if target[0] != _SLASH or b"#" in target:
            target = framing.split_target(target, method, headers)
        exchange = self._exchange_class(self, _methods[method], target, version, headers)
        exchange.keep_alive = parser.should_keep_alive() and settings.keepalive > 0
        decisive = self._decisive
        if len(decisive) != 1 or decisive[0][0] != b"host" or decisive[0][1] not in _hosts:
            self._decide(exchange, parser)
        decisive.clear()
        self._url = b""
        self._headers = None
        self._fed = 0
        if exchange.body is READING:
            self._incoming = exchange
            if self._phase is HEAD:
                self._phase = BODY
        elif not exchange.keep_alive:
            self._phase = OVER
        self._accept(exchange)

    def on_body(self, data: bytes) -> None:
        self._fed -= len(data)
        if self._incoming is not None:
            self._incoming.feed(data)

    def on_chunk_header(self) -> None:
        # What a chunk takes without extensions: 16 digits at most, and two line ends.
        self._fed -= 20

    def on_message_complete(self) -> None:
        exchange = self._incoming
        if exchange is None or self._phase is PRIMING:
            return
        self._incoming = None
        self._fed = 0
        self._phase = HEAD if exchange.keep_alive else OVER
        exchange.body_complete()
        self._body_completed(exchange)

    # Judgement.

    def _decide(self, exchange: Exchange, parser: Any) -> None:
        """Look at the fields that say how the request is to be read; raises :class:`RequestRefused`."""
        hosts, codings, lengths, expectations = (
            [value for name, value in self._decisive if name == wanted]
            for wanted in (b"host", b"transfer-encoding", b"content-length", b"expect")
        )
        framing.check_host(hosts, exchange.version)
        if hosts and len(_hosts) < _HOSTS_BOUND:
            _hosts.add(hosts[0])
        if framing.is_chunked(codings, exchange.version):
            exchange.expect_body(None)
        elif lengths and int(lengths[0]):
            exchange.expect_body(int(lengths[0]))
        exchange.expects_continue = framing.expects_continue(expectations, exchange.version) and exchange.has_body
        if exchange.has_body and parser.should_upgrade():
            self._phase = PRIMING

    def _check_limits(self, method: bytes, headers: RequestFields, settings: Settings) -> None:
        """Raise :class:`RequestRefused` where the head, complete or as far as it came, is over a limit."""
        line = len(method) + len(self._url) + len("  HTTP/1.1")
        if settings.request_line_limit and line > settings.request_line_limit:
            raise refuse("The request line is too long", HTTPStatus.REQUEST_URI_TOO_LONG)
        sizes = [len(name) + len(value) + len(": \r\n") for name, value in headers]
        if len(sizes) > settings.field_count_limit:
            raise _fields_too_large("The request has too many header fields")
        if settings.field_size_limit and max(sizes, default=0) > settings.field_size_limit:
            raise _fields_too_large("A header field of the request is too large")
        if line + sum(sizes) > settings.head_limit:
            if line > settings.head_limit:
                raise refuse("The request line is too long", HTTPStatus.REQUEST_URI_TOO_LONG)
            raise _fields_too_large("The head of the request is too large")
        # The parser shows a field when it is whole: what is unfinished can only be counted by what was fed.
        unfinished = self._fed - line - sum(sizes)
        if settings.field_size_limit and unfinished > settings.field_size_limit:
            raise _fields_too_large("A header field of the request is too large")
        if self._fed > settings.head_limit + SLICE:
            raise _fields_too_large("The head of the request is too large")

    def _check_unfinished(self) -> None:
        """After a slice, bound what the parser swallows without telling."""
        try:
            if self._phase is HEAD:
                if self._url:
                    self._check_limits(b"", self._headers or [], self.service.settings)
                elif self._fed > BLANK_BYTES:
                    raise refuse("Too many empty lines before the request")
            elif self._phase is BODY and self._fed > UNSEEN_BYTES:
                raise refuse("Too many bytes beside the body of the request")
        except RequestRefused as refusal:
            self._fail(refusal)

    def _fail(self, refusal: RequestRefused) -> None:
        incoming, self._incoming = self._incoming, None
        self._phase = OVER
        self._refuse(refusal, incoming)

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        if self._phase is OVER:
            return  # Bytes after the last request that is read.
        cause = error.__context__
        if isinstance(cause, RequestRefused):
            self._fail(cause)
        elif isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            raise cause
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            self._fail(refuse("Unknown method", HTTPStatus.NOT_IMPLEMENTED))
        elif str(error) in _VERSION_ERRORS:
            self._fail(refuse("Unsupported version of HTTP", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED))
        else:
            self._fail(refuse(str(error)))

    def _ignore_upgrade(self) -> None:
        """Have what follows an upgrade read as HTTP, as RFC 9110 section 7.8 allows.

        The parser believes that the request with the ``Upgrade`` field had no body. Where it has one, a fresh parser
        reads it, which is told by a head of its own how the body is delimited.
        """
        if self._phase is PRIMING:
            assert self._incoming is not None
            length = self._incoming.body_length
            body_field = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % body_field)
            self._url = b""
            self._headers = None
            self._decisive.clear()
            self._fed = 0


def _fields_too_large(reason: str) -> RequestRefused:
    return refuse(reason, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
