"""Connections that begin with a PROXY header, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from live.certificates import needs_openssl, self_signed, trusting
from unit.test_proxy import CLIENT, GOOD, REQUEST, V2, client_of, inet, v2

from uvicorn_worker._types import Address
from uvicorn_worker.config import IDLE_GRACE, Settings
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.observe import Observer
from uvicorn_worker.proxied import take_proxy_header
from uvicorn_worker.proxy import Told
from uvicorn_worker.server import Server

from .harness import Log, get, turn
from .test_observe import Access

# The tests run as coroutines by the hook that closes what the fixture has served.
pytestmark = pytest.mark.usefixtures("serve")

LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
TOLD = Told(CLIENT, ("192.0.2.1", 80))

headers = pytest.mark.parametrize("header", [LINE, v2(inet()), v2(inet(), rest=bytes(500))], ids=["v1", "v2", "TLVs"])


#: How TLS begins.
HELLO = b"\x16\x03\x01\x02\x00\x01"

# What is taken from a socket.


@asynccontextmanager
async def pair(kind: str = "unix") -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A socket to read from, and the other end of it."""
    if kind == "unix":
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            far = socket.create_connection(listener.getsockname())
            near, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        yield near, far


def what_is_left(near: socket.socket) -> bytes:
    try:
        return near.recv(1 << 16)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize(("version", "header", "client"), GOOD)
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_header_is_taken_and_not_a_byte_more(
    kind: str, version: str, header: bytes, client: Address | None
) -> None:
    async with pair(kind) as (near, far):
        far.sendall(header + REQUEST)
        told, taken = await take_proxy_header(near, version, allowed=True, tls=False)
        assert (client_of(told), taken) == (client, b"")
        assert what_is_left(near) == REQUEST


@headers
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_header_may_come_byte_by_byte(kind: str, header: bytes) -> None:
    async with pair(kind) as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=False))
        for byte in header[:-1]:
            far.sendall(bytes((byte,)))
            await turn(4)
            assert not taking.done()
        far.sendall(header[-1:] + REQUEST)
        assert await taking == (TOLD, b"")
        assert what_is_left(near) == REQUEST


@headers
async def test_a_header_that_has_come_in_part_leaves_nothing_to_wake_up_for(header: bytes) -> None:
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=False))
        for size in range(1, len(header)):
            far.sendall(header[size - 1 : size])
            await turn(4)
            assert what_is_left(near) == b""
        far.sendall(header[-1:])
        assert await taking == (TOLD, b"")


@pytest.mark.parametrize("data", [REQUEST, b"POST / HTTP/1.1\r\n", b"\r\n" + REQUEST, HELLO])
async def test_what_is_no_header_stays_or_is_handed_over(data: bytes) -> None:
    async with pair() as (near, far):
        far.sendall(data)
        assert await take_proxy_header(near, "auto", allowed=True, tls=False) == (None, b"")
        assert what_is_left(near) == data
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=False))
        for byte in data:
            far.sendall(bytes((byte,)))
            await turn(4)
        client, taken = await taking
        assert (client, taken + what_is_left(near)) == (None, data)


@pytest.mark.parametrize("sent", [b"P", b"PRO", V2[:1], V2[:-1]])
async def test_before_tls_what_has_come_and_is_no_header_ends_the_connection(sent: bytes) -> None:
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=True))
        far.sendall(sent)
        await turn(4)
        far.sendall(HELLO)
        with pytest.raises(ConnectionAbortedError):
            await taking


@pytest.mark.parametrize("header", [b"", LINE, v2(inet())])
async def test_before_tls_a_header_is_taken_and_what_is_of_tls_stays(header: bytes) -> None:
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=True))
        far.sendall(header[:3])
        await turn(4)
        far.sendall(header[3:] + HELLO)
        assert await taking == (TOLD if header else None, b"")
        assert what_is_left(near) == HELLO


@pytest.mark.parametrize("sent", [b"", b"PRO", LINE[:-1], V2, v2(inet())[:-1]])
async def test_a_peer_that_goes_has_sent_no_header(sent: bytes) -> None:
    async with pair() as (near, far):
        far.sendall(sent)
        far.close()
        with pytest.raises(ConnectionAbortedError):
            await take_proxy_header(near, "auto", allowed=True, tls=False)


