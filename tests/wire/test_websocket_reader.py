"""Bytes of a client become messages: the ground of the Autobahn test suite, each case cut at every byte."""

from __future__ import annotations

import pytest

from .reader_recorder import Recorder, cuts_of
from .websocket_client import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    TEXT,
    binary,
    close,
    close_payload,
    fragments,
    frame,
    head,
    text,
)

EURO = "\u20ac".encode()
#: The longest message that a reader of these tests takes.
LARGEST = 300


def closed(code: int) -> list[object]:
    """What a reader does that ends a connection for a rule that was broken."""
    return [("closed", code), "end"]


def pong(payload: bytes) -> object:
    return ("sent", PONG, payload)


def check(sent: bytes, calls: list[object]) -> None:
    """These calls come of these bytes, however they are cut, and nothing comes of what is behind the end."""
    ends = bool(calls) and calls[-1] == "end"
    for pieces in (*cuts_of(sent), *(cuts_of(sent + text("behind")) if ends else ())):
        assert Recorder(largest=LARGEST).read(pieces) == calls, pieces


# Messages.

GOOD = {
    "text": (text("hello"), ["hello"]),
    "bytes": (binary(b"\0\xff"), [b"\0\xff"]),
    "empty text": (text(""), [""]),
    "empty bytes": (binary(b""), [b""]),
    "several messages": (text("a") + binary(b"b") + text("") + text("\u20ac\U0001f600"), ["a", b"b", "", "€😀"]),
    "a mask of zeros": (frame(TEXT, b"hello", mask=b"\0\0\0\0"), ["hello"]),
    "the longest short length": (text("a" * 125), ["a" * 125]),
    "the shortest medium length": (text("a" * 126) + binary(b"b" * 126), ["a" * 126, b"b" * 126]),
    "lengths that take more bytes than they need": (
        frame(TEXT, b"a", encoding=16) + frame(BINARY, b"b", encoding=64) + frame(TEXT, b"", encoding=64),
        ["a", b"b", ""],
    ),
    "the longest message": (text("a" * LARGEST) + binary(bytes(LARGEST)), ["a" * LARGEST, bytes(LARGEST)]),
    "the longest message in fragments": (fragments(TEXT, b"a" * 150, b"b" * 150), ["a" * 150 + "b" * 150]),
    "two fragments": (fragments(TEXT, b"hel", b"lo") + fragments(BINARY, b"a", b"b"), ["hello", b"ab"]),
    "a fragment for each byte": (fragments(BINARY, *[b"x"] * 9) + text("a"), [b"x" * 9, "a"]),
    "a character in fragments": (fragments(TEXT, EURO[:1], EURO[1:2], EURO[2:]), ["€"]),
    "empty fragments": (
        fragments(TEXT, b"", b"", b"") + fragments(BINARY, b"", b"a", b"", b""),
        ["", b"a"],
    ),
    "a message behind one in fragments": (fragments(TEXT, b"a", b"b") + text("c") + binary(b"d"), ["ab", "c", b"d"]),
    "characters at the edges of UTF-8": (
        text("\0\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\ufffe\uffff\U00010000\U0010ffff"),
        ["\0\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\ufffe\uffff\U00010000\U0010ffff"],
    ),
    "a ping": (frame(PING, b"hello"), [pong(b"hello")]),
    "an empty ping": (frame(PING), [pong(b"")]),
    "the longest ping": (frame(PING, b"a" * 125), [pong(b"a" * 125)]),
    "pings between messages": (
        text("a") + frame(PING, b"1") + text("b") + frame(PING, b"2"),
        ["a", pong(b"1"), "b", pong(b"2")],
    ),
    "a pong that nobody asked for": (frame(PONG, b"x") + text("a") + frame(PONG), ["pong", "a", "pong"]),
    "control frames between fragments": (
        frame(TEXT & ~FIN, b"a") + frame(PING, b"1") + frame(0, EURO[:2]) + frame(PONG) + frame(CONTINUATION, EURO[2:]),
        [pong(b"1"), "pong", "a€"],
    ),
}


@pytest.mark.parametrize(("sent", "calls"), GOOD.values(), ids=GOOD)
def test_messages_are_read_however_they_are_cut(sent: bytes, calls: list[object]) -> None:
    check(sent, calls)


