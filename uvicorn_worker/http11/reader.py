"""Bytes become requests: what the parser tells, judged by the RFCs' rules and the limits. It knows no socket."""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus
from typing import Any, cast

import httptools

from uvicorn_worker.config import BLANK_BYTES, SLICE, UNSEEN_BYTES
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.http11 import framing
from uvicorn_worker.http11.body import ABSENT, EXPECTED
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.framing import Target, line_too_long, refuse, too_large
from uvicorn_worker.http11.head import HeadReader
from uvicorn_worker.http11.known import MOST_FIELDS, Section
from uvicorn_worker.memo import Memo
from uvicorn_worker.service import Service


class Phase(IntEnum):
    """What the next bytes are."""

    HEAD = 0
    BODY = 1
    PRIMING = 2  # nothing yet: a fresh parser must be told first that a body follows
    SWITCHING = 3  # kept for the protocol that the last request asks for
    OVER = 4  # nothing that is looked at: no further request is read from this connection


HEAD, BODY, PRIMING, SWITCHING, OVER = Phase

# What has been found good.
_METHODS: Memo[bytes, str] = Memo(framing.decode_method, lambda method: True)
_TARGETS: Memo[bytes, Target] = Memo(framing.split_target, lambda target: len(target) <= 256)
_HOSTS: Memo[bytes, bool] = Memo(framing.is_host, lambda host: len(host) <= 256)

# How the parser stops: it is one or the other, which have no parent in common.
_Stop = httptools.HttpParserError | httptools.HttpParserUpgrade
_STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)

# Bytes of a request line beside its target, with the line end: the longest method has 16.
_REST_OF_LINE = 32

# The parser's words for a version that it can't read at all, and for the preface of HTTP/2.
_VERSION_ERRORS = frozenset(("Invalid HTTP version", "Pause on PRI/Upgrade"))


