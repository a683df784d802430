"""WebSocket clients that mean harm: memory stays flat, the log short, and others are served meanwhile."""

import os
import select
import signal
import socket
import zlib
from collections.abc import Callable, Iterator

import pytest

from .client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    WebSocket,
    Wire,
    close_frame,
    frame,
    handshake,
)
from .harness import Serve, Server, eventually, memory, sockets

pytestmark = pytest.mark.unmeasured

APP = "websocket_apps:app"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
ROOM = 16  # MiB that the worker may grow by
LARGEST = 16 << 20  # bytes of a message, by default
MIB = 1 << 20
ROOM_FOR_THE_LARGEST = 64  # MiB, where a message may become as large as is allowed


class Watch:
    """A server's memory and log from now on, and a WebSocket and a connection that are to be served all the time."""

    def __init__(self, server: Server, neighbour: WebSocket) -> None:
        self.server = server
        self._neighbour = neighbour
        self._wire = server.connect()
        self.assert_others_are_served()
        self._before = memory(server.worker, "VmRSS")
        self._start = server.log.position()

    def assert_others_are_served(self) -> None:
        """At once, and new connections too."""
        assert self._neighbour.ask("still there?") == "still there?"
        assert self._wire.ask("/quiet").text == "fine"
        assert self.server.ask("/quiet").text == "fine"

    def assert_flat(self, room: int = ROOM) -> None:
        grown = memory(self.server.worker, "VmHWM") - self._before
        assert grown < room, f"the worker has grown by {grown} MiB"

    def assert_log_is_short(self, lines: int = 0) -> None:
        assert len(self.server.log.lines(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback", after=self._start)) <= lines


Watched = Callable[..., Watch]


@pytest.fixture
def watched(serve: Serve) -> Iterator[Watched]:
    """Start a server that is watched."""
    open_ones = []

    def start(**env: str) -> Watch:
        server = serve(APP, "--keep-alive", "60", env=env)
        client = server.websocket("/quiet/neighbour").__enter__()
        open_ones.append(client)
        return Watch(server, client)

    yield start
    for client in open_ones:
        client.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """One for those whose memory is not measured."""
    with Server(APP, "--keep-alive", "60", folder=tmp_path_factory.mktemp("hostile")) as server:
        with server.websocket("/quiet/neighbour") as neighbour:
            yield Watch(server, neighbour)


def send_until_it_blocks(wire: Wire, data: bytes, most: int) -> int:
    """Send `data` over and over until nothing goes any more, or `most` has gone; how many bytes went."""
    wire.socket.setblocking(False)
    sent = 0
    rest = memoryview(b"")
    while sent < most and select.select([], [wire.socket], [], 1)[1]:
        rest = rest or memoryview(data)
        size = wire.socket.send(rest)
        rest = rest[size:]
        sent += size
    wire.socket.settimeout(15)
    return sent


# -- clients that do not read


def test_a_client_that_never_reads_makes_send_wait_and_is_closed_when_it_answers_no_ping(watched: Watched) -> None:
    watch = watched(UVICORN_WORKER_WS_PING_INTERVAL="1", UVICORN_WORKER_WS_PING_TIMEOUT="1")
    server = watch.server
    before = sockets(server.worker)
    wire = server.raw_websocket("/endless/unread", receive_buffer=65536)
    waits = server.log.wait_for(r"^send waits after (\d+)")
    assert int(waits[1]) < 16 << 20
    watch.assert_others_are_served()
    server.log.wait_for("^send raised ClientDisconnected /endless/unread")
    said = server.log.wait_for(r"^websocket\.disconnect /endless/unread 1 (\d+)")
    assert said[1] == "1011"
    watch.assert_others_are_served()
    eventually(lambda: sockets(server.worker) == before, message="its connection is still there")
    wire.close()
    watch.assert_flat()
    watch.assert_log_is_short()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/echo", frame(b"p" * 125, PING) * 1024),
        ("/quiet", frame("x" * 100) * 1024),
        ("/quiet", frame(b"x" * 65536, BINARY) * 4),
    ],
    ids=["pings", "messages", "large messages"],
)
def test_a_client_that_wants_answers_and_reads_none_is_not_read_any_more(
    watched: Watched, path: str, sent: bytes
) -> None:
    watch = watched()
    wire = watch.server.raw_websocket(path, receive_buffer=65536, send_buffer=65536)
    taken = send_until_it_blocks(wire, sent, 64 * MIB)
    assert taken < 32 * MIB
    watch.assert_others_are_served()
    watch.assert_flat()
    wire.reset()
    watch.server.log.wait_for(f"^websocket.disconnect {path} ")
    watch.assert_others_are_served()
    watch.assert_log_is_short()


