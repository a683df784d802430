"""The fields of a request as they come, and what they decide: how it is read, and what is told of its client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn_worker.http11 import framing
from uvicorn_worker.http11.body import ABSENT
from uvicorn_worker.http11.exchange import Exchange, Wire
from uvicorn_worker.http11.framing import DECISIVE_FIELDS
from uvicorn_worker.proxy import USUAL_FIELDS
from uvicorn_worker.service import Service

# Request fields that make a difference to what is read here or told of it; of the others nothing is known.
_NOTABLE_FIELDS = DECISIVE_FIELDS | USUAL_FIELDS


class HeadReader(Wire):
    """Is told of fields by a parser, and keeps those that make a difference apart."""

    __slots__ = (
        "_decisive",
        "_exchange_class",
        "_forwarded",
        "_good_host",
        "_headers",
        "_host",
        "on_header",
        "service",
        "trust",
    )

    def __init__(self, service: Service, exchange_class: type[Exchange]) -> None:
        self.service = service
        self._exchange_class = exchange_class
        self._host: bytes | None = None
        #: The Host of the last request, if it had a good one.
        self._good_host: bytes | None = None
        self._headers: Any = []
        #: The fields that say how a request is to be read, but for its first Host.
        self._decisive: list[tuple[bytes, bytes]] = []
        #: The names and values, in turn, of the fields by which proxies tell of the client.
        self._forwarded: list[bytes] = []
        #: Whether they are believed.
        self.trust = False

    #: What the parser calls for each field: one of two, or another way to it.
    on_header: Callable[[bytes, bytes], None]

    def _choose_on_header(self) -> Callable[[bytes, bytes], None]:
        # Making pairs in the kind that the interface shows saves making each of them twice.
        on_header = self._on_header_tuple if self._exchange_class.has_tuples else self._on_header_list
        proxies = self.service.proxies
        watches_more = proxies.more_fields or proxies.maps_names
        return partial(self._on_header_watched, on_header) if watches_more else on_header

    def _on_header_list(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.rstrip()
        if name in _NOTABLE_FIELDS:
            if name == b"host" and self._host is None:
                self._host = value
            elif name in USUAL_FIELDS:
                self._forwarded += name, value
            else:
                self._decisive.append((name, value))
        self._headers.append([name, value])

    def _on_header_tuple(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.rstrip()
        if name in _NOTABLE_FIELDS:
            if name == b"host" and self._host is None:
                self._host = value
            elif name in USUAL_FIELDS:
                self._forwarded += name, value
            else:
                self._decisive.append((name, value))
        self._headers.append((name, value))

    def _on_header_watched(self, on_header: Callable[[bytes, bytes], None], name: bytes, value: bytes) -> None:
        """The same where settings ask for more than the usual fields of proxies to be looked at."""
        lower = name.lower()
        proxies = self.service.proxies
        if lower in proxies.more_fields:
            self._forwarded += lower, value.rstrip(b" \t")
        elif proxies.maps_names and b"_" in lower:
            self._forwarded += lower, b""  # Its value tells nothing.
        on_header(name, value)

    def _decide(self, exchange: Exchange, parser: Any) -> list[bytes]:
        """Look at what says how the request is to be read; the protocols that it asks to switch to.

        Raises :class:`RequestRefused`.
        """
        version = parser.get_http_version()
        if version != "1.1":
            exchange.template = exchange.template | {"http_version": version}
        framing.check_version(version)
        if not parser.should_keep_alive():
            exchange.end_connection()
        values: dict[bytes, list[bytes]] = {}
        for name, value in self._decisive:
            values.setdefault(name, []).append(value)
        self._decisive.clear()
        if self._good_host is None or b"host" in values:
            first = [] if self._host is None else [self._host]
            framing.check_host(first + values.get(b"host", []), version)
        expected = b"expect" in values and framing.expects_continue(values[b"expect"], version)
        if b"transfer-encoding" in values and framing.is_chunked(values[b"transfer-encoding"], version):
            exchange.expect_body(None, when_asked=expected)
        elif b"content-length" in values and (length := int(values[b"content-length"][0])):
            exchange.expect_body(length, when_asked=expected)
        # RFC 9112 section 9.3: close counts before keep-alive, which is all that the parser looks for here.
        if version != "1.1" and framing.has_token(values.get(b"connection", ()), b"close"):
            exchange.end_connection()
        if version != "1.1" or exchange.body is not ABSENT:
            exchange.is_usual = False
        return values.get(b"upgrade", [])

    def _heed_proxies(self, exchange: Exchange) -> None:
        """Tell the application what proxies say of the request; raises :class:`RequestRefused`."""
        fields = tuple(self._forwarded)
        self._forwarded.clear()
        proxies, trust = self.service.proxies, self.trust
        if proxies.maps_names:
            exchange.headers = proxies.map_names(exchange.headers, trust)
        if trust:
            exchange.template = exchange.template | proxies.read[fields]