class RequestReader(HeadReader):
    """Feeds a parser and makes exchanges of what it tells.

    The parser can't be stopped in the middle of what it is fed, and an error that a callback raises ends it; so it is
    fed slices, and refusing a request is raising :class:`RequestRefused` from a callback.
    """

    __slots__ = (
        "_begun",
        "_fed",
        "_incoming",
        "_parser",
        "_pending",
        "_phase",
        "_refusal",
        "_seen",
        "_shown",
        "_slice",
        "_unfinished",
        "_upgrade",
        "_url",
        "_watch",
        "keeps_alive",
    )

    def __init__(self, service: Service, exchange_class: type[Exchange]) -> None:
        super().__init__(service, exchange_class)
        #: Made when it is needed, which it isn't for most requests.
        self._parser: Any = None
        self._phase = HEAD
        #: Bytes that can be read at once: no head of so many is over a limit.
        self._slice = service.slice_without_limits
        self._url = b""
        #: Whether the last slice ended within a head or a body, or before a head.
        self._unfinished = False
        #: Whether it ended within a method.
        self._begun = False
        #: Bytes of the slices that did, as far as they are not of the body; the first slice of a head is not counted.
        self._fed = 0
        #: How many fields of an unfinished head were shown at the last look, and the bytes fed since.
        self._shown = 0
        self._pending = 0
        #: What ``_fed`` begins with: 1 where a head could be over a limit though it comes in one slice.
        self._watch = 0
        #: Whether another request is read after one that allows it.
        self.keeps_alive = service.settings.keepalive > 0
        #: The exchange whose body is being read.
        self._incoming: Exchange | None = None
        #: What a callback has raised; the parser's own error doesn't always tell.
        self._refusal: RequestRefused | None = None
        #: A request to switch protocols, until the parser has stopped behind it.
        self._upgrade: Exchange | None = None
        #: What the parser has read of a head that may be remembered.
        self._seen: list[tuple[Exchange, Section, int]] | None = None

    def _new_parser(self) -> Any:
        # The parser looks its callbacks up now, and keeps them.
        self.on_header = self._choose_on_header()
        parser = httptools.HttpRequestParser(self)
        del self.on_header
        return parser

    # What the protocol makes of it.

    def _accept(self, exchange: Exchange) -> None:
        """A head is complete and good."""
        raise NotImplementedError

    def _refuse(self, refusal: RequestRefused, incoming: Exchange | None) -> None:
        """Nothing more can be read: a head, or the body of ``incoming``, is not as it must be."""
        raise NotImplementedError

    def _read_in_slices(self, data: bytes | memoryview) -> None:
        """There is more than can be read at once."""
        raise NotImplementedError

    def _keep(self, data: bytes | memoryview) -> None:
        """Keep the rest of a slice for the protocol that comes next."""
        raise NotImplementedError

    def _head_begun(self) -> None:
        """A slice has ended within a head, or in empty lines before one."""
        raise NotImplementedError

    # Bytes in.

    def feed(self, data: bytes | memoryview) -> None:
        """Let the parser read what can be read at once, and bound what that leaves unfinished."""
        if len(data) > self._slice:
            return self._read_in_slices(data)
        if self._parser is None:
            self._parser = self._new_parser()
        self._unfinished = True
        try:
            self._parser.feed_data(data)
        except _STOPS as stop:
            self._parser_stopped(stop, data)
        if self._unfinished:
            self._check_unfinished(len(data))

    def on_message_begin(self) -> None:
        self._unfinished = self._begun = True

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url
        self._begun = False

    def on_headers_complete(self) -> None:
        if self._phase is not HEAD:
            return self._continue_or_stop()
        parser = self._parser
        headers = self._headers
        try:
            method = _METHODS[parser.get_method()]
            if self._fed:
                framing.check_limits(method, self._url, headers, self.service.settings)
                self._fed = self._watch
            try:
                target = _TARGETS[self._url]
            except framing.NotOriginForm:
                pair = tuple if self._exchange_class.has_tuples else list
                target = framing.split_other_target(self._url, method, headers, pair)
            exchange = self._exchange_class(self, method, target, headers)
            # The parser tells the version only as text made anew, at 2,600 instructions. Without a Connection field,
            # only HTTP/1.1 keeps the connection.
            host = self._host
            if host != self._good_host:  # Nearly all requests of a connection have the same.
                self._good_host = host if host is not None and _HOSTS[host] else None
            if self._decisive or self._good_host is None or not parser.should_keep_alive():
                upgrade = self._decide(exchange, parser)
                if parser.should_upgrade():
                    exchange = self._change_protocol(exchange, upgrade)
            if self._seen is not None:
                self._show(exchange, self._seen)
            if self._forwarded:
                self._heed_proxies(exchange)
        except RequestRefused as refusal:
            self._refusal = refusal
            raise
        self._url = b""
        self._host = None
        self._headers = []
        if exchange.body is ABSENT:
            self._unfinished = False
            if not exchange.keep_alive:
                if self._phase is SWITCHING:
                    self._upgrade = exchange
                    return
                self._read_no_more()
        else:
            self._incoming = exchange
            self._fed = -SLICE
            if self._phase is HEAD:
                self._phase = BODY
        self._accept(exchange)

    def _show(self, exchange: Exchange, seen: list[tuple[Exchange, Section, int]]) -> None:
        """Tell what the head of ``exchange`` says, if it changes no more than this request, and the end with it."""
        headers = exchange.headers
        if len(headers) > MOST_FIELDS or self._phase is not HEAD:
            return
        if exchange.body is ABSENT or self._can_be_taken(exchange):
            has_tuples = self._exchange_class.has_tuples
            fields = tuple(headers if has_tuples else ([*pair] for pair in headers))
            closes = not self._parser.should_keep_alive()
            section = Section(fields, has_tuples, tuple(self._forwarded), closes)
            length = exchange.body_length if exchange.body is not ABSENT else 0
            seen.append((exchange, section, cast(int, length)))

    def _can_be_taken(self, exchange: Exchange) -> bool:
        """Whether it makes no difference to anybody if all of the body comes with the head."""
        length, service = exchange.body_length, self.service
        if exchange.body is EXPECTED or length is None or length > service.settings.request_body_buffer:
            return False
        # A factory can have the application begin between the head and the body.
        return service.loop.get_task_factory() is None

    def on_body(self, data: bytes) -> None:
        self._fed -= len(data)
        if self._incoming is not None:
            self._incoming.feed(data)

    def on_chunk_header(self) -> None:
        # What a chunk takes without extensions: 16 digits at most, and two line ends. A slice full of chunks is
        # credited with no more than a slice, or small ones would pay for any number of trailers.
        self._fed = max(self._fed - 20, -SLICE)

    def on_message_complete(self) -> None:
        exchange = self._incoming
        if exchange is None or self._phase is PRIMING:
            return
        self._incoming = None
        self._fed = self._watch
        # Trailers (RFC 9112 section 7.1.2) are dropped. They were counted among the bytes beside the body.
        self._headers = []
        self._decisive.clear()
        self._forwarded.clear()
        self._host = None
        self._unfinished = False
        self._phase = HEAD
        if not exchange.keep_alive:
            self._read_no_more()
        exchange.body_complete()

    # Judgement, beside that of the fields.

    def _change_protocol(self, exchange: Exchange, names: list[bytes]) -> Exchange:
        """The request as one to switch to a protocol by one of these ``names``, if it can be; or as it is."""
        protocol = framing.find_upgrade(names, self.service.upgrades)
        # RFC 9110 section 7.8: HTTP/1.0 has no upgrades.
        if protocol is not None and exchange.version == "1.1":
            return self._switch(exchange, protocol)
        if exchange.body is not ABSENT:
            self._phase = PRIMING
        return exchange

    def _switch(self, exchange: Exchange, protocol: bytes) -> Exchange:
        """Make a request to switch to ``protocol`` of it, after which nothing is HTTP."""
        if exchange.body is not ABSENT:
            # It would have to be read before the switch (RFC 9110 section 7.8), and no protocol here has one.
            raise refuse("A request to switch protocols must have no body")
        upgrade = self.service.upgrade_class(self, exchange.method, exchange.target, exchange.headers)
        upgrade.protocol_name = protocol
        upgrade.handler = self.service.upgrades[protocol.lower()]
        self._phase = SWITCHING
        self._slice = -1
        return cast(Exchange, upgrade)

    def _continue_or_stop(self) -> None:
        """The head that primes a parser has been read, or one that comes after the last request that is served."""
        if self._phase is not PRIMING:
            raise refuse("No more requests are read")
        self._phase = BODY

    def _check_unfinished_head(self, size: int) -> None:
        """Raise :class:`RequestRefused` where a head that has come in part, last ``size`` bytes, is over a limit.

        The parser shows a field when the next line has begun. Until then it can only be counted by what was fed, to
        a slice.
        """
        settings = self.service.settings
        shown = len(self._headers)
        # Where in its first slice a head began is not known, so that slice counts next to nothing.
        is_first = self._fed <= 1
        self._fed = 2 if is_first else self._fed + size
        self._pending = 0 if is_first or shown != self._shown else self._pending + size
        self._shown = shown
        if len(self._url) > (settings.request_line_limit or settings.head_limit):
            raise line_too_long()
        if shown > settings.field_count_limit:
            raise too_large("The number of header fields is")
        # What is pending is of one field with the line end behind it; at first, of the request line too.
        other = 2 if shown else len(self._url) + _REST_OF_LINE
        if settings.field_size_limit and self._pending > settings.field_size_limit + other:
            raise too_large("A header field of the request is")
        if self._fed - size > settings.head_limit:
            is_line = not shown and 2 * len(self._url) > self._fed
            raise line_too_long() if is_line else too_large("The head of the request is")

    def _check_unfinished(self, size: int) -> None:
        """After a slice of ``size`` bytes, bound what the parser swallows without telling."""
        try:
            if self._phase is HEAD and self._url:
                self._check_unfinished_head(size)
            elif self._phase is HEAD:
                # What comes before the method, in the same slice, may be another request.
                self._fed = self._watch if self._begun else self._fed + size
                self._begun = False
                if self._fed > BLANK_BYTES:
                    raise refuse("Too many empty lines before the request")
            elif self._phase is BODY:
                self._fed += size
                if self._fed > UNSEEN_BYTES:
                    raise refuse("Too many bytes beside the body of the request")
        except RequestRefused as refusal:
            self._fail(refusal)
        else:
            if self._phase is HEAD:
                self._head_begun()

    def _read_no_more(self) -> None:
        """No further request is read: what still comes is dropped."""
        self._phase = OVER
        self._slice = -1

    def _fail(self, refusal: RequestRefused, *, in_target: bool = False) -> None:
        """Refuse what is being read; ``in_target`` says that the parser tripped over its target."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            refusal.method = incoming.method
        elif self._url or in_target:  # Before these, the parser has the method of the request before.
            refusal.method = self._parser.get_method().decode("ascii")
        self._read_no_more()
        # Its traceback refers to frames, and those to this.
        self._refuse(refusal.with_traceback(None), incoming)

    def _parser_stopped(self, error: _Stop, data: bytes | memoryview) -> None:
        """The parser wants to switch protocols, or was given what it can't read, or a callback has refused."""
        while isinstance(error, httptools.HttpParserUpgrade):
            data = data[error.args[0] :]
            if self._upgrade is not None:
                upgrade, self._upgrade = self._upgrade, None
                self._keep(data)
                return self._accept(upgrade)
            self._ignore_upgrade()
            if not data:
                return
            try:
                self._parser.feed_data(data)
                return
            except _STOPS as another:
                error = another
        if self._phase is OVER:
            return  # Bytes after the last request that is read.
        if self._refusal is not None:
            self._fail(self._refusal)
        elif isinstance(error, httptools.HttpParserCallbackError):
            raise error
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            self._fail(refuse("Unknown method", HTTPStatus.NOT_IMPLEMENTED))
        elif str(error) in _VERSION_ERRORS:
            self._fail(refuse("Unsupported version of HTTP", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED))
        else:
            self._fail(refuse(str(error)), in_target=isinstance(error, httptools.HttpParserInvalidURLError))

    def _ignore_upgrade(self) -> None:
        """Have what follows an upgrade read as HTTP, as RFC 9110 section 7.8 allows.

        The parser believes that the request with the ``Upgrade`` field had no body. Where it has one, a fresh parser
        reads it, which is told by a head of its own how the body is delimited.
        """
        if self._phase is PRIMING:
            assert self._incoming is not None
            length = self._incoming.body_length
            body_field = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
            self._parser = self._new_parser()
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % body_field)
            self._url = b""
