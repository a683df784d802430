"""What workers of one machine say to each other, as bytes.

A frame is a head (the size of what is behind it, what it is, and the size of a name), the name, and the body. A worker
begins with HELLO and its own name; then it sends MESSAGE with the name of a group, and MISSED with a JSON list of the
groups of which it has dropped messages, or ``null`` for all.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator

from uvicorn_worker.config import GROUP_MESSAGE_BOUND, GROUP_NAME_BYTES

HELLO = 1
MESSAGE = 2
MISSED = 3

_HEAD = struct.Struct("!IBH")
_HEAD_SIZE = _HEAD.size

#: Bytes behind a head.
_MOST = GROUP_MESSAGE_BOUND + GROUP_NAME_BYTES

#: A frame: what it is, the name, and the body.
Frame = tuple[int, str, bytes]


class MeshError(ValueError):
    """The bytes are not those of a worker."""


def frame(kind: int, name: str, body: bytes = b"") -> bytes:
    encoded = name.encode()
    return b"".join((_HEAD.pack(len(encoded) + len(body), kind, len(encoded)), encoded, body))


def missed_frame(groups: frozenset[str] | None) -> bytes:
    """The frame that says of which groups messages were dropped; ``None`` means all."""
    return frame(MISSED, "", json.dumps(None if groups is None else sorted(groups)).encode())


def read_missed(body: bytes) -> frozenset[str] | None:
    """What :func:`missed_frame` was given; raises :class:`MeshError`."""
    try:
        groups = json.loads(body)
        if groups is None:
            return None
        if isinstance(groups, list) and all(isinstance(group, str) for group in groups):
            return frozenset(groups)
    except (ValueError, RecursionError):
        pass
    raise MeshError(f"no list of groups: {body!r:.100}")


class FrameReader:
    """Bytes become frames. What has come of a frame is kept in pieces, and joined once."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        #: Bytes without which there is no frame.
        self._needed = _HEAD_SIZE

    def feed(self, data: bytes) -> Iterable[Frame]:
        """The frames that are whole by now; raises :class:`MeshError`, at the latest when all of these were taken."""
        self._size += len(data)
        if self._pieces or self._size < self._needed:
            self._pieces.append(data)
            if self._size < self._needed:
                return ()
            data = b"".join(self._pieces)
            self._pieces = []
        return self._read(data)

    @property
    def is_amid_frame(self) -> bool:
        """Whether there is a part of a frame the rest of which has not come."""
        return bool(self._pieces)

    def _read(self, data: bytes) -> Iterator[Frame]:
        position, size = 0, len(data)
        self._needed = _HEAD_SIZE
        unpack = _HEAD.unpack_from
        while size - position >= _HEAD_SIZE:
            length, kind, name_length = unpack(data, position)
            begin = position + _HEAD_SIZE
            end = begin + length
            body = begin + name_length
            if body > end or length > _MOST or not HELLO <= kind <= MISSED:
                raise MeshError(f"no frame: {data[position : position + 20]!r}")
            if end > size:
                self._needed = _HEAD_SIZE + length
                break
            try:
                name = data[begin:body].decode()
            except UnicodeDecodeError as error:
                raise MeshError(f"no name: {error}") from None
            position = end
            yield kind, name, data[body:end]
        self._size = size - position
        if self._size:
            self._pieces.append(data[position:])
