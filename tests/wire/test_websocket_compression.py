"""Compression of messages (RFC 7692), with the library's own client at the other end where that is not the point."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from .conftest import Serve
from .harness import turn
from .reader_recorder import Recorder, cuts_of
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
    Sends,
    TalkBack,
    WebSocket,
    close_payload,
    connect,
    fragments,
    frame,
    text,
)

LONG = b"".join(b"%d green bottles " % number for number in range(200))
TAIL = b"\0\0\xff\xff"


def deflate(data: bytes, *, bits: int = 15, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """The payload of a compressed message that refers to none before it."""
    packer = zlib.compressobj(wbits=-bits)
    return (packer.compress(data) + packer.flush(flush)).removesuffix(TAIL)


def inflate(data: bytes, *, bits: int = 15) -> bytes:
    return zlib.decompressobj(wbits=-bits).decompress(data + TAIL)


# What is sent.


async def test_a_long_message_is_compressed_by_itself(serve: Serve) -> None:
    socket = await connect(serve(TalkBack()), "/", DEFLATE)
    assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover" in socket.answer
    for kind in (TEXT, BINARY):
        for _ in range(2):
            [(first, payload)] = await socket.ask(frame(kind, LONG))
            assert first == kind | COMPRESSED
            assert len(payload) < len(LONG) / 2
            assert inflate(payload, bits=12) == LONG


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1023])
async def test_a_short_message_is_sent_as_it_is(serve: Serve, size: int) -> None:
    socket = await connect(serve(TalkBack()), "/", DEFLATE)
    assert await socket.ask(frame(BINARY, b"a" * size)) == [(BINARY, b"a" * size)]


async def test_a_message_is_long_from_1_kib_on(serve: Serve) -> None:
    socket = await connect(serve(TalkBack()), "/", DEFLATE)
    [(first, payload)] = await socket.ask(frame(BINARY, b"a" * 1024))
    assert (first, inflate(payload)) == (BINARY | COMPRESSED, b"a" * 1024)


async def test_control_frames_are_never_compressed(serve: Serve) -> None:
    socket = await connect(serve(Sends({"close": 4000, "reason": "a" * 123})), "/", DEFLATE)
    assert await socket.ask(frame(PING, b"a" * 125)) == [(PONG, b"a" * 125)]
    assert await socket.ask(text("go")) == [(CLOSE, close_payload(4000, "a" * 123))]


async def test_nothing_is_compressed_for_a_client_that_does_not_offer_it(serve: Serve) -> None:
    socket = await connect(serve(TalkBack()))
    assert b"Sec-WebSocket-Extensions" not in socket.answer
    assert await socket.ask(frame(BINARY, LONG)) == [(BINARY, LONG)]


async def test_compression_can_be_switched_off(serve: Serve) -> None:
    socket = await connect(serve(TalkBack(), ws_per_message_deflate=False), "/", DEFLATE)
    assert b"Sec-WebSocket-Extensions" not in socket.answer
    assert await socket.ask(frame(BINARY, LONG)) == [(BINARY, LONG)]
    [(kind, payload)] = await socket.ask(frame(TEXT | COMPRESSED, deflate(b"hello")))
    assert (kind, payload[:2]) == (CLOSE, close_payload(1002))


async def test_the_last_message_may_be_compressed_before_its_close(serve: Serve) -> None:
    socket = await connect(serve(Sends({"bytes": LONG, "close": True})), "/", DEFLATE)
    [(first, payload), closing] = await socket.ask(text("go"))
    assert (first, inflate(payload)) == (BINARY | COMPRESSED, LONG)
    assert closing == (CLOSE, close_payload(1000))


# Takeover.


class Deflating:
    """A client that compresses, and keeps its windows as agreed."""

    def __init__(self, socket: WebSocket, takeover: bool) -> None:
        self.socket = socket
        self.extension = PerMessageDeflate(not takeover, not takeover, 12, 12)

    async def ask(self, data: bytes) -> tuple[bytes, int]:
        """The data of the one message that comes in answer to this, and how long its frame's payload was."""
        sent = Frame(Opcode.BINARY, data).serialize(mask=True, extensions=[self.extension])
        [(first, payload)] = await self.socket.ask(sent)
        answer = Frame(Opcode(first & 0x0F), payload, rsv1=bool(first & COMPRESSED))
        return bytes(self.extension.decode(answer).data), len(payload)


