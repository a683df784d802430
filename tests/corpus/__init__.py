r"""Requests as bytes, one file each, with what must become of them, written from the rules of the RFCs.

A file begins with lines of ``#``: first a sentence that says what is particular, then keys and values.

``rule``
    The sections of RFCs that the outcome rests on.
``call``
    A call of the application, ``METHOD PATH``, which is answered with 200; further keys tell of the call before them:
    ``query``, ``raw`` (the path as it was sent), ``body``, and ``field``, which is among the fields of the request.
``begun``
    A call that may have begun when its body turns out to be bad: it never gets the body's end.
``refused``
    The status of the last answer: the rest is refused, and the connection ends.
``ends``
    With ``yes``, the connection ends behind the last call.

All other bytes of the file are what is sent, but for its line ends: ``\r\n`` and the like are written out where they
are meant. So are ``\t``, ``\\`` and ``\xff``; ``\{70000 a}`` means that many. All is printable ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent

_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|([rnt\\])|\{(\d+) ([^}]*)\})")
_KEY = re.compile(r"# (rule|call|query|raw|body|field|begun|refused|ends): ?(.*)")


@dataclass
class Call:
    """What the application must be told; ``None`` where the file doesn't say."""

    method: str
    path: str
    query: str | None = None
    raw: str | None = None
    body: str | None = None
    fields: list[list[str]] = field(default_factory=list)


@dataclass
class Case:
    name: str
    sent: bytes
    rule: str = ""
    calls: list[Call] = field(default_factory=list)
    begun: Call | None = None
    refused: int | None = None
    ends: bool = False

    def cuts(self) -> list[int]:
        """The places to cut at: everywhere, or near the ends of what is long, and here and there within it."""
        size = len(self.sent)
        if size < 400:
            return list(range(1, size))
        return sorted({*range(1, 30), *range(30, size - 30, size // 30), *range(size - 30, size)})


def unescape(text: str) -> bytes:
    """The bytes that ``text`` stands for; raises ``ValueError`` where it isn't as the format has it."""
    if not re.fullmatch(r"[ -~]*", text):
        raise ValueError(f"not printable ASCII: {text!r}")
    raw = text.encode()
    if b"\\" in _ESCAPE.sub(b"", raw):
        raise ValueError(f"an unknown escape: {text!r}")
    return _ESCAPE.sub(_expand, raw)


def _expand(match: re.Match[bytes]) -> bytes:
    digits, letter, times, repeated = match.groups()
    if digits:
        return bytes([int(digits, 16)])
    return _ESCAPES[letter] if letter else int(times) * unescape(repeated.decode())


def parse(name: str, text: str) -> Case:
    """The case in the ``text`` of a file; raises ``ValueError``."""
    lines = text.removesuffix("\n").split("\n")
    keys = [line for line in lines if line.startswith("# ")]
    if lines[: len(keys)] != keys or any(line.endswith(" ") for line in lines):
        raise ValueError(f"{name}: comments come first, and spaces at the end of a line are \\x20")
    case = Case(name, b"".join(map(unescape, lines[len(keys) :])))
    for line in keys[1:]:
        match = _KEY.fullmatch(line)
        if match is None:
            raise ValueError(f"{name}: {line}")
        _add(case, match[1], unescape(match[2]).decode("latin-1" if match[1] in ("field", "body") else "utf-8"))
    if not case.rule or not (case.calls or case.refused):
        raise ValueError(f"{name}: a rule, and calls or a refusal")
    return case


def _add(case: Case, key: str, value: str) -> None:
    if key == "call":
        case.calls.append(_call(value))
    elif key == "begun":
        case.begun = _call(value)
    elif key == "field":
        name, _, content = value.partition(":")
        case.calls[-1].fields.append([name, content.removeprefix(" ")])
    elif key in ("query", "raw", "body"):
        setattr(case.calls[-1], key, value)
    elif key == "refused":
        case.refused = int(value)
    elif key == "ends":
        case.ends = value == "yes"
    else:
        case.rule = value


def _call(value: str) -> Call:
    method, _, path = value.partition(" ")
    return Call(method, path)


def load(kind: str) -> dict[str, Case]:
    """The cases of a folder, ``valid`` or ``invalid``, by name."""
    files = sorted((HERE / kind).glob("*.http"))
    return {file.stem: parse(file.stem, file.read_text(encoding="ascii")) for file in files}


VALID = load("valid")
INVALID = load("invalid")
