"""Bytes of a client become messages. It knows no socket.

The library reads frames. The common one, which is a whole message, masked, with no reserved bit and all there, is read
here instead, at a seventh of the cost. For that, frames are told apart before either sees them, and the library is
given no more than one at a time: whenever it is within none, and within no message in fragments, the next may go the
short way. What comes of a frame is the same both ways.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.server import ServerProtocol

from uvicorn_worker.websocket.frames import BINARY, CLOSE, LONGEST_SHORT, TEXT, begins_badly, find_payload

try:
    from websockets.speedups import apply_mask
except ImportError:  # The library does without, where it could not be compiled.
    from websockets.utils import apply_mask


class Phase(IntEnum):
    """What the next bytes are."""

    FRAME = 0  # a frame, and no fragment
    PART = 1  # more of a frame, or of a message in fragments
    CLOSING = 2  # of interest only for the client's part in closing
    HELD = 3  # not for now, whatever it is that speaks against it
    OVER = 4  # not looked at any more


FRAME, PART, CLOSING, HELD, OVER = Phase

# Frames that are read in one turn of the loop, some 5 ms of work: messages are bounded by their calls, but pings, pongs
# and empty fragments by nothing. So many bytes of a compressed message count as a frame.
_WORK = 256
_HEAVY = 16 * 1024

_new_decoder = codecs.getincrementaldecoder("utf-8")


class MessageReader:
    """Feeds the library what is not common, and tells of messages, pongs and the end."""

    __slots__ = (
        "_data",
        "_decoder",
        "_fragments",
        "_largest",
        "_left",
        "_library",
        "_longest_short",
        "_phase",
        "_position",
        "_receive",
        "_within_message",
        "_work_left",
    )

    def __init__(self, library: ServerProtocol, largest: int) -> None:
        """``largest`` is the size in bytes of the largest message; 0 means any."""
        self._library = library
        self._largest = largest or sys.maxsize
        self._longest_short = min(self._largest, LONGEST_SHORT)
        self._phase: Phase = FRAME
        #: What has come and was not read, from ``_position`` on.
        self._data = b""
        self._position = 0
        #: Bytes that the library still needs of the frame that it is within.
        self._left = 0
        self._within_message = False
        #: Frames that may still be read in this turn of the loop.
        self._work_left = 0
        #: What has come of a message in fragments, and what decodes it where it is text.
        self._fragments: io.StringIO | io.BytesIO | None = None
        self._decoder: codecs.IncrementalDecoder | None = None

    # What the protocol makes of it.

    #: Takes a message: either text or bytes.
    _receive: Callable[[str | None, bytes | None], object]

    def _pong(self) -> None:
        """The client has answered a ping, or says unasked that it is there."""
        raise NotImplementedError

    def _answer(self, data: bytes) -> None:
        """The library has something to send: a pong, a message, or its part in closing."""
        raise NotImplementedError

    def _weigh(self, size: int) -> None:
        """The message that was just received has ``size`` bytes, or characters, which are many."""
        raise NotImplementedError

    def _rest(self) -> None:
        """There is more than should be read in one turn of the loop: call :meth:`_read` in another."""
        raise NotImplementedError

    def _end(self, received: Close | None = None) -> None:
        """The connection is to be closed: both sides have said so, or the client has broken a rule.

        ``received`` is what the client has said, where the library doesn't know.
        """
        raise NotImplementedError

    # Bytes in.

    def data_received(self, data: bytes) -> None:
        """Read what has come, as far as there is nothing that speaks against it."""
        size = len(data) - 6
        # One whole short message outside of everything is what comes nearly always. 0x80 is the bit that says MASK.
        if 0 <= size <= self._longest_short and self._phase is FRAME and data[1] == size | 0x80:
            kind = data[0]
            if kind == TEXT:
                try:
                    text = apply_mask(data[6:], data[2:6]).decode()
                except UnicodeDecodeError:
                    pass  # The other way knows what to do.
                else:
                    receive = self._receive
                    receive(text, None)
                    return
            elif kind == BINARY:
                self._receive(None, apply_mask(data[6:], data[2:6]))
                return
        if self._phase is not OVER:
            self._data = self._data[self._position :] + data if self._data else data
            self._position = 0
            if self._phase is not HELD:
                self._read()

    def _read(self) -> None:
        """Read frames until what has come is used up, or reading is held."""
        if self._phase is FRAME:
            self._phase = PART
        self._work_left = _WORK
        while self._phase < HELD and self._position < len(self._data):
            if self._work_left <= 0:
                return self._rest()
            self._work_left -= 1
            if self._left:
                self._feed(self._position + self._left)
            elif not self._read_frame():
                break
        if self._phase is HELD:
            return
        self._data = self._data[self._position :]
        self._position = 0
        if self._phase is PART and not (self._left or self._within_message or self._data):
            self._phase = FRAME

    def _read_frame(self) -> bool:
        """Read the frame that begins here, or what there is of it; whether that is enough to go on."""
        data, position = self._data, self._position
        payload = find_payload(data, position)
        if payload is None:
            # Waiting for the rest of its head would keep a bad one from being refused at once.
            if len(data) - position >= 2 and begins_badly(data, position):
                self._feed(len(data))
            return False
        begin, end = payload
        if self._within_message and data[position] == CLOSE and 0x80 <= data[position + 1] <= 0x80 + LONGEST_SHORT:
            if end > len(data) or self._close_amid_message(apply_mask(data[begin:end], data[begin - 4 : begin])):
                return False
        if not self._read_common_frame(begin, end):
            self._track(data[position])
            self._left = end - position
            self._feed(end)
        return True

    def _close_amid_message(self, payload: bytes) -> bool:
        """Answer a good close frame between the fragments of a message, where RFC 6455 section 5.4 allows one and the
        library does not."""
        try:
            close = Close.parse(payload)
        except (ProtocolError, UnicodeDecodeError):
            return False
        if self._phase is not CLOSING:
            without_code = close.code == CloseCode.NO_STATUS_RCVD
            self._library.send_close(None if without_code else close.code, close.reason)
            self._flush()
        self._end(close)
        return True

    def _read_common_frame(self, begin: int, end: int) -> bool:
        """Read a frame the short way, if it can go that."""
        data, position = self._data, self._position
        kind = data[position]
        if (
            (kind != TEXT and kind != BINARY)
            or end > len(data)
            or data[position + 1] < 0x80
            or end - begin > self._largest
            or self._within_message
            or self._phase is not PART
        ):
            return False
        payload = apply_mask(data[begin:end], data[begin - 4 : begin])
        text = None
        if kind == TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                return False
        self._position = end
        if text is None:
            self._receive(None, payload)
        else:
            self._receive(text, None)
        if end - begin >= _HEAVY:
            self._weigh(end - begin)
        return True

    def _track(self, first_byte: int) -> None:
        """Note whether a message in fragments begins or ends (RFC 6455 section 5.4)."""
        is_last, opcode = first_byte & 0x80, first_byte & 0x0F
        if opcode in (Opcode.TEXT, Opcode.BINARY) and not is_last:
            self._within_message = True
        elif opcode == Opcode.CONT and is_last:
            self._within_message = False

    def _feed(self, end: int) -> None:
        """Give the library what there is up to ``end``."""
        data = self._data[self._position : end]
        self._position += len(data)
        self._left -= len(data)
        self._library.receive_data(data)
        for event in self._library.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._flush()

    def _flush(self) -> None:
        """Pass on what the library has to send."""
        for data in self._library.data_to_send():
            if data:
                self._answer(data)
            else:  # The library's word for the end of the stream.
                self._end()

    def _take(self, frame: Frame) -> None:
        """Take a frame of the library's."""
        opcode = frame.opcode
        if opcode is Opcode.PONG:
            self._pong()
        elif opcode is Opcode.TEXT or opcode is Opcode.BINARY or opcode is Opcode.CONT:
            if opcode is not Opcode.CONT:
                self._decoder = _new_decoder() if opcode is Opcode.TEXT else None
                self._fragments = None
            try:
                self._add(bytes(frame.data), frame.fin)
            except UnicodeDecodeError as error:
                self._library.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")

    def _add(self, data: bytes, is_last: bool) -> None:
        """Take a fragment of a message, or all of it. Text is decoded as it comes: its first bad byte ends it."""
        self._work_left -= len(data) // _HEAVY
        piece: Any = data if self._decoder is None else self._decoder.decode(data, is_last)
        if self._fragments is None and not is_last:
            # Not a list: small fragments would cost many times their size.
            self._fragments = io.BytesIO() if self._decoder is None else io.StringIO()
        if self._fragments is not None:
            self._fragments.write(piece)
        if not is_last:
            return
        message: Any = piece if self._fragments is None else self._fragments.getvalue()
        self._fragments = None
        if self._phase is CLOSING:
            return
        if self._decoder is None:
            self._receive(None, message)
        else:
            self._receive(message, None)
        if len(message) >= _HEAVY:
            self._weigh(len(message))
