"""Large bodies, slow peers: nothing is lost and memory stays flat."""

import hashlib
import os
import select

import pytest

from .client import chunked, request
from .harness import Serve, Server, memory

MIB = b"m" * (1 << 20)
ROOM = 32  # MiB that the worker may grow by while a body passes through it


def growth(server: Server, before: int) -> int:
    return memory(server.worker, "VmHWM") - before


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_large_upload_passes_through_flat_memory(serve: Serve, framing: str) -> None:
    server = serve()
    before = memory(server.worker, "VmRSS")
    length = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {256 << 20}"
    wire = server.connect(request("/count", length, method="POST"))
    for _ in range(256):
        wire.send(b"100000\r\n" + MIB + b"\r\n" if framing == "chunked" else MIB)
    wire.send(b"0\r\n\r\n" if framing == "chunked" else b"")
    assert wire.reply().text == str(256 << 20)
    assert growth(server, before) < ROOM


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_large_download_passes_through_flat_memory(serve: Serve, framing: str) -> None:
    server = serve()
    before = memory(server.worker, "VmRSS")
    wire = server.connect(request(f"/pour/{framing}/256", "Connection: close"))
    wire.until(b"\r\n\r\n")
    total = wire.count()
    assert total == 256 << 20 if framing == "sized" else total > 256 << 20
    assert growth(server, before) < ROOM


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_body_comes_back_as_it_was_sent(server: Server, framing: str) -> None:
    data = os.urandom(3 << 20)
    if framing == "sized":
        sent = request("/body", method="POST", body=data)
    else:
        pieces = [data[n : n + 70_001] for n in range(0, len(data), 70_001)]
        sent = request("/body", "Transfer-Encoding: chunked", method="POST") + chunked(*pieces)
    reply = server.connect(sent).reply()
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(data).digest()


def test_a_client_that_does_not_read_makes_send_wait(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/patient/64", "Connection: close"), receive_buffer=65536)
    waits = server.log.wait_for(r"send waits after (\d+)", after=start)
    assert int(waits[1]) < 16 << 20
    wire.until(b"\r\n\r\n")
    assert wire.count() == 64 << 20


def test_an_application_that_does_not_read_makes_the_client_wait(serve: Serve) -> None:
    server = serve()
    before = memory(server.worker, "VmRSS")
    size = 64 << 20
    head = request("/wait/reader", f"Content-Length: {size}", method="POST")
    wire = server.connect(head, send_buffer=65536)
    sent = 0
    while sent < size and select.select([], [wire.socket], [], 1)[1]:
        sent += wire.socket.send(MIB[: size - sent])
    assert sent < 16 << 20
    assert growth(server, before) < ROOM
    server.ask("/admit/reader")
    while sent < size:
        sent += wire.socket.send(MIB[: size - sent])
    assert len(wire.reply().body) == size + len("waited ")


@pytest.mark.parametrize("path", ["/refuse", "/fail/RuntimeError"])
def test_an_early_reply_to_a_large_upload_reaches_the_client(server: Server, path: str) -> None:
    size = 32 << 20
    wire = server.connect(request(path, f"Content-Length: {size}", method="POST"))
    for _ in range(32):
        wire.send(MIB)
    reply = wire.reply()
    assert reply.status == (413 if path == "/refuse" else 500)
    assert reply.headers["connection"] == "close"
    assert wire.rest() == b""  # an end, not a reset


def test_a_refusal_of_a_large_upload_reaches_the_client(server: Server) -> None:
    wire = server.connect(request("/body", f"Content-Length: {32 << 20}", method="POST", host=None))
    for _ in range(32):
        wire.send(MIB)
    assert wire.reply().status == 400
    assert wire.rest() == b""


def test_a_small_unread_body_does_not_cost_the_connection(server: Server) -> None:
    wire = server.connect(request("/refuse", method="POST", body=b"a" * 1000))
    assert wire.reply().status == 413
    assert wire.ask("/hello").status == 200
