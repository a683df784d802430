"""A client's part in the compression of WebSocket messages, permessage-deflate (RFC 7692)."""

from __future__ import annotations

import re
import zlib

from benchmarks.drivers import Unable

#: What browsers offer.
OFFER = "permessage-deflate; client_max_window_bits"

#: What ends each compressed message, and is not sent (section 7.2.1).
TAIL = b"\0\0\xff\xff"


class Deflate:
    """What one connection has agreed on.

    Each message is compressed by itself, which any agreement allows, so that the same bytes can be sent again.

    :param answer: the server's ``Sec-WebSocket-Extensions``.
    :raises Unable: if the server has not accepted the offer.
    """

    def __init__(self, answer: str) -> None:
        if not answer.startswith("permessage-deflate"):
            raise Unable("does not compress WebSocket messages")
        bits = re.search(r"client_max_window_bits=(\d+)", answer)
        self._bits = int(bits[1]) if bits else 15
        self._forgets = "server_no_context_takeover" in answer
        self._inflater = zlib.decompressobj(-15)

    def deflated(self, payload: bytes) -> bytes:
        deflater = zlib.compressobj(wbits=-self._bits)
        return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)

    def inflated(self, content: bytes) -> bytes:
        inflated = self._inflater.decompress(content + TAIL)
        if self._forgets:
            self._inflater = zlib.decompressobj(-15)
        return inflated