@pytest.mark.parametrize("size", [65535, 65536, 200_000])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_long_message_is_read_however_its_head_is_cut(kind: int, size: int) -> None:
    sent = frame(kind, b"a" * size) + text("next")
    message = "a" * size if kind == TEXT else b"a" * size
    for cut in (*range(20), 1000, len(sent) - 12, len(sent) - 11, len(sent) - 10, len(sent)):
        assert Recorder(largest=0).read([sent[:cut], sent[cut:]]) == [message, "next"]
    pieces = [sent[begin : begin + 4099] for begin in range(0, len(sent), 4099)]
    assert Recorder(largest=0).read(pieces) == [message, "next"]


def test_a_message_has_come_with_its_last_byte() -> None:
    for sent, message in (
        (text("hello"), "hello"),
        (text("a" * 200), "a" * 200),
        (fragments(BINARY, b"a", b"b"), b"ab"),
    ):
        reader = Recorder()
        assert reader.read([sent[:-1]]) == []
        assert reader.read([sent[-1:]]) == [message]


def test_what_is_cut_off_by_the_end_is_no_message() -> None:
    for sent in (text("hello"), fragments(TEXT, b"a", b"b"), text("a" * 200), frame(PING, b"a")):
        for cut in range(len(sent)):
            assert Recorder().read([sent[:cut]]) == []


# Broken rules.

BAD = {
    "a fragment of nothing": frame(0, b"a"),
    "a last fragment of nothing": frame(CONTINUATION, b"a"),
    "a fragment of nothing behind a message": fragments(TEXT, b"a", b"b") + frame(CONTINUATION, b"c"),
    "a message within another": frame(TEXT & ~FIN, b"a") + text("b"),
    "bytes within text": frame(TEXT & ~FIN, b"a") + binary(b"b"),
    "the beginning of a message within another": frame(BINARY & ~FIN, b"a") + frame(BINARY & ~FIN, b"b"),
    "a ping in fragments": frame(PING & ~FIN, b"a"),
    "a pong in fragments": frame(PONG & ~FIN),
    "a close in fragments": frame(CLOSE & ~FIN, close_payload(1000)),
    "a ping that is too long": frame(PING, b"a" * 126),
    "a pong that is too long": frame(PONG, b"a" * 126),
    "a close that is too long": frame(CLOSE, close_payload(1000, "a" * 124)),
    "a close with half a code": frame(CLOSE, b"\x03"),
} | {
    f"the reserved bits {bits:#x} with {kind:#x}": frame(kind | bits, b"ab")
    for kind in (TEXT, BINARY, PING, PONG, TEXT & ~FIN)
    for bits in (0x10, 0x20, 0x40, 0x70)
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_a_frame_that_breaks_a_rule_ends_it_with_1002(sent: bytes) -> None:
    calls = Recorder(largest=LARGEST).read([sent])
    assert calls[-2:] == closed(1002)
    check(sent, calls)
    check(text("before") + sent, ["before", *calls])


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x40])
def test_a_reserved_bit_between_fragments_ends_it_with_1002(bits: int) -> None:
    check(frame(TEXT & ~FIN, b"a") + frame(CONTINUATION | bits, b"b"), closed(1002))
    check(frame(TEXT & ~FIN, b"a") + frame(CLOSE | bits, close_payload(1000)), closed(1002))


@pytest.mark.unmeasured
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("length", [0, 5, 126, 127])
def test_an_unknown_opcode_ends_it_with_its_second_byte(opcode: int, length: int) -> None:
    for fin in (0, FIN):
        check(bytes((fin | opcode, 0x80 | length)), closed(1002))
        check(frame(TEXT & ~FIN, b"a") + bytes((fin | opcode, 0x80 | length)), closed(1002))


