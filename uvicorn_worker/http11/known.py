"""Heads that have come before: what the parser has made of them once holds for the same bytes again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Bytes of a request whose head can be remembered, and fields in it. No such head is over the limit of all of it, from
#: whatever line and section it is put together.
MOST_BYTES = 2048
MOST_FIELDS = 64
_MOST_LINE_BYTES = 512
#: How many field sections are remembered, and how many request lines.
_MOST_SECTIONS = 256
_MOST_LINES = 1024
#: How many of both that have come once are.
_MOST_MET = 4096


@dataclass(slots=True)
class Section:
    """What a field section says; not to be changed."""

    #: In the kind of pairs that the interface shows, each the section's own.
    fields: tuple[Any, ...]
    #: Whether these are tuples, and not lists.
    has_tuples: bool
    #: The names and values, in turn, of those by which proxies tell of the client.
    forwarded: tuple[bytes, ...]
    #: Whether the connection ends with such a request.
    closes: bool


class KnownHeads:
    """The request lines and field sections of usual requests, each as it was sent.

    A client sends the same fields with every request, and asks for the same few targets. A section means the same
    behind each of these lines: all are of HTTP/1.1, and none has another authority than its ``Host``.
    """

    __slots__ = ("_met", "lines", "sections", "sections_of_bodies")

    def __init__(self) -> None:
        #: The method and the target, as it was taken apart, by the line without its end.
        self.lines: dict[bytes, tuple[str, Any]] = {}
        #: By the section with the empty line behind it, where no body follows.
        self.sections: dict[bytes, Section] = {}
        #: By that and the length of the body that it declares, so that no other is found with it.
        self.sections_of_bodies: dict[tuple[bytes, int], Section] = {}
        #: Hashes of what has come.
        self._met: set[int] = set()

    def has_met(self, line: bytes, raw_section: bytes) -> bool:
        """Whether both have come before, be it apart. What comes but once, as a section with the number of its request
        does, would be remembered in vain, and in the place of others."""
        if len(self._met) >= _MOST_MET:
            self._met.clear()
        hashes = hash(line), hash(raw_section)
        both = self._met.issuperset(hashes)
        self._met.update(hashes)
        return both

    def add(self, line: bytes, request: tuple[str, Any], raw_section: bytes, section: Section, length: int) -> None:
        """Remember a head that a body of this ``length`` follows; what is full begins anew."""
        if len(line) > _MOST_LINE_BYTES:
            return
        if line not in self.lines and len(self.lines) >= _MOST_LINES:
            self.lines.clear()
        self.lines[line] = request
        sections: dict[Any, Section] = self.sections_of_bodies if length else self.sections
        key = (raw_section, length) if length else raw_section
        if key not in sections and len(self.sections) + len(self.sections_of_bodies) >= _MOST_SECTIONS:
            self.sections.clear()
            self.sections_of_bodies.clear()
        sections[key] = section
