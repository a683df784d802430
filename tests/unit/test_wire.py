"""Heads as bytes."""

from __future__ import annotations

from typing import Any

import pytest

from uvicorn_worker.errors import InvalidReply
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.wire import Prefixes, encode_fields

NAME_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
NO_NAME_BYTES = b"\0\t\r\n \"(),/:;<=>?@[\\]{}\x7f\x80\xff"


def test_fields_become_lines_as_they_were_given() -> None:
    lines, decisive = encode_fields([(b"X-A", b"b"), [b"x-a", b""], (b"x-c", b" d \t")])
    assert lines == b"X-A: b\r\nx-a: \r\nx-c:  d \t\r\n"
    assert decisive == {}


def test_fields_that_decide_are_told_apart() -> None:
    given = [
        (b"Content-Length", b"5"),
        (b"x", b"y"),
        (b"content-length", b"6"),
        (b"Transfer-Encoding", b"chunked"),
        (b"CONNECTION", b"close"),
        (b"Date", b"today"),
        (b"server", b"mine"),
    ]
    lines, decisive = encode_fields(given)
    assert lines == b"x: y\r\nDate: today\r\nserver: mine\r\n"
    assert decisive == {
        b"content-length": [b"5", b"6"],
        b"transfer-encoding": [b"chunked"],
        b"connection": [b"close"],
        b"date": [b"today"],
        b"server": [b"mine"],
    }


@pytest.mark.parametrize("byte", NAME_BYTES)
def test_a_byte_of_a_name(byte: int) -> None:
    name = b"x" + bytes([byte])
    assert encode_fields([(name, b"")])[0] == name + b": \r\n"


@pytest.mark.parametrize("byte", NO_NAME_BYTES)
@pytest.mark.parametrize("decisive", [b"x", b"date"])
def test_a_byte_of_no_name(byte: int, decisive: bytes) -> None:
    for name in (decisive + bytes([byte]), bytes([byte]) + decisive, bytes([byte])):
        with pytest.raises(InvalidReply, match="name of a response header"):
            encode_fields([(name, b"")])


@pytest.mark.parametrize("byte", b"\t !\"\x7f\x80\xff~")
def test_a_byte_of_a_value(byte: int) -> None:
    value = b"a" + bytes([byte]) + b"b"
    assert encode_fields([(b"x", value)])[0] == b"x: " + value + b"\r\n"


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\0b", b"\r\n", b"\n", b"a\r\nb: c"])
@pytest.mark.parametrize("name", [b"x", b"date", b"Connection", b"content-length"])
def test_a_value_that_would_break_out_of_its_line(name: bytes, value: bytes) -> None:
    for _ in range(2):  # An error is not remembered as a line.
        with pytest.raises(InvalidReply, match="value of a response header"):
            encode_fields([(b"fine", b"fine"), (name, value)])


@pytest.mark.parametrize(
    "fields",
    [
        [("x", b"y")],
        [(b"x", "y")],
        [(b"x", None)],
        [(None, b"y")],
        [(b"x", 5)],
        [(b"x", bytearray(b"y"))],
        [(b"x",)],
        [(b"x", b"y", b"z")],
        [b"xy"],
        [None],
        ["xy"],
        5,
    ],
)
def test_what_is_no_pair_of_bytes(fields: Any) -> None:
    with pytest.raises(InvalidReply):
        encode_fields(fields)


def test_an_error_shows_no_more_than_a_part_of_a_value() -> None:
    with pytest.raises(InvalidReply) as refusal:
        encode_fields([(b"x", b"\n" * 100_000)])
    assert len(str(refusal.value)) < 300


def test_lines_that_are_remembered_are_bounded() -> None:
    for number in range(5000):
        encode_fields([(b"x-%d" % number, b"y"), (b"x", b"%d" % number)])
        encode_fields([(b"x", b"y" * number)])
    assert len(wire.LINES) <= 1024
    assert all(len(line) < 300 for line in wire.LINES.values())
    assert encode_fields([(b"x-4999", b"y")])[0] == b"x-4999: y\r\n"


def test_lengths_are_remembered_within_bounds() -> None:
    for length in range(0, 1_000_000, 97):
        assert wire.LAST_LENGTH_LINES[length] == b"content-length: %d\r\n\r\n" % length
    assert len(wire.LAST_LENGTH_LINES) <= 1024


# What responses begin with.


def test_every_status_that_can_be_sent_has_its_line() -> None:
    assert set(wire.STATUS_LINES) == set(range(100, 600))
    assert wire.STATUS_LINES[200] == b"HTTP/1.1 200 OK\r\n"
    assert wire.STATUS_LINES[418] == b"HTTP/1.1 418 I'm a Teapot\r\n"
    assert wire.STATUS_LINES[599] == b"HTTP/1.1 599 \r\n"  # RFC 9112 section 4: the space stays.


def test_a_prefix_has_the_server_the_date_and_the_fields_of_every_response() -> None:
    prefixes = Prefixes(b"mine", ((b"x-a", b"b"), (b"x-c", b"d")), True)
    prefixes.refresh(b"today")
    expected = b"HTTP/1.1 404 Not Found\r\nserver: mine\r\ndate: today\r\nx-a: b\r\nx-c: d\r\n"
    assert prefixes[404] == prefixes[404] == expected


def test_a_prefix_follows_the_date() -> None:
    prefixes = Prefixes(b"", (), True)
    prefixes.refresh(b"today")
    assert prefixes[200] == b"HTTP/1.1 200 OK\r\ndate: today\r\n"
    prefixes.refresh(b"tomorrow")
    assert prefixes[200] == b"HTTP/1.1 200 OK\r\ndate: tomorrow\r\n"


def test_server_and_date_may_be_left_out() -> None:
    prefixes = Prefixes(b"", (), False)
    prefixes.refresh(b"today")
    assert prefixes[200] == b"HTTP/1.1 200 OK\r\n"


def test_a_prefix_leaves_out_what_the_application_gives() -> None:
    prefixes = Prefixes(b"mine", ((b"x-a", b"b"),), True)
    prefixes.refresh(b"today")
    line = b"HTTP/1.1 200 OK\r\n"
    assert prefixes.beside(200, {b"date"}) == line + b"server: mine\r\nx-a: b\r\n"
    assert prefixes.beside(200, {b"server"}) == line + b"date: today\r\nx-a: b\r\n"
    assert prefixes.beside(200, {b"server", b"date", b"content-length"}) == line + b"x-a: b\r\n"
    assert prefixes.beside(200, {b"content-length"}) == prefixes[200]


@pytest.mark.parametrize("status", [99, 600, 0, -200, "200", b"200", None, 200.5, True])
def test_a_status_that_can_not_be_sent_has_no_prefix(status: Any) -> None:
    prefixes = Prefixes(b"", (), False)
    with pytest.raises(InvalidReply, match="status must be a whole number from 100 to 599"):
        prefixes[status]


def test_a_refusal_is_a_line_of_plain_text_and_the_end() -> None:
    prefix = b"HTTP/1.1 400 Bad Request\r\nserver: mine\r\n"
    head = prefix + b"content-type: text/plain; charset=utf-8\r\ncontent-length: 13\r\nconnection: close\r\n\r\n"
    assert wire.refusal(prefix, "Missing Host", with_body=True) == head + b"Missing Host\n"
    assert wire.refusal(prefix, "Missing Host", with_body=False) == head
