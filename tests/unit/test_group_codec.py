"""Messages of groups as bytes, and back; what has come is trusted in nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uvicorn_worker.broadcast.codec import decode, encode
from uvicorn_worker.errors import InvalidGroupMessage

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)
ALONE = st.fixed_dictionaries({"text": TEXT}) | st.fixed_dictionaries({"bytes": st.binary()})
MESSAGES = st.dictionaries(TEXT, VALUES) | ALONE


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same kinds."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@pytest.mark.unmeasured
@given(MESSAGES)
@example({})
@example({"text": "", "bytes": b"", "close": 4000, "headers": [[b"a", b"b"]]})
@example({"number": -(10**40), "bytes": b"x"})
def test_every_message_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert same(decode(encode(message)), message)


def has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_bytes, value.values()))
    return any(map(has_bytes, value)) if isinstance(value, list) else isinstance(value, bytes)


@pytest.mark.unmeasured
@given(MESSAGES)
def test_a_message_travels_as_json_wherever_json_can_carry_it(message: dict[str, Any]) -> None:
    body = encode(message)
    if has_bytes(message) or any(map(is_endless, walk(message))):
        assert body[0] in (1, 2)
    else:
        assert same(json.loads(body), message)


def walk(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(item for part in inner for item in walk(part))]


def is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def test_text_is_json_that_a_person_would_write() -> None:
    assert encode({"text": 'häh? "so"\n'}) == '{"text":"häh? \\"so\\"\\n"}'.encode()
    assert encode({"close": True, "reason": "x"}) == b'{"close":true,"reason":"x"}'


@pytest.mark.parametrize("text", ['a"b', 'a","close":"1', "a\\nb", "a\nb", "a\x00b", "a\x7fb", "\xa0", "ä€", "", " "])
def test_text_is_read_the_short_way_only_where_that_is_the_same(text: str) -> None:
    body = f'{{"text":"{text}"}}'.encode()
    try:
        expected = json.loads(body)
    except ValueError:
        with pytest.raises(InvalidGroupMessage):
            decode(body)
    else:
        assert decode(body) == expected


def test_json_of_other_programs_is_a_message() -> None:
    assert decode(b' {"text": "hi",\n "more": [1, 2.5, null, true]} ') == {"text": "hi", "more": [1, 2.5, None, True]}


def test_bytes_alone_cost_one_byte() -> None:
    assert encode({"bytes": b"\x00\xff"}) == b"\x01\x00\xff"


def test_what_is_no_number_comes_back() -> None:
    assert math.isnan(decode(encode({"x": math.nan}))["x"])
    assert decode(encode({"x": [math.inf, -math.inf]})) == {"x": [math.inf, -math.inf]}


def test_tuples_come_back_as_lists_and_what_holds_bytes_as_bytes() -> None:
    message = {"status": 200, "headers": ((b"a", bytearray(b"b")),), "content": memoryview(b"c")}
    assert decode(encode(message)) == {"status": 200, "headers": [[b"a", b"b"]], "content": b"c"}


@pytest.mark.parametrize(
    "message",
    [
        "text",
        None,
        [("text", "x")],
        {"text": object()},
        {"text": {1, 2}},
        {"x": [1j]},
        {1: "x"},
        {"x": {None: 1}},
        {"x": {b"y": 1}, "bytes": b""},
        {"text": "\ud800"},
        {"x": ["\ud800"]},
        {"x": "\udcff", "bytes": b""},
        {"\udcff": b""},
        {"x": 10**5000},
        {"x": 10**5000, "bytes": b""},
    ],
)
def test_what_can_not_be_sent_is_an_error_that_says_so(message: Any) -> None:
    with pytest.raises(InvalidGroupMessage):
        encode(message)


@pytest.mark.parametrize("leaf", ["text", b"bytes"])
def test_what_contains_itself_or_is_too_deep_is_an_error(leaf: object) -> None:
    endless: list[Any] = [leaf]
    endless.append(endless)
    with pytest.raises(InvalidGroupMessage):
        encode({"x": endless})
    deep: list[Any] = [leaf]
    for _ in range(100):
        deep = [deep]
    with pytest.raises(InvalidGroupMessage):
        encode({"x": deep})


@given(st.binary() | st.binary().map(b"\x02m".__add__))
@example(b"")
@example(b'{"text":"}')
@example(b'{"text":"\xff"}')
@example(b"\x02m\xff\xff\xff\xff")
@example(b"\x02m\x00\x00\x00\x01\x00\x00\x00\x01xl\xff\xff\xff\xff")
@example(b"\x02" + b"l\x00\x00\x00\x01" * 2000)
@example(b"[" * 100_000)
@example(b'{"x":' * 100_000)
@example(b'{"x": NaN}')
@example(b'{"x": 1%s}' % (b"0" * 5000))
@example(b"\xff\xfe{\x00}\x00")
@example(b"\x02m\x00\x00\x00\x01\x00\x00\x00\x01xi\x00\x00\x00\x02 1")
@example(b"\x02m\x00\x00\x00\x01\x00\x00\x00\x01xi\x00\x00\x00\x00")
def test_hostile_bytes_are_a_message_or_an_error(body: bytes) -> None:
    try:
        message = decode(body)
    except InvalidGroupMessage:
        return
    assert isinstance(message, dict)
    assert all(isinstance(key, str) for key in message)


@given(MESSAGES, st.data())
def test_a_part_of_an_envelope_is_none(message: dict[str, Any], data: st.DataObject) -> None:
    body = encode({**message, "more": b"x"})
    part = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(InvalidGroupMessage):
        decode(part)
    with pytest.raises(InvalidGroupMessage):
        decode(body + b"x")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"\x02n", b"\x02l\x00\x00\x00\x00", b"\x03x", b"{}{}"])
def test_what_is_no_object_is_no_message(body: bytes) -> None:
    with pytest.raises(InvalidGroupMessage):
        decode(body)