@pytest.mark.parametrize("takeover", [False, True])
async def test_messages_go_both_ways_with_and_without_takeover(serve: Serve, takeover: bool) -> None:
    socket = await connect(serve(TalkBack(), ws_context_takeover=takeover), "/", DEFLATE)
    assert (b"no_context_takeover" in socket.answer) is not takeover
    assert b"server_max_window_bits=12; client_max_window_bits=12" in socket.answer
    client = Deflating(socket, takeover)
    sizes = []
    for _ in range(3):
        data, size = await client.ask(LONG)
        assert data == LONG
        sizes.append(size)
    if takeover:
        assert sizes[1] < sizes[0] / 2
    else:
        assert sizes[1] == sizes[0]


async def test_with_takeover_short_messages_are_compressed_too(serve: Serve) -> None:
    socket = await connect(serve(TalkBack(), ws_context_takeover=True), "/", DEFLATE)
    client = Deflating(socket, True)
    for data in (b"", b"a", b"hello hello hello hello", LONG, b"hello hello hello hello"):
        assert (await client.ask(data))[0] == data


async def test_with_takeover_messages_may_still_come_as_they_are(serve: Serve) -> None:
    socket = await connect(serve(TalkBack(), ws_context_takeover=True), "/", DEFLATE)
    client = Deflating(socket, True)
    for _ in range(2):
        assert (await client.ask(b"hello hello hello"))[0] == b"hello hello hello"
        [(first, payload)] = await socket.ask(frame(BINARY, b"plain"))
        answer = client.extension.decoder.decompress(payload + TAIL)
        assert (first, answer) == (BINARY | COMPRESSED, b"plain")


# What is read.


def check(sent: bytes, calls: list[object], *, largest: int = 5000) -> None:
    for pieces in cuts_of(sent):
        assert Recorder(largest=largest, deflate=True).read(pieces) == calls, pieces


def in_two(payload: bytes) -> list[bytes]:
    """A compressed text as two fragments, cut at each place."""
    return [
        frame(TEXT & ~FIN | COMPRESSED, payload[:cut]) + frame(CONTINUATION, payload[cut:])
        for cut in range(len(payload) + 1)
    ]


GOOD = {
    "text": (frame(TEXT | COMPRESSED, deflate(b"hello")), ["hello"]),
    "bytes": (frame(BINARY | COMPRESSED, deflate(b"\xff")), [b"\xff"]),
    "an empty message": (frame(TEXT | COMPRESSED, deflate(b"")), [""]),
    "an empty message of one byte": (frame(BINARY | COMPRESSED, b"\0"), [b""]),
    "without compression": (text("a") + frame(TEXT | COMPRESSED, deflate(b"b")) + text("c"), ["a", "b", "c"]),
    "a full flush": (frame(TEXT | COMPRESSED, deflate(b"hello", flush=zlib.Z_FULL_FLUSH)), ["hello"]),
    "no compression at all": (frame(TEXT | COMPRESSED, b"\0\x05\0\xfa\xffhello\0"), ["hello"]),
    "fragments": (in_two(deflate(b"hello"))[3], ["hello"]),
    "fragments with an empty one": (
        frame(TEXT & ~FIN | COMPRESSED, deflate(b"hello")) + frame(0) + frame(CONTINUATION),
        ["hello"],
    ),
    "a ping between fragments": (
        frame(TEXT & ~FIN | COMPRESSED, b"") + frame(PING, b"a") + frame(CONTINUATION, deflate(b"hello")),
        [("sent", PONG, b"a"), "hello"],
    ),
    "messages behind fragments": (
        in_two(deflate(b"hello"))[3] + text("a") + fragments(TEXT, b"b", b"c"),
        ["hello", "a", "bc"],
    ),
}


@pytest.mark.parametrize(("sent", "calls"), GOOD.values(), ids=GOOD)
def test_compressed_messages_are_read_however_they_are_cut(sent: bytes, calls: list[object]) -> None:
    check(sent, calls)


def test_a_compressed_message_may_be_in_fragments_anywhere() -> None:
    for data in (b"hello", "\u20ac\U0001f600".encode(), LONG[:300]):
        for sent in in_two(deflate(data)):
            assert Recorder(deflate=True).read([sent]) == [data.decode()]


