"""HTTP by a bundled driver: as many connections as a workload has, on one event loop."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httptools

from benchmarks.drivers import Load, Target, Wrong, together


@dataclass(frozen=True)
class Requests:
    """One request, asked again and again."""

    #: As it is sent; several in a row where they are pipelined.
    sent: bytes
    #: Bytes of content of the one right reply, whose status is 200.
    expects: int
    #: How many requests ``sent`` has.
    pipelined: int = 1
    connections: int = 64
    #: Whether each request has a connection of its own, which the server closes.
    closes: bool = False

    async def check(self, target: Target) -> None:
        """Ask once.

        :raises Wrong: if the reply is not the right one.
        :raises OSError: if there is nobody to ask.
        """
        await self._client(Run(self, 0), target)

    async def drive(self, target: Target, seconds: float) -> Load:
        """Ask for so long, on all connections.

        :raises Wrong: if one reply is not the right one.
        :raises OSError: if a connection can't be made.
        """
        run = Run(self, seconds)
        await together(self._client(run, target) for _ in range(self.connections))
        return Load.of(run.latencies, time.perf_counter() - run.began)

    @asynccontextmanager
    async def held(self, target: Target) -> AsyncIterator[None]:
        """All connections are open, and idle after a reply each."""
        run = Run(self, 0)
        opened = []
        try:
            for _ in range(self.connections):
                opened.append(await connect(run, target))
                await opened[-1].ended
            yield
        finally:
            for connection in opened:
                connection.transport.abort()

    async def _client(self, run: Run, target: Target) -> None:
        while True:
            connection = await connect(run, target)
            try:
                await connection.ended
            finally:
                connection.transport.abort()
            if run.is_over(time.perf_counter()):
                return


class Run:
    """What the connections of one run share."""

    def __init__(self, requests: Requests, seconds: float) -> None:
        self.requests = requests
        self.latencies: list[float] = []
        self.began = time.perf_counter()
        self._end = self.began + seconds

    def is_over(self, now: float) -> bool:
        return now >= self._end


class Connection(asyncio.Protocol):
    """A closed loop: the next request goes out when the replies to those before are here."""

    transport: asyncio.Transport

    def __init__(self, run: Run, asked: float) -> None:
        self._run = run
        self._sent, self._expects, self._pipelined = run.requests.sent, run.requests.expects, run.requests.pipelined
        self._parser = httptools.HttpResponseParser(self)
        self._asked = asked
        self._awaited = self._length = 0
        #: Done when the run is over and nothing is awaited; raises what went wrong.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Wrong(f"not HTTP: {error}"))

    def on_message_begin(self) -> None:
        self._length = 0

    def on_body(self, body: bytes) -> None:
        self._length += len(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200 or self._length != self._expects:
            return self._fail(Wrong(f"status {status} with {self._length} bytes, not 200 with {self._expects}"))
        now = time.perf_counter()
        self._run.latencies.append(now - self._asked)
        self._awaited -= 1
        if not self._awaited:
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        if self._run.requests.closes or self._run.is_over(now):
            if not self.ended.done():
                self.ended.set_result(None)
        else:
            self._asked = now
            self._ask()

    def _ask(self) -> None:
        self._awaited = self._pipelined
        self.transport.write(self._sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("closed by the server"))

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


async def connect(run: Run, target: Target) -> Connection:
    """A connection that has asked; its first latency counts from here, so that it has the handshake in it."""
    loop, asked = asyncio.get_running_loop(), time.perf_counter()
    context = trusting_all() if target.tls else None
    return (await loop.create_connection(lambda: Connection(run, asked), "127.0.0.1", target.port, ssl=context))[1]


def trusting_all() -> ssl.SSLContext:
    """The context of a client that looks at no certificate: the server's is its own, made for the run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
