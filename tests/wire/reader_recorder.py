"""A reader of WebSocket messages without a connection, which remembers what it was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from websockets.frames import Close
from websockets.server import ServerProtocol

from uvicorn_worker.config import Settings
from uvicorn_worker.websocket.handshake import negotiate
from uvicorn_worker.websocket.reader import OVER, MessageReader

from .websocket_client import CLOSE, DEFLATE, KEY, read_frames


def agree(largest: int, deflate: bool, takeover: bool) -> ServerProtocol:
    """The library's part for a client that offers compression if ``deflate`` says so."""
    name, _, offer = DEFLATE.partition(": ")
    fields = [
        [b"connection", b"Upgrade"],
        [b"upgrade", b"websocket"],
        [b"sec-websocket-version", b"13"],
        [b"sec-websocket-key", KEY.encode()],
        *([[name.lower().encode(), offer.encode()]] if deflate else []),
    ]
    return negotiate("GET", fields, Settings(ws_max_size=largest, ws_context_takeover=takeover)).library


class Recorder(MessageReader):
    """Remembers messages, ``'pong'`` for each of the client's, ``('sent', kind, payload)``, ``('closed', code)`` for
    the close frame that it sends, and ``'end'``.
    """

    def __init__(self, *, largest: int = 1 << 20, deflate: bool = False, takeover: bool = False) -> None:
        super().__init__(agree(largest, deflate, takeover), largest)
        self.calls: list[object] = []
        self.is_resting = False
        #: What was sent, as it was.
        self.raw: list[bytes] = []

    def read(self, pieces: Iterable[bytes]) -> list[object]:
        """The calls that come of these pieces."""
        begin = len(self.calls)
        for piece in pieces:
            if piece:
                self.data_received(piece)
            while self.is_resting:
                self.is_resting = False
                self._read()
        return self.calls[begin:]

    def _receive(self, text: str | None, data: bytes | None) -> None:
        assert (text is None) is not (data is None)
        assert type(text) is str or type(data) is bytes
        self.calls.append(text if data is None else data)

    def _pong(self) -> None:
        self.calls.append("pong")

    def _answer(self, data: bytes) -> None:
        self.raw.append(data)
        for kind, payload in read_frames(data):
            if kind == CLOSE:
                self.calls.append(("closed", int.from_bytes(payload[:2], "big") if payload else 1005))
            else:
                self.calls.append(("sent", kind, payload))

    def _weigh(self, size: int) -> None:
        """Of interest to a session only."""

    def _rest(self) -> None:
        self.is_resting = True

    def _end(self, received: Close | None = None) -> None:
        self.calls.append("end")
        self._phase = OVER


class Slow(Recorder):
    """Goes none of the short ways: the library reads every frame."""

    def __init__(self, *, largest: int = 1 << 20, deflate: bool = False, takeover: bool = False) -> None:
        super().__init__(largest=largest, deflate=deflate, takeover=takeover)
        self._longest_short = -1

    def _read_common_frame(self, begin: int, end: int) -> bool:
        return False


def cuts_of(sent: bytes) -> Iterator[list[bytes]]:
    """All in one piece, each byte by itself, and in two pieces, cut anywhere."""
    yield [sent]
    yield [sent[i : i + 1] for i in range(len(sent))]
    for cut in range(1, len(sent)):
        yield [sent[:cut], sent[cut:]]