@pytest.mark.parametrize("bits", [9, 12])
def test_a_client_may_keep_a_smaller_window_than_was_agreed(bits: int) -> None:
    data = LONG + bytes(10_000) + LONG
    assert Recorder(deflate=True).read([frame(BINARY | COMPRESSED, deflate(data, bits=bits))]) == [data]


async def test_a_client_that_offers_no_window_of_its_own_may_use_the_largest(serve: Serve) -> None:
    app = TalkBack()
    socket = await connect(serve(app), "/", "Sec-WebSocket-Extensions: permessage-deflate")
    assert b"client_max_window_bits" not in socket.answer
    data = LONG + bytes(range(256)) * 100 + LONG
    assert deflate(data, bits=15) != deflate(data, bits=12)
    socket.send(frame(BINARY | COMPRESSED, deflate(data, bits=15)))
    await turn()
    assert app.calls == ["connect", data]


BAD = {
    "what is not deflated": (frame(TEXT | COMPRESSED, b"\xff\xff\xff\xff"), 1002),
    "the bit in a control frame": (frame(PING | COMPRESSED, b"a"), 1002),
    "the bit in a close": (frame(CLOSE | COMPRESSED, close_payload(1000)), 1002),
    "the bit in a second fragment": (
        frame(TEXT & ~FIN | COMPRESSED, b"") + frame(CONTINUATION | COMPRESSED, deflate(b"a")),
        1002,
    ),
    "the bit in a second fragment only": (
        frame(TEXT & ~FIN, b"a") + frame(CONTINUATION | COMPRESSED, deflate(b"a")),
        1002,
    ),
    "another bit": (frame(TEXT | 0x20, deflate(b"a")), 1002),
    "both bits": (frame(TEXT | COMPRESSED | 0x20, deflate(b"a")), 1002),
    "text that is not UTF-8": (frame(TEXT | COMPRESSED, deflate(b"\xff")), 1007),
    "text that is not UTF-8, in fragments": (in_two(deflate(b"abc\xe2\x82"))[4], 1007),
    "a message that is too long": (frame(BINARY | COMPRESSED, deflate(b"a" * 5001)), 1009),
    "a message that is too long in fragments": (in_two(deflate(b"a" * 5001))[9], 1009),
}


@pytest.mark.parametrize(("sent", "code"), BAD.values(), ids=BAD)
def test_compressed_frames_that_break_a_rule_end_it(sent: bytes, code: int) -> None:
    check(sent, [("closed", code), "end"])
    check(text("before") + sent, ["before", ("closed", code), "end"])


def test_the_bound_of_a_message_is_that_of_what_comes_out() -> None:
    check(frame(TEXT | COMPRESSED, deflate(b"a" * 5000)), ["a" * 5000])
    for sent in in_two(deflate(b"a" * 4900)):
        assert Recorder(largest=5000, deflate=True).read([sent]) == ["a" * 4900]


#: 40 KiB that become 40 MiB.
BOMB = deflate(bytes(40 * 1024 * 1024), bits=12)


@pytest.mark.parametrize("in_fragments", [False, True])
async def test_a_bomb_stops_at_the_bound(serve: Serve, in_fragments: bool) -> None:
    sent = frame(BINARY | COMPRESSED, BOMB)
    if in_fragments:
        sent = frame(BINARY & ~FIN | COMPRESSED, BOMB[:500]) + frame(CONTINUATION, BOMB[500:])
    app = TalkBack()
    socket = await connect(serve(app, ws_max_size=1024 * 1024), "/", DEFLATE)
    tracemalloc.start()
    try:
        socket.send(sent)
        await turn()
        assert tracemalloc.get_traced_memory()[1] < 6 * 1024 * 1024
    finally:
        tracemalloc.stop()
    [(kind, payload)] = socket.take()
    assert (kind, payload[:2]) == (CLOSE, close_payload(1009))
    assert app.calls == ["connect", (1009, payload[2:].decode())]
    assert socket.state == "half-closed"


def test_no_bound_means_none() -> None:
    data = bytes(2 * 1024 * 1024)
    [message] = Recorder(largest=0, deflate=True).read([frame(BINARY | COMPRESSED, deflate(data))])
    assert message == data
