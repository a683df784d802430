"""Clients that take as long as they can, many at once."""

import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .client import Wire, request

_UPLOAD = request("/echo", "Content-Length: 1000000", method="POST")

#: What each kind sends at first, then again and again, and how many bytes it reads each time.
KINDS: dict[str, tuple[bytes, bytes, int]] = {
    "says nothing": (b"", b"", 0),
    "drips its head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a", 0),
    "drips its body": (_UPLOAD, b"a", 0),
    "stalls in its body": (_UPLOAD + b"a", b"", 0),
    "reads slowly": (request("/endless"), b"", 100),
    "reads nothing": (request("/endless"), b"", 0),
}


@dataclass
class Slow:
    """One of them."""

    kind: str
    wire: Wire
    received: bytes = b""
    has_ended: bool = False

    def go_on(self) -> None:
        """Send or read a little more, as long as anybody is there."""
        _, more, size = KINDS[self.kind]
        try:
            if more:
                self.wire.socket.send(more)
            if size and select.select([self.wire.socket], [], [], 0)[0]:
                self.received += self.wire.socket.recv(size)
        except OSError:
            self.has_ended = True

    def end(self) -> bytes:
        """What it was told beside what it has read, when the server has ended its connection."""
        try:
            return self.wire.rest()
        except ConnectionError:  # a reset: it is not to take the reply for a whole one
            return b""


class SlowClients:
    """So many slow clients of each kind, that are slow from a thread of their own until a `with` ends.

    Each goes on every quarter of a second, and not all at once.
    """

    SHARES = 25

    def __init__(self, address: Any, of_each: int) -> None:
        self.all = list(self._connect(address, of_each))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _connect(self, address: Any, of_each: int) -> Iterator[Slow]:
        for _ in range(of_each):
            for kind, (first, _, _) in KINDS.items():
                wire = Wire(address, receive_buffer=4096)
                wire.send(first)
                yield Slow(kind, wire)

    def __enter__(self) -> "SlowClients":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        share = 0
        while not self._is_over.wait(0.25 / self.SHARES):
            share += 1
            for slow in self.all[share % self.SHARES :: self.SHARES]:
                if not slow.has_ended:
                    slow.go_on()
