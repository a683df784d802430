"""One worker without sockets: real protocol objects over transports whose other end a test holds in its hand.

Time passes when a test says so, in ticks of the worker's clock: :meth:`Worker.wait`.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar, cast

import pytest
import uvloop

from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.clock import Clock, Deadlines
from uvicorn_worker.config import Settings
from uvicorn_worker.http11.exchange import Exchange
from uvicorn_worker.http11.protocol import HTTP11Protocol
from uvicorn_worker.http11.upgrade import Upgrade
from uvicorn_worker.server import UPGRADES, ASGIExchange, ASGISession, ChannelsExchange, ChannelsSession
from uvicorn_worker.service import Service

T = TypeVar("T")


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

#: For tests that make thousands of connections, or where the loop makes no difference.
asyncio_only = pytest.mark.parametrize("loop_factory", ["asyncio"], indirect=True)


def run(main: Coroutine[Any, Any, T]) -> T:
    """The result of ``main`` in a loop of its own."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(main)


async def turn(turns: int = 12) -> None:
    """Let the loop do everything that can be done without another byte or second."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Socket:
    """What a test can see of the socket under a transport: the options that were set."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int, bytes | int]] = []

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        self.options.append((level, option, value))


class Transport(asyncio.Transport):
    """What a loop's own transport does, the order and the delays of its calls included.

    Bytes that are written leave at once, unless :attr:`holds` is true: then they fill the write buffer.
    """

    HIGH_WATER = 64 * 1024
    LOW_WATER = 16 * 1024

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: HTTP11Protocol, context: Context) -> None:
        super().__init__()
        self._loop = loop
        self._protocol: asyncio.BaseProtocol | None = protocol
        self._context = context
        self._inbound: deque[bytes | None] = deque()
        self._buffer = bytearray()
        self._closing = self._writing_paused = False
        self.socket = Socket()
        self.holds = False
        self.can_half_close = True
        self.reading = True
        self.half_closed = False
        self.aborted = False
        self.lost = False
        #: What came with each call, as a tuple where that was several pieces.
        self.writes: list[Any] = []
        self.sent = bytearray()
        context.run(protocol.connection_made, self)

    # What the protocol calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert type(data) is bytes, "a transport may keep a reference to what it is given"
        assert data, "an empty write costs a system call for nothing"
        if self.half_closed:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._protocol is None:
            raise RuntimeError("the handler is closed")
        if self._closing:
            return
        self.writes.append(data)
        self._buffer += data
        if not self.holds:
            self._flush(len(self._buffer))
        elif len(self._buffer) > self.HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            # In a copy of the context, because the protocol may be writing within it.
            self._context.copy().run(cast(asyncio.Protocol, self._protocol).pause_writing)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        pieces = cast("tuple[bytes, ...]", (*list_of_data,))
        assert all(type(piece) is bytes for piece in pieces), "a transport may keep references to what it is given"
        writes = len(self.writes)
        self.write(b"".join(pieces))
        if len(self.writes) > writes:
            self.writes[-1] = pieces

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading and not self._closing:
            self.reading = True
            self._loop.call_soon(self._deliver)

    def can_write_eof(self) -> bool:
        return self.can_half_close

    def write_eof(self) -> None:
        assert self.can_half_close
        self.half_closed = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._lose(None)

    def abort(self) -> None:
        self.aborted = True
        self._lose(None)

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    # What the client does.

    def client_sends(self, data: bytes | None) -> None:
        """Bytes, or ``None`` for their end, are in the socket's buffer; they are read as soon as reading allows."""
        self._inbound.append(data)
        self._deliver()

    def client_reads(self, size: int) -> None:
        """So many bytes of the write buffer leave."""
        self._flush(size)

    def client_resets(self) -> None:
        self._lose(ConnectionResetError(104, "Connection reset by peer"))

    @property
    def unread(self) -> int:
        """Bytes that the client has sent and nobody has read."""
        return sum(len(data or b"") for data in self._inbound)

    def _deliver(self) -> None:
        while self._inbound and self.reading and not self._closing:
            data = self._inbound.popleft()
            if data is not None:
                self._protocol_does("data_received", data)
            elif not self._protocol_does("eof_received"):
                self.close()

    def _flush(self, size: int) -> None:
        self.sent += self._buffer[:size]
        del self._buffer[:size]
        if self._writing_paused and len(self._buffer) <= self.LOW_WATER:
            self._writing_paused = False
            self._protocol_does("resume_writing")
        if self._closing and not self._buffer:
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        self._buffer.clear()
        if not self.lost:
            self.lost = True
            self._loop.call_soon(self._protocol_lost, error)

    def _protocol_lost(self, error: Exception | None) -> None:
        self._protocol_does("connection_lost", error)
        self._protocol = None

    def _protocol_does(self, name: str, *args: Any) -> Any:
        if self._protocol is not None:
            return self._context.run(getattr(self._protocol, name), *args)
        return None


