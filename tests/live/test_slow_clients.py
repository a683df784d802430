"""Clients that take as long as they can, with a usual one among them.

Small here; with FULL_SIZE=1 in the environment they are 500, and what the usual client waits for its answers is shown
and compared.
"""

import time

from .client import Wire, request
from .harness import FULL_SIZE, Serve, eventually, sockets
from .slow_clients import Slow, SlowClients

OF_EACH, REQUESTS, SECONDS = (84, 2000, 15) if FULL_SIZE else (8, 100, 3)

#: How a connection ends that was slow in one way; b"" is an end without a word.
ENDS = {
    "says nothing": b"",
    "drips its head": b"HTTP/1.1 408 ",
    "drips its body": b"HTTP/1.1 408 ",
    "stalls in its body": b"HTTP/1.1 408 ",
}


def waits_of(wire: Wire, requests: int) -> list[float]:
    """Seconds that a client waited for each answer, shortest first."""
    waits = []
    for _ in range(requests):
        began = time.monotonic()
        wire.send(request("/quiet"))
        assert wire.until(b"\r\n\r\nfine").startswith(b"HTTP/1.1 200 ")
        waits.append(time.monotonic() - began)
    return sorted(waits)


def p99(waits: list[float]) -> float:
    return waits[len(waits) * 99 // 100]


def assert_ended_as_told(slow: Slow) -> None:
    end = slow.end()
    if slow.kind in ENDS:
        assert end.startswith(ENDS[slow.kind]) and bool(end) == bool(ENDS[slow.kind]), (slow.kind, end)
    else:
        assert b"\r\n0\r\n\r\n" not in slow.received + end, "a reply that looks whole"


def test_slow_clients_keep_nobody_waiting_and_meet_their_deadlines(serve: Serve) -> None:
    env = {"UVICORN_WORKER_HEAD_TIMEOUT": str(SECONDS)}
    server = serve("fault_apps:app", "--keep-alive", "60", "--timeout", str(SECONDS), env=env)
    worker, wire = server.worker, server.connect()
    quiet = waits_of(wire, REQUESTS)
    before = sockets(worker)
    with SlowClients(server, OF_EACH) as clients:
        eventually(lambda: sockets(worker) == before + len(clients.all))
        under_fire = waits_of(wire, REQUESTS)
    for slow in clients.all:
        assert_ended_as_told(slow)
    eventually(lambda: sockets(worker) == before)
    assert server.ask("/pid").text == str(worker)
    assert not server.log.lines("Traceback")
    print(f"p99 {p99(quiet) * 1e3:.2f} ms, with {len(clients.all)} slow clients {p99(under_fire) * 1e3:.2f} ms")
    assert not FULL_SIZE or p99(under_fire) < 5 * p99(quiet)


def test_a_client_that_has_said_all_gets_all_that_it_has_asked_for(serve: Serve) -> None:
    """It has closed for writing, as some do when they have asked."""
    server = serve("fault_apps:app", "--keep-alive", "60")
    assert server.connect().ask("/quiet").status == 200
    before = sockets(server.worker)

    def half_closed(sent: bytes) -> Wire:
        wire = server.connect(sent)
        wire.say_no_more()
        return wire

    whole = [half_closed(request("/soon") * 3) for _ in range(50)]
    broken = [half_closed(request("/echo", "Content-Length: 9", method="POST") + b"part") for _ in range(50)]
    begun = [half_closed(b"GET / HT") for _ in range(50)]
    assert all(wire.rest().count(b"\r\n\r\nfine") == 3 for wire in whole)
    assert all(wire.rest() == b"" for wire in broken + begun)
    eventually(lambda: sockets(server.worker) == before)
    assert not server.log.lines("Traceback")
