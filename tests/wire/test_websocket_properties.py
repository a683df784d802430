"""What holds for any frames, however they are cut: the short ways of the reader and the library agree."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .harness import Worker, run, turn
from .reader_recorder import Recorder, Slow
from .survival import ENDS, try_frames
from .test_properties import cut_places, split
from .websocket_client import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    DEFLATE,
    FIN,
    PING,
    PONG,
    TEXT,
    TalkBack,
    close,
    connect,
    frame,
    head,
)

pytestmark = pytest.mark.unmeasured

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)

#: The longest message that the readers take.
LARGEST = 260

EURO = "\u20ac".encode()

payloads = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(str.encode),
    st.sampled_from([b"", b"a" * 124, b"a" * 125, b"a" * 126, EURO * 80, b"a" * LARGEST, b"a" * (LARGEST + 1)]),
    st.sampled_from([EURO[:1], EURO[1:], EURO[:2], EURO[2:], b"a\xff", b"\xed\xa0\x80", b"\xf4\x90"]),
)
masks = st.binary(min_size=4, max_size=4)


def plain(kind: int, payload: bytes, mask: bytes, encoding: int) -> bytes:
    fits = encoding != 7 or len(payload) < 126
    return frame(kind, payload, mask=mask, encoding=encoding if fits else 0)


def some(*kinds: int) -> st.SearchStrategy[bytes]:
    return st.builds(plain, st.sampled_from(kinds), payloads, masks, st.sampled_from([0, 0, 0, 7, 16, 64]))


def compressed(kind: int, content: bytes, cuts: list[float], pings: bool, full: bool) -> bytes:
    """A compressed message, in fragments where there are cuts."""
    packer = zlib.compressobj(wbits=-9)
    data = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH if full else zlib.Z_SYNC_FLUSH)
    pieces = split(data.removesuffix(b"\0\0\xff\xff"), cuts) or [b""]
    kinds = [kind & ~FIN | COMPRESSED, *[0] * (len(pieces) - 1)]
    kinds[-1] |= FIN
    between = frame(PING, b"between") if pings else b""
    return between.join(map(frame, kinds, pieces))


def begun(kind: int, size: int, encoding: int) -> bytes:
    """A head, with no payload behind it, that may say more than its encoding has room for."""
    return head(kind, size if encoding != 7 else size % 126, encoding=encoding) + b"mask"


good = st.one_of(
    some(TEXT, BINARY),
    some(TEXT, BINARY, PING, PONG),
    some(TEXT & ~FIN, BINARY & ~FIN, 0, CONTINUATION),
    st.builds(
        lambda kind, parts, end: frame(kind, parts[0]) + b"".join(frame(0, part) for part in parts[1:]) + end,
        st.sampled_from([TEXT & ~FIN, BINARY & ~FIN]),
        st.lists(payloads, min_size=1, max_size=4),
        some(CONTINUATION),
    ),
    st.builds(
        compressed,
        st.sampled_from([TEXT, BINARY]),
        st.one_of(payloads, st.just(b"a" * 5000)),
        st.lists(st.floats(0, 1), max_size=2),
        st.booleans(),
        st.booleans(),
    ),
)
bad = st.one_of(
    st.builds(close, st.sampled_from([None, 0, 999, 1000, 1005, 1006, 3000, 4999, 5000]), st.text(max_size=5)),
    some(CLOSE, CLOSE & ~FIN, PING & ~FIN),
    st.builds(lambda kind, payload: frame(kind, payload, mask=b""), st.sampled_from([TEXT, BINARY, PING]), payloads),
    st.builds(plain, st.integers(0, 255), payloads, masks, st.sampled_from([0, 16, 64])),
    st.builds(begun, st.sampled_from([TEXT, BINARY, 0, CONTINUATION]), st.integers(0, 2**16 - 1), st.just(16)),
    st.builds(begun, st.sampled_from([TEXT, BINARY, 0, CONTINUATION]), st.integers(0, 2**64 - 1), st.just(64)),
    st.binary(max_size=10),
)
#: Frames, one by one or a few together.
conversations = st.builds(
    lambda before, middle, after: [*before, *middle, *after],
    st.lists(good, max_size=8),
    st.lists(bad, max_size=1),
    st.lists(good, max_size=3),
)


@quick
@given(conversations, cut_places, st.booleans(), st.booleans(), st.floats(0.5, 2))
@example([frame(TEXT, b"a" * LARGEST), frame(TEXT & ~FIN, EURO[:1]), close(1000)], [0.99], True, False, 1.0)
@example([frame(BINARY & ~FIN, b"a" * LARGEST), head(CONTINUATION, 1)], [], False, False, 1.0)
@example([frame(TEXT & ~FIN, b"a"), frame(TEXT, b"b")], [], False, False, 1.0)
def test_the_short_ways_and_the_library_agree(
    frames: list[bytes], cuts: list[float], deflate: bool, takeover: bool, truncated: float
) -> None:
    sent = b"".join(frames)
    sent = sent[: round(truncated * len(sent))]
    options: dict[str, Any] = {"largest": LARGEST, "deflate": deflate, "takeover": takeover}
    for pieces in (split(sent, cuts), [sent], frames, [sent[i : i + 1] for i in range(len(sent))]):
        short, slow = Recorder(**options), Slow(**options)
        assert short.read(pieces) == slow.read(pieces)
        assert short.raw == slow.raw


@quick
@given(conversations, cut_places, st.booleans(), st.booleans())
def test_what_comes_of_frames_is_the_same_however_they_are_cut(
    frames: list[bytes], cuts: list[float], deflate: bool, takeover: bool
) -> None:
    sent = b"".join(frames)
    options: dict[str, Any] = {"largest": LARGEST, "deflate": deflate, "takeover": takeover}
    whole = Recorder(**options)
    whole.read([sent])
    for pieces in (split(sent, cuts), frames, [sent[i : i + 1] for i in range(len(sent))]):
        cut = Recorder(**options)
        cut.read(pieces)
        assert cut.calls == whole.calls
        assert cut.raw == whole.raw


@quick
@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.text(max_size=200).map(str.encode)), max_size=6),
    st.lists(st.floats(0, 1), max_size=3),
    st.booleans(),
)
def test_every_good_message_is_read(messages: list[tuple[int, bytes]], cuts: list[float], is_compressed: bool) -> None:
    sent, expected = b"", []
    for kind, content in messages:
        if is_compressed:
            sent += compressed(kind, content, cuts, False, False)
        else:
            pieces = split(content, cuts) or [b""]
            kinds = [kind & ~FIN, *[0] * (len(pieces) - 1)]
            kinds[-1] |= FIN
            sent += b"".join(map(frame, kinds, pieces))
        expected.append(content.decode() if kind == TEXT else content)
    reader = Recorder(deflate=True)
    assert reader.read(split(sent, cuts)) == expected


async def talk(pieces: list[bytes], slowly: bool, end: str, **options: Any) -> list[Any]:
    """The messages that the application was called with, between the handshake and the one disconnect."""
    app = TalkBack()
    worker = Worker(app, options)
    socket = await connect(worker, "/", DEFLATE)
    for piece in pieces:
        socket.send(piece)
        if slowly:
            await turn(2)
    await turn(200)
    if end == "time":
        await worker.wait(80)
    else:
        getattr(socket.client, end)()
        await turn(30)
    assert socket.client.transport.lost
    assert not worker.service.running
    assert app.calls[0] == "connect"
    assert [call for call in app.calls if type(call) is tuple] == [app.calls[-1]]
    await worker.close()
    return app.calls[1:-1]


@settings(quick, max_examples=100)
@given(conversations, cut_places, st.booleans(), st.sampled_from(ENDS), st.integers(1, 3))
def test_any_frames_are_survived(
    frames: list[bytes], cuts: list[float], slowly: bool, end: str, calls: int
) -> None:
    """Each ends with one disconnect, and a small bound of unfinished calls loses nothing."""
    sent = b"".join(frames)
    whole = run(talk([sent], False, "reset", ws_max_size=LARGEST))
    assert run(talk(split(sent, cuts), slowly, end, ws_max_size=LARGEST, ws_max_queue=calls)) == whole


@settings(quick, max_examples=100)
@given(st.data())
def test_changed_frames_are_survived_and_what_is_answered_is_well_formed(data: Any) -> None:
    try_frames(lambda number: data.draw(st.integers(0, number - 1)))
