"""Whether a request may become a WebSocket, and what is agreed with its client (RFC 6455 section 4.2, RFC 7692)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeaderValue, NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter

from uvicorn_worker._types import ReplyFields, RequestFields
from uvicorn_worker.config import DEFLATE_MEMORY_LEVEL, DEFLATE_WINDOW_BITS, HANDSHAKE_BYTES, Settings
from uvicorn_worker.errors import InvalidReply, RequestRefused
from uvicorn_worker.http11 import wire

#: The version that is spoken here, and what tells a client of another one so (RFC 6455 section 4.4).
VERSION_FIELDS = ((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))

#: Fields of the answer that are the handshake's own.
_OWN_FIELDS = frozenset(
    (b"connection", b"content-length", b"transfer-encoding", b"upgrade")
    + (b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol")
)

#: Fields of the request that the library judges, but for ``Upgrade`` and those of WebSocket.
_FIELDS = frozenset((b"connection", b"origin"))

# The library tells of each connection that opens and closes at the level INFO, which is nobody's wish here.
_log = logging.getLogger("uvicorn_worker.websockets")
_log.setLevel(logging.WARNING)


class Handshake(NamedTuple):
    """What is agreed, until the application answers."""

    #: Speaks for the connection from now on.
    library: ServerProtocol
    #: Fields of the answer.
    fields: list[tuple[bytes, bytes]]
    #: What the client can speak over the WebSocket, the best first.
    subprotocols: list[str]


def negotiate(method: str, fields: RequestFields, settings: Settings) -> Handshake:
    """Judge an opening handshake; raises :class:`RequestRefused` with 400, or 426 for another version."""
    if method != "GET":
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "The method of a WebSocket handshake is GET")
    library = ServerProtocol(
        state=OPEN,
        max_size=settings.ws_max_size or None,
        extensions=_extensions(settings.ws_per_message_deflate, settings.ws_context_takeover),
        logger=_log,
    )
    relevant = [field for field in fields if field[0] in _FIELDS or field[0].startswith(b"sec-websocket-")]
    if sum(len(value) for _, value in relevant) > HANDSHAKE_BYTES:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "Too much about the WebSocket in the handshake")
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in relevant])
    headers["Upgrade"] = "websocket"  # The client may have named others, too.
    try:
        # The path is of no interest to it.
        accept, extensions, _ = library.process_request(Request("/", headers))
        offered = [parse_subprotocol(value) for value in headers.get_all("Sec-WebSocket-Protocol")]
    except InvalidHandshake as error:
        other_version = isinstance(error, InvalidHeaderValue) and error.name == "Sec-WebSocket-Version"
        status = HTTPStatus.UPGRADE_REQUIRED if other_version else HTTPStatus.BAD_REQUEST
        raise RequestRefused(status, f"No WebSocket handshake: {error}") from None
    answer = [(b"Sec-WebSocket-Accept", accept.encode("ascii"))]
    if extensions is not None:
        answer.append((b"Sec-WebSocket-Extensions", extensions.encode("ascii")))
    return Handshake(library, answer, [name for names in offered for name in names])


class _Deflate(ServerPerMessageDeflateFactory):
    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        # zlib can't compress in so small a window; the library knows that from version 17 on.
        if ("server_max_window_bits", "8") in params:
            raise NegotiationError("unsupported server_max_window_bits = 8")
        return super().process_request_params(params, accepted_extensions)


@cache  # Connections have them as long as they last.
def _extensions(compresses: bool, keeps_context: bool) -> list[ServerPerMessageDeflateFactory]:
    if not compresses:
        return []
    # RFC 7692 section 7.1 lets a server ask for all of these unasked. Without them each connection keeps two windows.
    return [
        _Deflate(
            server_no_context_takeover=not keeps_context,
            client_no_context_takeover=not keeps_context,
            server_max_window_bits=DEFLATE_WINDOW_BITS,
            client_max_window_bits=DEFLATE_WINDOW_BITS,
            compress_settings={"memLevel": DEFLATE_MEMORY_LEVEL},
        )
    ]


def accepting_fields(
    handshake: Handshake, subprotocol: str | None, fields: ReplyFields
) -> list[tuple[bytes, bytes] | list[bytes]]:
    """The fields of the answer that accepts, with ``fields`` of the application.

    Raises :class:`InvalidReply` for a subprotocol that the client has not offered, for fields that are the
    handshake's own, and for what are no fields.
    """
    fields = wire.list_fields(fields)
    wire.encode_fields(fields)
    for name, _ in fields:
        if name.lower() in _OWN_FIELDS:
            raise InvalidReply(f"{name.decode('latin-1')} is the handshake's own, and no header of an application")
    if subprotocol is None:
        return [*handshake.fields, *fields]
    if subprotocol not in handshake.subprotocols:
        offered = ", ".join(handshake.subprotocols) or "none"
        raise InvalidReply(f"the client has not offered the subprotocol {subprotocol!r}; it has: {offered}")
    return [*handshake.fields, (b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")), *fields]