def pieces_of(writes: list[Any]) -> list[bytes]:
    """What was written, whether it came piece by piece or several at once."""
    return [piece for write in writes for piece in (write if type(write) is tuple else (write,)) if piece]


class Client:
    """The other end of a connection."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._taken = 0
        self._writes_taken = 0

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.transport.client_sends(piece)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send, and take what comes in answer."""
        self.send(*pieces)
        await turn()
        return self.take()

    async def ask_slowly(self, *pieces: bytes) -> bytes:
        """The same with a turn of the loop after each piece."""
        for piece in pieces:
            self.send(piece)
            await asyncio.sleep(0)
        await turn()
        return self.take()

    def take(self) -> bytes:
        """What has come since the last call."""
        start, self._taken = self._taken, len(self.transport.sent)
        return bytes(self.transport.sent[start:])

    def take_writes(self) -> list[Any]:
        """The transport's writes since the last call, each by itself: bytes, or a tuple of several pieces."""
        start, self._writes_taken = self._writes_taken, len(self.transport.writes)
        return self.transport.writes[start:]

    def take_pieces(self) -> list[bytes]:
        """The pieces that were written since the last call: by one call, where the loop copies none for that."""
        writes = self.take_writes()
        assert len(writes) == 1 or not isinstance(asyncio.get_running_loop(), uvloop.Loop)
        return pieces_of(writes)

    @property
    def received(self) -> bytes:
        return bytes(self.transport.sent)

    def end(self) -> None:
        """Send no more."""
        self.transport.client_sends(None)

    def reset(self) -> None:
        self.transport.client_resets()

    def stop_reading(self) -> None:
        self.transport.holds = True

    def read(self, size: int | None = None) -> None:
        """Read some of what waits, or all of it and everything that follows."""
        if size is None:
            self.transport.holds = False
            size = self.transport.get_write_buffer_size()
        self.transport.client_reads(size)

    @property
    def state(self) -> str:
        """How the connection stands: ``open``, ``half-closed``, ``closing`` (with bytes unsent), ``closed`` or
        ``aborted``."""
        transport = self.transport
        if transport.lost:
            return "aborted" if transport.aborted else "closed"
        if transport.is_closing():
            return "closing"
        return "half-closed" if transport.half_closed else "open"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come, as far as the client can see."""
        return self.state != "open"


class Log:
    """Keeps lines by level, and apart from them those that say which request was refused."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str, Any]] = []
        self.refusals: list[str] = []

    def _add(self, level: str, line: str, args: tuple[Any, ...], exc_info: Any = None) -> None:
        line = line % args if args else line
        if line.startswith("Invalid request from ip="):
            self.refusals.append(f"{level}: {line}")
        else:
            self._lines.append((level, line, exc_info))

    def debug(self, line: str, *args: Any, **more: Any) -> None:
        self._add("debug", line, args, **more)

    def info(self, line: str, *args: Any, **more: Any) -> None:
        self._add("info", line, args, **more)

    def warning(self, line: str, *args: Any, **more: Any) -> None:
        self._add("warning", line, args, **more)

    def error(self, line: str, *args: Any, **more: Any) -> None:
        self._add("error", line, args, **more)

    def take(self) -> list[str]:
        """The warnings and errors since the last call, each with the name of the exception that it shows."""
        taken = [
            line + (f" [{type(error).__name__}: {error}]" if error else "")
            for level, line, error in self._lines
            if level in ("warning", "error")
        ]
        self._lines.clear()
        return taken


