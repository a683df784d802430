"""Reads the header that a proxy puts in front of a connection (PROXY protocol), and not a byte more."""

from __future__ import annotations

import asyncio
import socket

from uvicorn_worker.config import PROXY_HEADER_BYTES
from uvicorn_worker.proxy import ABSENT, Told, read_proxy_header


async def take_proxy_header(
    connection: socket.socket, mode: str, *, allowed: bool, tls: bool
) -> tuple[Told | None, bytes]:
    """Take the PROXY header out of what a non-blocking ``connection`` receives.

    Returns what it tells, if anything, and bytes that were taken though they belong to no such header: they
    are the beginning of a request. ``mode`` and ``allowed`` are as for :func:`read_proxy_header`; ``tls`` says whether
    TLS is to follow. Raises :class:`RequestRefused`, and :class:`OSError` where the peer has gone, or speaks in the
    clear what only TLS may carry.
    """
    taken = b""
    while True:
        try:
            seen = connection.recv(PROXY_HEADER_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            await _until_readable(connection)
            continue
        if not seen:
            raise ConnectionAbortedError("the peer closed the connection before it began")
        header = read_proxy_header(taken + seen, mode, allowed=allowed)
        if header is ABSENT:
            if tls and taken:  # TLS doesn't begin like a header, and nothing that is read in front of it came by it.
                raise ConnectionAbortedError("there is no TLS behind what came in the clear")
            return None, taken
        if header is not None:
            _take(connection, header.size - len(taken))
            return header.told, b""
        # If it were left there, the connection would be readable all the time.
        taken += _take(connection, len(seen))


def _take(connection: socket.socket, size: int) -> bytes:
    """So many bytes that are known to be there."""
    taken = b""
    while len(taken) < size:
        taken += connection.recv(size - len(taken))
    return taken


async def _until_readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def tell() -> None:
        loop.remove_reader(connection)
        if not waiter.done():
            waiter.set_result(None)

    loop.add_reader(connection, tell)
    try:
        await waiter
    finally:
        loop.remove_reader(connection)
