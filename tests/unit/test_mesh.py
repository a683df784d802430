"""Frames of workers: whatever pieces they come in, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvicorn_worker.broadcast.mesh import (
    HELLO,
    MESSAGE,
    MISSED,
    FrameReader,
    MeshError,
    frame,
    missed_frame,
    read_missed,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FRAMES = st.lists(st.tuples(st.sampled_from((HELLO, MESSAGE, MISSED)), NAMES, st.binary(max_size=50)))


@pytest.mark.unmeasured
@given(FRAMES, st.data())
def test_frames_are_the_same_however_they_are_cut(frames: list[tuple[int, str, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(*each) for each in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, read = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[begin:end])
    assert read == frames


@given(st.binary(), st.integers(1, 20))
def test_garbage_is_frames_an_error_or_not_whole(data: bytes, step: int) -> None:
    reader = FrameReader()
    try:
        for begin in range(0, len(data), step):
            for kind, name, body in reader.feed(data[begin : begin + step]):
                assert kind in (HELLO, MESSAGE, MISSED)
                assert len(name) + len(body) <= len(data)
    except MeshError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\0\0\0",  # no kind
        b"\0\0\0\0\4\0\0",
        b"\0\0\0\1\2\0\2",  # a name that is longer than what it is in
        b"\xff\xff\xff\xff\2\0\0",  # too long
        b"\0\0\0\1\2\0\1\xff",  # no text
    ],
)
def test_what_is_no_frame_is_an_error_as_soon_as_it_can_be_told(data: bytes) -> None:
    with pytest.raises(MeshError):
        list(FrameReader().feed(data))


def test_frames_before_the_error_are_read() -> None:
    reader = FrameReader()
    read = []
    with pytest.raises(MeshError):
        for each in reader.feed(frame(HELLO, "me") + frame(MESSAGE, "chat", b"x") + b"garbage"):
            read.append(each)
    assert read == [(HELLO, "me", b""), (MESSAGE, "chat", b"x")]


def test_the_pieces_of_a_frame_are_joined_once() -> None:
    reader = FrameReader()
    data = frame(MESSAGE, "chat", bytes(100_000))
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    for piece in pieces[:-1]:
        assert not list(reader.feed(piece))
    assert all(kept is piece for kept, piece in zip(reader._pieces, pieces[:-1], strict=True))
    [(_, _, body)] = reader.feed(pieces[-1])
    assert body == bytes(100_000)


@pytest.mark.parametrize("groups", [None, frozenset(), frozenset({"chat", "ä"})])
def test_groups_that_were_missed_are_told(groups: frozenset[str] | None) -> None:
    [(kind, name, body)] = FrameReader().feed(missed_frame(groups))
    assert (kind, name, read_missed(body)) == (MISSED, "", groups)
