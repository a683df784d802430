"""Every limit, timeout and default, each with its unit. ``options.py`` says where other values come from."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Bytes that the parser is fed at once; what it can't be stopped in the middle of (httptools has no pause).
SLICE = 16 * 1024

#: Bytes of chunk extensions and trailers, neither of which anybody sees, that one request may have.
UNSEEN_BYTES = 16 * 1024

#: Bytes of CRLF that may stand before a request line (RFC 9112 section 2.2 asks to ignore at least one), with the
#: longest method name, of which the parser says nothing either until the target begins.
BLANK_BYTES = 16 + 16

#: Seconds that an idle connection is still read for when the worker stops: a request may be on its way.
IDLE_GRACE = 0.5

#: Seconds that requests may still take when a file has changed (Gunicorn ``reload``): a developer waits for the worker.
RELOAD_GRACE = 3.0

#: Seconds that tasks which the application has left behind get, at most, to see their cancellation; asynchronous
#: generators get as many to be closed, and as many more to see theirs.
TASK_GRACE = 0.15

#: Seconds that threads may still take when everything else of the worker has ended, where nothing was to be waited for
#: or the time for it is over.
THREAD_GRACE = 0.25

#: Seconds that writing out what is buffered may take a worker that leaves threads behind.
FLUSH_GRACE = 0.5

#: Seconds that a TLS handshake may take.
TLS_HANDSHAKE_TIMEOUT = 10.0

#: Bytes of a PROXY header, most of which are fields that nobody looks at.
PROXY_HEADER_BYTES = 4096

#: Seconds that receive calls of a WebSocket may still take when the worker stops, and, when its disconnect call has
#: ended, the call for its handshake.
RECEIVE_GRACE = 1.0

#: Bytes past which content is written beside its head instead of being copied behind it.
COPY_BOUND = 16 * 1024

#: Bytes of the fields of a WebSocket handshake that are lists, which take long to parse.
HANDSHAKE_BYTES = 4096

#: Bytes of a file that are read at once.
FILE_PIECE = 256 * 1024

#: Bytes from which a WebSocket message is compressed, where each is compressed by itself: a shorter one gains little.
DEFLATE_FROM = 1024

#: The windows of permessage-deflate, as a power of 2, and zlib's memLevel: 16 KiB and 32 KiB while one is in use.
DEFLATE_WINDOW_BITS = 12
DEFLATE_MEMORY_LEVEL = 5

#: Bytes of UTF-8 of the name of a group.
GROUP_NAME_BYTES = 512

#: The largest that a message to a group may be set to be, in bytes: workers take frames of each other up to this, as
#: another generation of them may have other settings.
GROUP_MESSAGE_BOUND = 256 * 1024 * 1024

#: Seconds that a new worker waits for the others to say that they know it.
GROUPS_JOIN_TIME = 1.0

#: Seconds between two looks of a worker at the file by which others find it.
MESH_LOOK = 60.0

#: Bytes that may wait for a worker until senders wait for it, and seconds that they do, at most.
PEER_BACKLOG = 1024 * 1024
PEER_PATIENCE = 1.0

#: Bytes that may wait for a worker until messages are dropped for it.
PEER_BOUND = 8 * 1024 * 1024

#: Groups of which a worker is told that it has missed messages; where there are more, it is told so of all.
PEER_MISSED_GROUPS = 1000

#: Bytes that are gathered for other workers until they are written without waiting for the end of the loop's turn.
PEER_BATCH = 256 * 1024

#: Times within so many seconds that a worker writes to the others at once; then it gathers messages for as long.
PEER_FLUSHES = 4
PEER_PACE = 0.001

#: Seconds until a worker that could not be reached is tried again.
PEER_RETRY = 0.1

#: Seconds that what was sent may take to leave when the worker stops.
PEER_FLUSH_TIME = 0.25

#: Bytes of messages to groups, sent or received, after which the loop is let turn, each delivery to a member counting
#: for some.
TURN_BYTES = 64 * 1024
DELIVERY_BYTES = 1

#: Bytes of messages to groups that are gathered until they are written to members without waiting for the end of the
#: loop's turn.
GATHERED_BYTES = 64 * 1024

#: Seconds for which a subscription is kept that no group needs any more: others may.
GROUP_LINGER = 1.0

#: The version of redis-py that is known here.
REDIS_PY = "8"

#: Seconds that a connection to Redis may take to be made, and that joining a group may wait for its answer.
REDIS_CONNECT_TIME = 5.0
REDIS_JOIN_TIME = 5.0

#: Seconds until Redis is tried again: at first, and at most.
REDIS_PAUSE = 0.05
REDIS_LONGEST_PAUSE = 1.0

#: Channels that are asked for by one command, and bytes of messages that are written to Redis at once.
REDIS_CHANNELS = 500
REDIS_BATCH = 256 * 1024

#: Seconds between two looks at the nodes of a cluster, at least.
REDIS_CLUSTER_PAUSE = 0.1

#: Seconds that a member which was closed because it reads too slowly may take to read what it was sent.
SLOW_CLOSE_TIME = 5.0

#: File descriptors that are kept back from connections, for logs, files and the application's own sockets.
RESERVED_DESCRIPTORS = 64

#: Statuses of responses that have no body (RFC 9110 section 6.4.1).
BODILESS_STATUSES = frozenset((*range(100, 200), 204, 304))

#: The name of a field (RFC 9110 section 5.6.2).
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Settings:
    """What one worker goes by. Sizes are bytes, times are seconds; 0 seconds means no limit unless said."""

    #: The mount point of the application, ``''`` or ``'/prefix'``.
    root_path: str = ""
    #: Fields added to every response, as pairs of bytes.
    headers: tuple[tuple[bytes, bytes], ...] = ()
    #: The value of the ``server`` field; ``b''`` leaves it out.
    server_header: bytes = b"uvicorn-worker"
    #: Whether responses have a ``date`` field.
    date_header: bool = True
    #: From the connection, or a request's first byte, to the end of its head.
    head_timeout: float = 10.0
    #: How long a closing connection is still read, so that the client gets the answer instead of a reset.
    linger_timeout: float = 2.0
    #: Requests of one connection that are parsed ahead of the one being answered.
    pipelined_requests: int = 20
    #: Unread bytes of a request's body past which the socket is not read.
    request_body_buffer: int = 64 * 1024
    #: Bytes of an unread body that are read and dropped so that the connection can be kept.
    unread_body_limit: int = 64 * 1024

    #: Of a WebSocket message, uncompressed; 0 means no limit.
    ws_max_size: int = 16 * 1024 * 1024
    #: Unfinished receive calls of one WebSocket, past which the socket is not read.
    ws_max_queue: int = 32
    #: Between two pings of a WebSocket; 0 means none.
    ws_ping_interval: float = 20.0
    #: How long the answer to a ping is waited for; 0 means that none is needed.
    ws_ping_timeout: float = 20.0
    #: How long the client's part in closing a WebSocket is waited for.
    ws_close_timeout: float = 10.0
    #: Whether WebSocket messages are compressed, if the client can do so (RFC 7692).
    ws_per_message_deflate: bool = True
    #: Whether compression goes by the messages before, too, for some 50 KiB of memory a WebSocket.
    ws_context_takeover: bool = False

    #: The URL of the engine that brings messages of groups to all workers.
    groups: str = "local://"
    #: Bytes of a message to a group.
    groups_max_size: int = 16 * 1024 * 1024
    #: Bytes of earlier messages to groups that may still wait for a member when another one comes.
    groups_max_backlog: int = 1024 * 1024
    #: What becomes of members that may have missed a message: ``'log'`` (they stay) or ``'close'``.
    groups_gap: str = "log"

    #: An idle connection is closed after it (Gunicorn ``keepalive``); 0 means no keep-alive.
    keepalive: float = 2.0
    #: A stalled body, or a stalled end of a response, is waited for so long (Gunicorn ``timeout``).
    timeout: float = 30.0
    #: From the signal to stop to the end of the process (Gunicorn ``graceful_timeout``).
    graceful_timeout: float = 30.0
    #: Bytes of a request line, without its end (Gunicorn ``limit_request_line``); 0 means that the head's bound is it.
    request_line_limit: int = 0
    #: Fields of a request (Gunicorn ``limit_request_fields``).
    field_count_limit: int = 1000
    #: Bytes of one field line with its end (Gunicorn ``limit_request_field_size``); 0 as for the request line.
    field_size_limit: int = 0
    #: Bytes of a whole head.
    head_limit: int = 64 * 1024
    #: Connections at a time (Gunicorn ``worker_connections``); 0 means what the file descriptors allow.
    worker_connections: int = 0
    #: Whether fields of trusted proxies say who the client is, and by which scheme it came.
    proxy_headers: bool = True
    #: Addresses and networks of these proxies, ``'*'`` for all; a Unix socket is trusted (Gunicorn
    #: ``forwarded_allow_ips``).
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")
    #: Names of fields, in lower case, and the values that mean https (Gunicorn ``secure_scheme_headers``).
    secure_scheme_headers: tuple[tuple[bytes, bytes], ...] = (
        (b"x-forwarded-protocol", b"ssl"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-ssl", b"on"),
    )
    #: What becomes of fields with an underscore in their names: ``'drop'``, ``'refuse'`` (the request), ``'keep'``,
    #: or ``'dangerous'``, which makes variables of them, too, where there is an environment (Gunicorn ``header_map``).
    header_map: str = "keep"
    #: The names, in lower case, that trusted proxies may send nevertheless; ``b'*'`` for all (Gunicorn
    #: ``forwarder_headers``).
    forwarder_headers: tuple[bytes, ...] = (b"script_name", b"path_info")
    #: Which PROXY headers may begin a connection: ``'off'``, ``'v1'``, ``'v2'`` or ``'auto'`` (Gunicorn
    #: ``proxy_protocol``).
    proxy_protocol: str = "off"
    #: Who may send them, as for ``forwarded_allow_ips`` (Gunicorn ``proxy_allow_ips``).
    proxy_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")
    #: Whether there is an access log, if Gunicorn is to write one.
    access_log: bool = True
    #: Whether WebSockets are served.
    ws: bool = True
    #: ``'auto'``, ``'channels'`` or ``'asgi3'``.
    interface: str = "auto"
    #: Whether ASGI's lifespan is ``'on'``, ``'off'``, or tried: ``'auto'`` (Gunicorn ``asgi_lifespan``).
    lifespan: str = "auto"
    #: Whether applications are told that a file can be sent by its path (ASGI ``http.response.pathsend``; Gunicorn
    #: ``sendfile``).
    pathsend: bool = True
    #: How long the application may take to start.
    lifespan_timeout: float = 300.0
    #: How long a call may go on when its client has gone; ``None`` means as long as it likes (Gunicorn
    #: ``asgi_disconnect_grace_period``).
    disconnect_grace: float | None = None
    #: ``'uvloop'`` or ``'asyncio'`` (Gunicorn ``asgi_loop``).
    loop: str = "uvloop"

    @property
    def has_tight_limits(self) -> bool:
        """Whether a limit is set that a head of one slice can exceed."""
        return bool(self.request_line_limit or self.field_size_limit)