class Worker:
    """An application, served; ``settings`` are fields of Settings, without date and server unless they say so."""

    def __init__(self, app: Callable[..., Any], settings: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._unexpected)
        self.unexpected: list[dict[str, Any]] = []
        self.log = Log()
        self.clock = Clock(1000.0, 0.0)
        self._wall = 0.0
        self.settings = Settings(**({"server_header": b"", "date_header": False} | settings))
        self.service = Service(app, self.settings, self.log, self.loop, self.clock)
        self.engine = self.service.groups.engine = Engine()
        self.engine.sink = self.service.groups
        self.service.upgrades = {name.encode(): handler for name, handler in UPGRADES.items()}
        self.service.upgrade_class = Upgrade
        self.service.session_class = ChannelsSession
        self.clients: list[Client] = []
        self.exchange_class: type[Exchange] = ChannelsExchange
        self.protocol_class: type[HTTP11Protocol] = HTTP11Protocol

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.unexpected.append(context)

    def accept(self, client: Any = ("192.0.2.7", 50007), server: Any = ("192.0.2.1", 80)) -> HTTP11Protocol:
        """A connection that has no transport yet."""
        return self.protocol_class(self.service, self.exchange_class, client, server)

    def connect(self, client: Any = ("192.0.2.7", 50007), server: Any = ("192.0.2.1", 80)) -> Client:
        return self.make(self.accept(client, server))

    def make(self, protocol: HTTP11Protocol) -> Client:
        """Give an accepted connection its transport."""
        connection = Client(Transport(self.loop, protocol, self.service.context.copy()))
        self.clients.append(connection)
        return connection

    async def wait(self, seconds: int = 1) -> None:
        """Let so many ticks pass, and the loop do what comes of each."""
        for _ in range(seconds):
            self._wall += 1
            self.service.tick(self.clock.now + 1, self._wall)
            await turn(4)

    async def seconds_until_end(self, client: Client, most: int = 100) -> int:
        """How many ticks pass until the connection of ``client`` has ended."""
        for second in range(most):
            if client.has_ended:
                return second
            await self.wait(1)
        return most

    def jump(self, seconds: int) -> None:
        """Somebody sets the wall clock, ahead or back."""
        self._wall += seconds

    def drain(self) -> None:
        """What a server does with its connections when it is told to stop."""
        self.service.draining = True
        for connection in list(self.service.connections):
            connection.drain()
        self.service.groups.shed_held()

    async def end_grace(self) -> None:
        """What a server does some time after it has asked its connections to drain."""
        for connection in list(self.service.connections):
            connection.close_if_idle()
        await turn()

    @property
    def waiting(self) -> int:
        """How many deadlines are set."""
        values = (getattr(self.service, name, None) for name in self.service.__slots__)
        return sum(len(value) for value in values if isinstance(value, Deadlines))

    async def close(self) -> None:
        """End every connection, and see that nothing is left of it and that nothing went wrong unseen."""
        await turn()
        assert self.log.take() == []
        for client in self.clients:
            client.transport.abort()
        await turn()
        for running in list(self.service.running):
            running.cancel()
        await turn()
        assert self.unexpected == []
        assert not self.service.connections
        assert not self.service.running
        assert self.waiting == 0
        assert not self.service.groups.memberships
        assert asyncio.all_tasks() == {asyncio.current_task()}


class ASGIWorker(Worker):
    """The same for an application of ASGI 3."""

    def __init__(self, app: Callable[..., Any], settings: dict[str, Any]) -> None:
        super().__init__(app, settings)
        self.service.session_class = ASGISession
        self.exchange_class = ASGIExchange


def assert_unfinished(worker: Worker, call: str) -> None:
    """The one line in the log says that this call returned too early."""
    [line] = worker.log.take()
    assert line.startswith("The application returned without finishing its reply")
    assert line.endswith(call)


class CollectorOff:
    """Only reference counts free memory within it, and ``gc.get_objects`` tells only of what was made within it."""

    def __enter__(self) -> None:
        gc.disable()
        gc.freeze()

    def __exit__(self, *args: object) -> None:
        gc.unfreeze()
        gc.enable()


# Little applications.


async def hello(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "content": b"hello"})


HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


async def read_body(channels: dict[str, Any]) -> bytes:
    content = b""
    while "body" in channels:
        part = await channels["body"].receive()
        content += part["content"]
        if not part["more_content"]:
            break
    return content


class Echo:
    """Answers with the method, the path and the body, and remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        call = f"{message['method']} {message['path']}"
        self.calls.append(call)
        body = await read_body(channels)
        await channels["reply"].send({"status": 200, "content": call.encode() + b" " + body})


class Script:
    """Sends these messages; an error out of ``send`` is kept in ``error`` and ends the script."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.error: Exception | None = None

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        try:
            for reply in self.messages:
                await channels["reply"].send(reply)
        except Exception as error:
            self.error = error


class Gate:
    """Calls are held in the application until a test lets them go, one by one or all together."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        self.calls.append(message["path"])
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        await channels["reply"].send({"status": 200, "content": message["path"].encode()})

    async def open(self) -> None:
        self._waiters.popleft().set_result(None)
        await turn()

    async def open_all(self) -> None:
        while self._waiters:
            await self.open()


def get(path: str = "/", *fields: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(path: str, body: bytes, *fields: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(path: str, *chunks: bytes, trailers: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + b"0\r\n" + trailers + b"\r\n"


def ok(content: bytes | str) -> bytes:
    """The reply 200 with this content, and nothing but its length in the head."""
    content = content.encode() if isinstance(content, str) else content
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)
