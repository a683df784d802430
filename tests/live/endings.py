"""Every way in which requests, WebSockets and connections end, over and over, and at random moments."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .client import BINARY, Wire, chunked, close_frame, frame, handshake, request

_CLOSE = "Connection: close"

#: Requests that leave their connection open, or announce its end, and the status of the answer.
REQUESTS: list[tuple[bytes, int]] = [
    (request("/quiet"), 200),
    (request("/echo", method="POST", body=b"a" * 1000), 200),
    (request("/stream"), 200),
    (request("/echo", "Transfer-Encoding: chunked", method="POST") + chunked(b"one", b"two"), 200),
    (request("/quiet", method="POST", body=b"nobody reads this"), 200),
    (request("/bad"), 500),
    (request("/stream", version="1.0"), 200),
    (request("/quiet", _CLOSE), 200),
]

#: Those that end their connection in the middle, or are refused.
BROKEN: list[bytes] = [
    request("/bad_late"),
    request("/quiet", host=None),
    request("/echo", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhel",
    request("/quiet") * 3 + b"\0",
    request("/pour/sized/1"),
    handshake(version="12"),
    handshake("/no"),
]

#: What comes on a WebSocket until its connection ends.
CONVERSATIONS: list[bytes] = [
    frame("hello") + close_frame(1000),
    frame(b"x" * 70_000, BINARY) + close_frame(4000, "enough"),
    frame("close"),
    frame("raise"),
    frame(b"\xff\xff"),  # text that is none
    b"\x81\x01a",  # a frame that is not masked
    frame("begun", more=True),
    b"",
]

#: What is cut anywhere.
_SCRIPTS: list[bytes] = [
    *(sent for sent, _ in REQUESTS),
    *BROKEN,
    request("/quiet") * 5,
    request("/endless"),
    request("/soon") + request("/endless"),
    *(handshake("/") + sent for sent in CONVERSATIONS),
]


def connect(address: Any, data: bytes) -> Wire:
    """A new connection, ``data`` sent."""
    wire = Wire(address)
    wire.send(data)
    return wire


def ask(address: Any, count: int) -> None:
    """So many requests that are answered, a few of which end their connections in every way."""
    wire = Wire(address)
    for number in range(count):
        sent, status = REQUESTS[number % len(REQUESTS)]
        wire.send(sent)
        reply = wire.reply()
        assert reply.status == status, (sent, reply)
        if reply.headers.get("connection") == "close":
            wire.close()
            wire = Wire(address)
        if number % 10 == 0:
            hang_up(connect(address, BROKEN[number // 10 % len(BROKEN)]))
    wire.close()


def converse(address: Any, count: int) -> None:
    """So many WebSockets."""
    for number in range(count):
        wire = connect(address, handshake("/") + CONVERSATIONS[number % len(CONVERSATIONS)])
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        if number % 3:
            wire.say_no_more()
            hang_up(wire)
        else:
            wire.reset()


def abort(address: Any, count: int, seed: int, at_once: int = 50) -> None:
    """So many connections that end at a random byte and moment of what they would have said, with others around."""
    moments = random.Random(seed)
    ends: list[Callable[[Wire], None]] = [Wire.reset, Wire.reset, Wire.close, hang_up]
    open_ones: list[Wire] = []
    for _ in range(count):
        script = moments.choice(_SCRIPTS)
        open_ones.append(connect(address, script[: moments.randint(0, len(script))]))
        if len(open_ones) == at_once:
            moments.choice(ends)(open_ones.pop(moments.randrange(at_once)))
    for wire in open_ones:
        wire.reset()


def hang_up(wire: Wire) -> None:
    """Say no more, read a little of what there is, and go."""
    with suppress(OSError):
        wire.say_no_more()
        wire.socket.recv(1000)
    wire.close()
