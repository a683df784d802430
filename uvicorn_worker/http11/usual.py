"""Requests whose heads have come before, read without the parser: bytes that it has taken for a head once, it would
take for the same again."""

from __future__ import annotations

from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.known import MOST_BYTES
from uvicorn_worker.http11.reader import RequestReader

_copy = list.copy

_HEAD_END = b"\r\n\r\n"


class UsualReader(RequestReader):
    """Knows a request whose head is the same as one before, if it comes whole; feeds the parser with everything else.

    The parser calls for each field, at 3,400 instructions with what is then to be done. To find a head of 14 fields
    among those that are known costs 4,000.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        # A request begins where the one before is complete: the parser has nothing of it then.
        if self._unfinished or len(data) > MOST_BYTES or self._slice < 0:
            return self.feed(data)
        known = self.service.known_heads
        line, _, rest = data.partition(b"\r\n")
        request = known.lines.get(line)
        section = known.sections.get(rest)
        content = b""
        if section is None and request is not None and not rest.endswith(_HEAD_END):
            head_end = rest.find(_HEAD_END) + len(_HEAD_END)
            content = rest[head_end:]
            section = known.sections_of_bodies.get((rest[:head_end], len(content)))
        if request is None or section is None:
            return self._read_unknown(data, line, rest)
        method, target = request
        fields = section.fields
        headers = [*fields] if section.has_tuples else [*map(_copy, fields)]
        exchange = self._exchange_class(self, method, target, headers)
        if section.forwarded and not self._can_heed(exchange, section.forwarded):
            return self.feed(data)
        if content:
            exchange.take_body(content)
        if section.closes:
            exchange.end_connection()
        if not exchange.keep_alive:
            self._read_no_more()
        self._accept(exchange)

    def _can_heed(self, exchange: Exchange, forwarded: tuple[bytes, ...]) -> bool:
        """Tell the application what proxies say of the request, unless that is to be refused."""
        self._forwarded += forwarded
        try:
            self._heed_proxies(exchange)
        except RequestRefused:
            return False
        return True

    def _read_unknown(self, data: bytes, line: bytes, rest: bytes) -> None:
        """Have the parser read what has come, and remember the head if it is not the first of its kind."""
        raw_section = rest[: rest.find(_HEAD_END) + len(_HEAD_END)]
        if self.service.known_heads.has_met(line, raw_section):
            self._learn(data, line, raw_section)
        else:
            self.feed(data)

    def _learn(self, data: bytes, line: bytes, raw_section: bytes) -> None:
        """Have the parser read what has come, and remember the head of that if it is one request and nothing beside."""
        self._seen = []
        try:
            self.feed(data)
        finally:
            seen, self._seen = self._seen, None
        if len(seen) != 1 or self._unfinished:
            return
        exchange, section, length = seen[0]
        method, target = exchange.method, exchange.target
        # Or else the head that was seen is one behind, or before, something that makes no request.
        is_whole = len(line) + len(b"\r\n") + len(raw_section) + length == len(data)
        # A line of another version is not this one; another form of target changes the fields.
        is_usual = target.raw.startswith(b"/") and line == b"%b %b HTTP/1.1" % (method.encode("ascii"), target.raw)
        if is_whole and is_usual:
            self.service.known_heads.add(line, (method, target), raw_section, section, length)
