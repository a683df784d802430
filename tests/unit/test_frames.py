"""Frames as bytes."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.websocket.frames import BINARY, TEXT, begins_badly, check_close, find_payload, head

MASK = b"mask"
SIZES = [0, 1, 124, 125, 126, 127, 128, 65535, 65536, 65537]
KNOWN_OPCODES = [0x0, 0x1, 0x2, 0x8, 0x9, 0xA]


def masked(size: int, *, first: int = TEXT) -> bytes:
    """The head of a client's frame with a payload of so many bytes, and its mask."""
    begin = head(first, size)
    return bytes((begin[0], begin[1] | 0x80)) + begin[2:] + MASK


# A head of the server's.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "opcode"), [(TEXT, Opcode.TEXT), (BINARY, Opcode.BINARY)])
def test_a_head_is_what_the_library_would_send(kind: int, opcode: Opcode, size: int) -> None:
    assert head(kind, size) + bytes(size) == Frame(opcode, bytes(size)).serialize(mask=False)


# Where a payload is.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_payload_is_found_wherever_its_frame_begins(size: int, before: int) -> None:
    begin = before + len(masked(size))
    assert find_payload(b"x" * before + masked(size), before) == (begin, begin + size)
    assert find_payload(b"x" * before + masked(size) + b"behind", before) == (begin, begin + size)


@pytest.mark.parametrize("size", SIZES)
def test_a_payload_is_found_as_soon_as_its_length_is_there(size: int) -> None:
    whole = masked(size)
    length_ends = len(whole) - len(MASK)
    for known in range(length_ends):
        assert find_payload(b"x" + whole[:known], 1) is None
    for known in range(length_ends, len(whole)):
        assert find_payload(b"x" + whole[:known], 1) == (1 + len(whole), 1 + len(whole) + size)


def test_a_payload_without_a_mask_begins_behind_its_length() -> None:
    assert find_payload(head(TEXT, 5), 0) == (2, 7)
    assert find_payload(head(TEXT, 126), 0) == (4, 130)
    assert find_payload(head(TEXT, 65536), 0) == (10, 65546)


def test_a_length_may_take_more_bytes_than_it_needs() -> None:
    assert find_payload(b"\x81\xfe\0\x05" + MASK, 0) == (8, 13)
    assert find_payload(b"\x81\xff\0\0\0\0\0\0\0\x05" + MASK, 0) == (14, 19)


def test_the_longest_length_is_read() -> None:
    assert find_payload(b"\x81\xff" + b"\xff" * 8 + MASK, 0) == (14, 14 + 2**64 - 1)


# What no client may send.


@pytest.mark.parametrize("first", range(256))
def test_an_unknown_opcode_is_seen_by_the_first_two_bytes(first: int) -> None:
    assert begins_badly(b"\0" + bytes((first, 0x80)), 1) is (first & 0x0F not in KNOWN_OPCODES)


@pytest.mark.parametrize("opcode", KNOWN_OPCODES)
def test_a_frame_without_mask_is_seen_by_the_first_two_bytes(opcode: int) -> None:
    for length in (0, 125, 126, 127):
        assert begins_badly(bytes((opcode, length)), 0)
        assert not begins_badly(bytes((opcode, length | 0x80)), 0)


# Close codes that an application can send.


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_code_that_can_be_sent(code: int) -> None:
    assert check_close(code, "why") == (code, "why")


@pytest.mark.parametrize("code", [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535, 65536, 2**70])
def test_a_code_that_can_not_be_sent_is_named(code: int) -> None:
    with pytest.raises(InvalidReply, match=f"can't be closed with {code}: codes are"):
        check_close(code, "why")


@pytest.mark.parametrize("code", [False, True, None, "1000", 1000.0, b"\x03\xe8", [1000]])
def test_a_code_is_a_whole_number(code: Any) -> None:
    with pytest.raises(InvalidReply, match="close must be true or a code"):
        check_close(code, "")


@pytest.mark.parametrize("reason", [None, b"why", 5, ["why"]])
def test_a_reason_is_text(reason: Any) -> None:
    with pytest.raises(InvalidReply, match="reason of a close must be a str"):
        check_close(1000, reason)


def test_a_reason_that_utf_8_can_not_carry_is_refused() -> None:
    with pytest.raises(InvalidReply, match="can't be closed with 1000"):
        check_close(1000, "\ud800")


@pytest.mark.parametrize(("longest", "longer"), [("a" * 123, "a" * 124), ("\u20ac" * 41, "\u20ac" * 41 + "a")])
def test_a_reason_has_room_in_a_control_frame(longest: str, longer: str) -> None:
    assert check_close(1000, longest) == (1000, longest)
    with pytest.raises(InvalidReply, match="123 bytes at most, and not 124"):
        check_close(1000, longer)
