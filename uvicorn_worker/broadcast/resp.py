"""What Redis is asked, as bytes (RESP2), and what it answers of servers and slots."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from typing import Any

from uvicorn_worker.broadcast.redis_url import Node

#: The slots of a cluster.
SLOTS = 16384


def pack(*words: bytes) -> bytes:
    """A command."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += b"$%d\r\n" % len(word), word, b"\r\n"
    return b"".join(parts)


def is_replica(role: Any) -> bool:
    """Whether the answer to ROLE is that of a server where messages reach nobody else; unless it is one, it is none."""
    return isinstance(role, list) and role[:1] == [b"slave"]


def slot_of(channel: bytes) -> int:
    """The slot of a cluster that a channel is of: of its part in braces, if it has one (Redis Cluster specification,
    "Hash tags")."""
    begin = channel.find(b"{") + 1
    end = channel.find(b"}", begin)
    return crc_hqx(channel[begin:end] if begin and end > begin else channel, 0) % SLOTS


def read_slots(answer: Any, asked: str) -> list[Node | None]:
    """The master of each slot, by the answer to CLUSTER SLOTS of the host ``asked``; ``None`` where there is none.

    Raises ``ValueError`` where it is no such answer.
    """
    masters: list[Node | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_ in answer:
            master = (host.decode() if host else asked, int(port))
            masters[first : last + 1] = [master] * (last + 1 - first)
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"no answer to CLUSTER SLOTS: {answer!r:.100}") from None
    if len(masters) != SLOTS:
        raise ValueError(f"no slots of a cluster: {answer!r:.100}")
    return masters


def known(masters: Iterable[Node | None]) -> set[Node]:
    """The masters that there are."""
    return {master for master in masters if master is not None}
