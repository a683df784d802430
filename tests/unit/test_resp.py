"""Commands as bytes, and answers about servers and slots."""

from __future__ import annotations

from typing import Any

import pytest

from uvicorn_worker.broadcast import resp


def test_a_command_is_its_words_with_their_sizes() -> None:
    assert resp.pack(b"PUBLISH", b"", b"\r\n\0") == b"*3\r\n$7\r\nPUBLISH\r\n$0\r\n\r\n$3\r\n\r\n\0\r\n"


@pytest.mark.parametrize(
    ("channel", "slot"),
    [
        (b"123456789", 12739),  # the specification's example: CRC16 is 0x31C3
        (b"foo", 12182),
        (b"{foo}.bar", 12182),
        (b"a{foo}{bar}", 12182),
        (b"{}foo", resp.slot_of(b"{}foo")),
        (b"", 0),
    ],
)
def test_the_slot_of_a_channel_is_that_of_its_part_in_braces(channel: bytes, slot: int) -> None:
    assert resp.slot_of(channel) == slot


def test_braces_without_content_are_a_part_of_the_name() -> None:
    assert resp.slot_of(b"{}foo") != resp.slot_of(b"foo") != resp.slot_of(b"{foo")


def test_each_slot_has_the_master_that_is_told() -> None:
    masters = resp.read_slots(
        [[0, 1, [b"a", 1, b"id"], [b"replica", 2, b"id"]], [16383, 16383, [b"", 3, b"id", []]]], "asked"
    )
    assert masters[:3] == [("a", 1), ("a", 1), None]
    assert masters[-1] == ("asked", 3)
    assert resp.known(masters) == {("a", 1), ("asked", 3)}


@pytest.mark.parametrize("answer", [None, b"OK", [1], [[0, 1]], [[0, 1, b"a"]], [[0, 99999, [b"a", 1]]]])
def test_what_tells_no_slots_is_an_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="slots of a cluster|CLUSTER SLOTS"):
        resp.read_slots(answer, "asked")


@pytest.mark.parametrize(
    ("role", "answer"), [([b"slave", b"h", 1, b"connected", 0], True), ([b"master", 0, []], False), (None, False)]
)
def test_only_a_replica_is_none_to_send_to(role: Any, answer: bool) -> None:
    assert resp.is_replica(role) is answer