# -- clients that send too much


def test_a_flood_of_messages_that_the_application_is_not_done_with_is_not_read(watched: Watched) -> None:
    watch = watched()
    wire = watch.server.raw_websocket("/unfinished_calls/flood", send_buffer=65536)
    taken = send_until_it_blocks(wire, frame("x") * 8192, 64 * MIB)
    assert taken < 16 * MIB
    assert watch.server.ask("/unfinished/flood").text == "32"
    watch.assert_others_are_served()
    watch.assert_flat()
    wire.reset()
    watch.assert_others_are_served()
    watch.assert_log_is_short()
    watch.server.signal(signal.SIGQUIT)  # Those calls would wait for ever.
    watch.server.wait()


def deflated(size: int) -> bytes:
    """The payload of a compressed message of so many zeros."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -12)
    zeros = bytes(MIB)
    parts = [compressor.compress(zeros) for _ in range(size // MIB)]
    parts.append(compressor.flush(zlib.Z_SYNC_FLUSH))
    return b"".join(parts).removesuffix(b"\0\0\xff\xff")


def test_a_compressed_message_that_is_too_large_is_closed_with_1009_before_it_is_large(watched: Watched) -> None:
    watch = watched()
    payload = deflated(64 * MIB)
    assert len(payload) < MIB
    for _ in range(10):  # What they leave behind does not add up either.
        wire = watch.server.raw_websocket("/quiet/bomb", DEFLATE, data=frame(payload, BINARY, rsv=4))
        assert wire.closing()[0] == 1009
        watch.assert_others_are_served()
    watch.server.log.wait_for("^websocket.disconnect /quiet/bomb 1 1009")
    watch.assert_flat(room=ROOM_FOR_THE_LARGEST)
    watch.assert_log_is_short()


def test_compressed_fragments_that_are_too_large_together_are_closed_with_1009(watched: Watched) -> None:
    watch = watched()
    payload = deflated(64 * MIB)
    size = len(payload) // 64 + 1
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    frames = [frame(parts[0], BINARY, more=True, rsv=4), *(frame(part, CONTINUATION, more=True) for part in parts[1:])]
    wire = watch.server.raw_websocket("/quiet/bombs", DEFLATE, data=b"".join(frames))
    assert wire.closing()[0] == 1009
    watch.assert_others_are_served()
    watch.assert_flat(room=ROOM_FOR_THE_LARGEST)
    watch.assert_log_is_short()


def test_a_message_without_end_is_closed_with_1009(watched: Watched) -> None:
    watch = watched()
    wire = watch.server.raw_websocket("/quiet/long", data=frame(b"x" * MIB, BINARY, more=True))
    fragment = frame(b"x" * MIB, CONTINUATION, more=True)
    try:
        for _ in range(64):
            wire.send(fragment)
    except OSError:  # It may have been closed by now, and what was not read makes that a reset.
        pass
    watch.server.log.wait_for("^websocket.disconnect /quiet/long 1 1009")
    watch.assert_others_are_served()
    watch.assert_flat(room=ROOM_FOR_THE_LARGEST)
    watch.assert_log_is_short()


def test_tiny_fragments_without_end_do_not_fill_the_memory(watched: Watched) -> None:
    watch = watched(UVICORN_WORKER_WS_PING_INTERVAL="0")  # The pong is to be the only frame.
    wire = watch.server.raw_websocket("/quiet/tiny", data=frame(b"xx", BINARY, more=True))
    tiny = frame(b"xx", CONTINUATION, more=True) * 1000
    for _ in range(120):
        wire.send(tiny)
    wire.send(frame(b"", PING))
    wire.socket.settimeout(4 * DEADLINE)  # On a machine that is busy, this takes its time.
    assert wire.frame() == (0x80 | PONG, b"")  # All of it has been read.
    watch.assert_others_are_served()
    watch.assert_flat(room=4)  # An object for each would take twice that.
    watch.assert_log_is_short()


# -- clients that send slowly, or nonsense


def test_a_client_that_sends_byte_for_byte_keeps_nobody_waiting(shared: Watch) -> None:
    wire = shared.server.connect()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in handshake("/quiet/slow") + frame("slow") + frame("x" * 200, TEXT, more=True) + frame("", CONTINUATION):
        wire.send(bytes([byte]))
        if byte == ord("-") or byte > 0x7F:
            shared.assert_others_are_served()
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.frame() == (0x80 | TEXT, b"slow")
    assert wire.frame() == (0x80 | TEXT, b"x" * 200)


NONSENSE = {
    "another request": (handshake("/quiet"), 1002),
    "a frame that is not masked": (b"\x81\x05hello", 1002),
    "a reserved opcode": (frame("x", 3), 1002),
    "a reserved control opcode": (frame("x", 11), 1002),
    "a reserved bit": (frame("x", rsv=1), 1002),
    "compression that was not agreed": (frame("x", rsv=4), 1002),
    "a continuation of nothing": (frame("x", CONTINUATION), 1002),
    "a message within a message": (frame("x", more=True) + frame("x"), 1002),
    "a ping in fragments": (frame("x", PING, more=True), 1002),
    "a ping that is too long": (frame("x" * 126, PING), 1002),
    "a close with half a code": (frame(b"\x03", CLOSE), 1002),
    "a close with a code that may not be sent": (close_frame(1006), 1002),
    "text that is not UTF-8": (frame(b"\xff"), 1007),
    "text that ends amid a character": (frame("é".encode()[:1]), 1007),
    "a reason that is not UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    "a message that is announced too long": (
        frame(b"", BINARY)[:1] + b"\xff" + b"\x00\x00\x00\x00\x01\x00\x00\x01",
        1009,
    ),
    "a length past 63 bits": (b"\x82" + b"\xff" * 9, 1009),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_client_that_breaks_a_rule_is_told_so_and_closed(shared: Watch, name: str) -> None:
    sent, code = NONSENSE[name]
    path = f"/quiet/{list(NONSENSE).index(name)}"
    wire = shared.server.raw_websocket(path, data=sent)
    assert wire.closing()[0] == code
    wire.rest()
    said = shared.server.log.wait_for(rf"^websocket\.disconnect {path} \d+ (\d+)")
    assert said[1] == str(code)
    shared.assert_others_are_served()
    shared.assert_log_is_short()


def test_compressed_nonsense_is_told_so_and_closed(shared: Watch) -> None:
    wire = shared.server.raw_websocket("/quiet", DEFLATE, data=frame(b"\xff" * 100, BINARY, rsv=4))
    assert wire.closing()[0] in (1002, 1007)
    wire.rest()
    shared.assert_others_are_served()
    shared.assert_log_is_short()


def test_random_bytes_end_nothing_but_their_own_connection(shared: Watch) -> None:
    for _ in range(50):
        wire = shared.server.raw_websocket("/quiet/random")
        wire.send(os.urandom(2000))
        wire.close()
    shared.assert_others_are_served()
    eventually(lambda: len(shared.server.log.lines("^websocket.disconnect /quiet/random ")) == 50)
    shared.assert_log_is_short()