async def test_a_wait_that_is_cancelled_leaves_the_socket_to_others() -> None:
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=True, tls=False))
        await turn()
        taking.cancel()
        await turn()
        assert taking.cancelled()
        assert not asyncio.get_running_loop().remove_reader(near)
        far.sendall(LINE)
        assert await take_proxy_header(near, "auto", allowed=True, tls=False) == (TOLD, b"")


async def test_a_refused_header_ends_the_wait() -> None:
    async with pair() as (near, far):
        taking = asyncio.create_task(take_proxy_header(near, "auto", allowed=False, tls=False))
        far.sendall(b"PROX")
        await turn(4)
        assert not taking.done()
        far.sendall(b"Y ")
        with pytest.raises(RequestRefused, match="not allowed"):
            await taking


# What becomes of a connection.


class Served:
    """A server on a socket, and its application, which answers with the client that it is told."""

    def __init__(
        self,
        listener: socket.socket,
        settings: dict[str, Any],
        access: Access | None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.calls = 0
        self.log = Log()
        self.address = listener.getsockname()
        self.family = listener.family
        given = {"proxy_protocol": "auto", "keepalive": 5.0, "server_header": b"", "date_header": False} | settings
        observer = Observer(self.log, access) if access is not None else None
        self.server = Server(self, Settings(**given), [listener], self.log, tls=tls, observer=observer)
        self.clients: list[asyncio.StreamWriter] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        self.calls += 1
        content = f"{message['client']} {message['scheme']}".encode()
        await channels["reply"].send({"status": 200, "content": content})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(self.address)
        else:
            reader, writer = await asyncio.open_connection(*self.address)
        self.clients.append(writer)
        return reader, writer

    async def ask(self, *pieces: bytes) -> bytes:
        """All that comes in answer until the connection ends."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await turn(4)
        return await reader.read()

    @property
    def connections(self) -> int:
        return len(self.server._service.connections)


@asynccontextmanager
async def served(
    path: Path | None = None, access: Access | None = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serves within, and leaves nothing behind."""
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen()
    given = Served(listener, settings, access, tls)
    serving = asyncio.create_task(given.server.serve())
    try:
        yield given
    finally:
        for writer in given.clients:
            writer.close()
        given.server.stop()
        await asyncio.wait_for(serving, 10)
    assert given.connections == 0
    assert given.log.take() == []
    await turn()
    assert asyncio.all_tasks() == {asyncio.current_task()}


CLOSE = get("/", "Connection: close")


def told(host: str = "203.0.113.7", port: int = 4711, scheme: str = "http") -> bytes:
    return f"{(host, port)} {scheme}".encode()


@headers
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_client_is_the_one_that_the_header_tells_of(tmp_path: Path, kind: str, header: bytes) -> None:
    async with served(tmp_path / "socket" if kind == "unix" else None) as server:
        assert (await server.ask(header + CLOSE)).endswith(told())
        assert (await server.ask(header, CLOSE)).endswith(told())
        assert (await server.ask(*(bytes((byte,)) for byte in header + CLOSE))).endswith(told())


@headers
async def test_it_is_that_of_every_request_of_the_connection(header: bytes) -> None:
    async with served() as server:
        reader, writer = await server.connect()
        writer.write(header)
        for _ in range(20):
            writer.write(get("/"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(len(told())) == told()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(command=0x20, family=0), v2(bytes(216), family=0x31)])
async def test_a_header_without_an_address_leaves_the_peer(header: bytes) -> None:
    async with served() as server:
        assert b"\r\n\r\n('127.0.0.1', " in await server.ask(header + CLOSE)


async def test_a_connection_need_not_begin_with_a_header() -> None:
    async with served() as server:
        assert b"('127.0.0.1', " in await server.ask(CLOSE)
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
        assert b"('127.0.0.1', " in await server.ask(*(bytes((byte,)) for byte in post))
        assert b"('127.0.0.1', " in await server.ask(b"P", post[1:])
        assert b"('127.0.0.1', " in await server.ask(b"\r", b"\n" + post)


async def test_a_header_is_no_request_where_none_is_expected() -> None:
    async with served(proxy_protocol="off") as server:
        assert (await server.ask(LINE + CLOSE)).startswith(b"HTTP/1.1 ")
    async with served(proxy_protocol="v1") as server:
        assert (await server.ask(v2(inet()) + CLOSE)).startswith(b"HTTP/1.1 501 ")
    async with served(proxy_protocol="v2") as server:
        assert not (await server.ask(LINE + CLOSE)).startswith(b"HTTP/1.1 200 ")
        assert server.calls == 0


@headers
async def test_a_header_comes_first_or_not_at_all(header: bytes) -> None:
    async with served() as server:
        assert not (await server.ask(header + header + CLOSE)).startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 200" not in (await server.ask(CLOSE[:-2] + b"\r\n" + header)).partition(b"http")[2]
        assert server.calls == 1


@headers
async def test_a_header_of_a_peer_that_may_send_none_is_forbidden(header: bytes) -> None:
    async with served(proxy_allow_ips=("10.0.0.0/8",)) as server:
        reply = await server.ask(header + CLOSE)
        assert reply.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"connection: close\r\n" in reply
        assert b"HTTP/1.1 200" not in reply
        assert server.calls == 0
        [line] = server.log.take()
        assert line == "Refused a connection of 127.0.0.1: A PROXY header is not allowed from this address"
        assert b"('127.0.0.1', " in await server.ask(CLOSE)


@headers
async def test_at_a_unix_socket_anybody_may_send_one(tmp_path: Path, header: bytes) -> None:
    async with served(tmp_path / "socket", proxy_allow_ips=()) as server:
        assert (await server.ask(header + CLOSE)).endswith(told())


@pytest.mark.parametrize("header", [b"PROXY nonsense\r\n", b"PROXY " + b"1" * 200, v2(inet()[:-1]), v2(size=65535)])
async def test_a_malformed_header_is_answered_and_nothing_behind_it_is_served(header: bytes) -> None:
    async with served() as server:
        reply = await server.ask(header + CLOSE)
        assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert reply.count(b"HTTP/1.1 ") == 1
        assert server.calls == 0
        assert len(server.log.take()) == 1


@pytest.mark.parametrize("sent", [b"", b"PROX", LINE[:-2], V2, v2(inet())[:-1]])
async def test_a_header_that_never_comes_meets_the_deadline_for_the_head(sent: bytes) -> None:
    async with served(head_timeout=0.1) as server:
        assert await server.ask(sent) == b""
        assert server.connections == 0


@pytest.mark.parametrize("sent", [b"", LINE[:-2]])
async def test_a_peer_that_goes_before_it_has_begun_is_forgotten(sent: bytes) -> None:
    async with served() as server:
        _, writer = await server.connect()
        writer.write(sent)
        await turn(4)
        writer.write_eof()
        while not server.connections:
            await asyncio.sleep(0)
        while server.connections:
            await asyncio.sleep(0)


async def test_connections_that_have_not_begun_count_for_the_ceiling() -> None:
    async with served(worker_connections=1) as server:
        first, writer = await server.connect()
        while not server.connections:
            await asyncio.sleep(0)
        asking = asyncio.create_task(server.ask(LINE + CLOSE))
        await turn(50)
        assert server.connections == 1
        assert not asking.done()
        writer.write(LINE + CLOSE)
        assert (await first.read()).endswith(told())
        writer.close()
        assert (await asking).endswith(told())
        server.log.take()


async def test_a_connection_that_has_not_begun_does_not_keep_the_worker() -> None:
    async with served(head_timeout=0, graceful_timeout=60.0) as server:
        waiting = [await server.connect() for _ in range(3)]
        for (_, writer), sent in zip(waiting, (b"", b"PROX", v2(inet())[:20]), strict=True):
            writer.write(sent)
        while server.connections < 3:
            await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        server.server.stop()
        for reader, _ in waiting:
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() >= began + IDLE_GRACE


async def test_a_header_that_comes_while_the_worker_stops_is_still_read() -> None:
    async with served() as server:
        reader, writer = await server.connect()
        while not server.connections:
            await asyncio.sleep(0)
        server.server.stop()
        await turn()
        writer.write(LINE + get("/"))
        assert (await reader.read()).endswith(told())


async def test_a_connection_that_has_not_begun_ends_with_an_abort() -> None:
    async with served(head_timeout=0) as server:
        reader, _ = await server.connect()
        while not server.connections:
            await asyncio.sleep(0)
        server.server.abort()
        assert await reader.read() == b""


# Before TLS.


@needs_openssl
@pytest.mark.parametrize("sent", [b"P", b"PRO", V2[:4]])
async def test_what_comes_in_the_clear_is_never_part_of_what_tls_carries(tmp_path: Path, sent: bytes) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async with served(tls=context) as server:
        _, writer = await server.connect()
        writer.write(sent)
        while not server.connections:
            await asyncio.sleep(0)
        await turn(50)
        with pytest.raises(OSError):
            await writer.start_tls(trusting(certificate[0]), server_hostname="localhost")
    assert server.calls == 0


# Together with fields.

FIELDS = ("X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https")


@headers
async def test_fields_of_a_client_that_is_no_proxy_tell_nothing(header: bytes) -> None:
    async with served() as server:
        reply = await server.ask(header + get("/", *FIELDS, "Connection: close"))
        assert reply.endswith(told())


async def test_names_with_an_underscore_are_not_for_a_client_that_is_no_proxy() -> None:
    async with served(header_map="refuse") as server:
        reply = await server.ask(LINE + get("/", "SCRIPT_NAME: /admin", "Connection: close"))
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert server.calls == 0


async def test_a_client_that_is_a_trusted_proxy_tells_of_its_own_client() -> None:
    async with served(forwarded_allow_ips=("127.0.0.1", "203.0.113.0/24")) as server:
        reply = await server.ask(LINE + get("/", *FIELDS, "Connection: close"))
        assert reply.endswith(told("198.51.100.1", 0, "https"))


async def test_a_peer_that_may_only_send_headers_tells_nothing_by_fields() -> None:
    async with served(forwarded_allow_ips=("203.0.113.7",)) as server:
        reply = await server.ask(LINE + get("/", *FIELDS, "Connection: close"))
        assert reply.endswith(told())


# What hooks and loggers are shown.


async def shown(*pieces: bytes, path: Path | None = None) -> tuple[Any, dict[str, Any]]:
    """The request and the environment of one connection's only record."""
    access = Access()
    async with served(path, access) as server:
        await server.ask(*pieces, get("/", *FIELDS, "Connection: close"))
        [(_, request, environ, _)] = access.records
        return request, environ


@headers
async def test_hooks_and_loggers_are_shown_what_the_header_tells(header: bytes) -> None:
    request, environ = await shown(header)
    assert request.proxy_protocol_info == {
        "proxy_protocol": "TCP4",
        "client_addr": "203.0.113.7",
        "client_port": 4711,
        "proxy_addr": "192.0.2.1",
        "proxy_port": 80,
    }
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("203.0.113.7", "4711")
    names = ("PROXY_PROTOCOL", "PROXY_ADDR", "PROXY_PORT")
    assert [environ[name] for name in names] == ["TCP4", "192.0.2.1", "80"]


@headers
async def test_the_peer_is_still_who_has_connected(tmp_path: Path, header: bytes) -> None:
    request, _ = await shown(header)
    assert request.peer_addr == request.remote_addr
    assert request.peer_addr[0] == "127.0.0.1"
    request, _ = await shown(header, path=tmp_path / "socket")
    assert request.peer_addr == ""


@pytest.mark.parametrize("header", [b"", b"PROXY UNKNOWN\r\n", v2(command=0x20, family=0)])
async def test_where_no_address_is_told_there_is_nothing_to_show(header: bytes) -> None:
    request, environ = await shown(header)
    assert request.proxy_protocol_info is None
    assert request.peer_addr == (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"]))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert not any(name.startswith("PROXY_") for name in environ)