@pytest.mark.parametrize("kind", [TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [0, 5, 126, 127])
def test_a_frame_without_mask_ends_it_with_its_second_byte(kind: int, length: int) -> None:
    check(bytes((kind, length)), closed(1002))
    check(frame(TEXT & ~FIN, b"a") + bytes((kind, length)), closed(1002))


# Text that is none.

NO_UTF_8 = [
    b"\x80",
    b"\xbf\x80",
    b"\xff",
    b"\xc0\xaf",  # longer than it needs
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",  # beyond the last character
    b"\xf8\x88\x80\x80\x80",
    b"\xce\xbaa\xce",  # the end within a character
    EURO[:2],
]


@pytest.mark.unmeasured
@pytest.mark.parametrize("bad", NO_UTF_8)
def test_text_that_is_not_utf_8_ends_it_with_1007(bad: bytes) -> None:
    check(frame(TEXT, bad), closed(1007))
    check(frame(TEXT, b"good" + bad), closed(1007))
    check(frame(TEXT, b"a" * 150 + bad), closed(1007))
    check(fragments(TEXT, b"good", bad), closed(1007))


@pytest.mark.unmeasured
@pytest.mark.parametrize("bad", NO_UTF_8)
def test_text_that_is_not_utf_8_may_be_split_anywhere(bad: bytes) -> None:
    for split in range(len(bad) + 1):
        check(fragments(TEXT, b"good" + bad[:split], bad[split:]), closed(1007))
        check(fragments(TEXT, b"good" + bad[:split], b"", bad[split:]), closed(1007))


@pytest.mark.parametrize("bad", [bad for bad in NO_UTF_8 if bad[-1] not in (0xCE, EURO[1])])
def test_text_ends_it_with_the_first_fragment_that_makes_it_bad(bad: bytes) -> None:
    for split in range(len(bad)):
        check(frame(TEXT & ~FIN, b"good" + bad[:split]) + frame(0, bad[split:]), closed(1007))


def test_bytes_may_be_no_utf_8() -> None:
    check(fragments(BINARY, b"\xff", EURO[:2]), [b"\xff" + EURO[:2]])


# Closing.


@pytest.mark.parametrize(
    "code", [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_is_answered_with_its_code(code: int | None) -> None:
    check(close(code), closed(1005 if code is None else code))


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_no_client_may_send_ends_it_with_1002(code: int) -> None:
    check(close(code), closed(1002))
    check(frame(TEXT & ~FIN, b"a") + close(code), closed(1002))


@pytest.mark.parametrize("reason", ["why", "\u20ac", "a" * 123])
def test_a_close_is_echoed_with_its_reason(reason: str) -> None:
    for pieces in cuts_of(close(4000, reason)):
        reader = Recorder()
        reader.read(pieces)
        assert reader.raw == [frame(CLOSE, close_payload(4000, reason), mask=b"")]


@pytest.mark.parametrize("bad", NO_UTF_8)
def test_a_reason_that_is_not_utf_8_ends_it_with_1007(bad: bytes) -> None:
    check(frame(CLOSE, close_payload(1000) + bad), closed(1007))
    check(frame(TEXT & ~FIN, b"a") + frame(CLOSE, close_payload(1000) + bad), closed(1007))


@pytest.mark.parametrize("code", [None, 1000, 4000])
def test_a_close_is_answered_between_fragments_too(code: int | None) -> None:
    check(frame(TEXT & ~FIN, b"a") + close(code), closed(code or 1005))
    check(frame(BINARY & ~FIN, b"a") + frame(PING) + frame(0, b"b") + close(code), [pong(b""), *closed(code or 1005)])


# Messages that are too long.


@pytest.mark.parametrize("kind", [TEXT, BINARY, TEXT & ~FIN])
@pytest.mark.parametrize(
    ("size", "encoding"), [(101, 7), (101, 16), (65535, 16), (101, 64), (65536, 64), (2**63 - 1, 64), (2**64 - 1, 64)]
)
def test_a_message_that_is_too_long_ends_it_with_its_length(kind: int, size: int, encoding: int) -> None:
    begin = head(kind, size, encoding=encoding)
    for before, calls in ((b"", []), (text("before"), ["before"])):
        for pieces in cuts_of(before + begin):
            reader = Recorder(largest=100)
            assert reader.read(pieces) == calls + closed(1009)


def test_fragments_that_are_too_long_together_end_it_with_the_length_of_the_last() -> None:
    for middle in (b"", frame(PING, b"ping")):
        sent = frame(TEXT & ~FIN, b"a" * 60) + frame(0, b"") + middle + head(CONTINUATION, 41)
        for pieces in cuts_of(sent):
            assert Recorder(largest=100).read(pieces)[-2:] == closed(1009)


@pytest.mark.parametrize("largest", [1, 124, 125, 126, 127, 1000])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_the_bound_of_a_message_is_exact(kind: int, largest: int) -> None:
    message = "a" * largest if kind == TEXT else b"a" * largest
    assert Recorder(largest=largest).read([frame(kind, b"a" * largest)]) == [message]
    assert Recorder(largest=largest).read([fragments(kind, b"a" * (largest - 1), b"a")]) == [message]
    assert Recorder(largest=largest).read([frame(kind, b"a" * (largest + 1))]) == closed(1009)
    assert Recorder(largest=largest).read([fragments(kind, b"a" * largest, b"a")]) == closed(1009)


def test_a_compressed_frame_ends_it_where_no_compression_was_agreed() -> None:
    check(frame(TEXT | COMPRESSED, b"\xf2\x48\xcd\xc9\xc9\x07\0"), closed(1002))
