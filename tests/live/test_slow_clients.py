"""Clients that take as long as they can, with a usual one among them.

Small here; with FULL_SIZE=1 in the environment they are 500, and what the usual client waits for its answers is shown
and compared.
"""

import subprocess
import sys

from .client import DEADLINE, Wire, request
from .endings import connect
from .harness import APPS, FULL_SIZE, Serve, Server, eventually, sockets
from .slow_clients import Slow, SlowClients

OF_EACH, REQUESTS, SECONDS = (84, 2000, 10) if FULL_SIZE else (8, 100, 5)

#: How a connection ends that was slow in one way; b"" is an end without a word.
ENDS = {
    "says nothing": b"",
    "drips its head": b"HTTP/1.1 408 ",
    "drips its body": b"HTTP/1.1 408 ",
    "stalls in its body": b"HTTP/1.1 408 ",
}


def p99(server: Server, requests: int) -> float:
    """Seconds that a usual client waits for its answers, all of which it gets; one in a hundred takes longer."""
    host, port = server.address
    command = [sys.executable, str(APPS / "usual_client.py"), host, str(port), str(requests)]
    return float(subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE).stdout)


def assert_ended_as_told(slow: Slow) -> None:
    end = slow.end()
    if slow.kind in ENDS and not slow.has_ended:
        assert end.startswith(ENDS[slow.kind]) and bool(end) == bool(ENDS[slow.kind]), (slow.kind, end)
    else:
        assert b"\r\n0\r\n\r\n" not in slow.received + end, "a reply that looks whole"


def test_slow_clients_keep_nobody_waiting_and_meet_their_deadlines(serve: Serve) -> None:
    env = {"UVICORN_WORKER_HEAD_TIMEOUT": str(SECONDS)}
    server = serve("fault_apps:app", "--keep-alive", "60", "--timeout", str(SECONDS), env=env)
    worker, wire = server.worker, server.connect()
    assert wire.ask("/quiet").status == 200
    before = sockets(worker)
    quiet = p99(server, REQUESTS)
    with SlowClients(server.address, OF_EACH) as clients:
        eventually(lambda: sockets(worker) == before + len(clients.all))
        under_fire = p99(server, REQUESTS)
    eventually(lambda: sockets(worker) == before, within=3 * SECONDS + DEADLINE)
    for slow in clients.all:
        assert_ended_as_told(slow)
        slow.wire.close()
    assert server.ask("/pid").text == str(worker)
    assert not server.log.lines("Traceback")
    print(f"p99 {quiet * 1e3:.2f} ms, with {len(clients.all)} slow clients {under_fire * 1e3:.2f} ms")
    assert not FULL_SIZE or under_fire < 5 * quiet


def test_a_client_that_has_said_all_gets_all_that_it_has_asked_for(serve: Serve) -> None:
    """It has closed for writing, as some do when they have asked."""
    server = serve("fault_apps:app", "--keep-alive", "60")
    assert server.connect().ask("/quiet").status == 200
    before, address = sockets(server.worker), server.address

    def half_closed(sent: bytes) -> Wire:
        wire = connect(address, sent)
        wire.say_no_more()
        return wire

    whole = [half_closed(request("/soon") * 3) for _ in range(50)]
    broken = [half_closed(request("/echo", "Content-Length: 9", method="POST") + b"part") for _ in range(50)]
    begun = [half_closed(b"GET / HT") for _ in range(50)]
    assert all(wire.rest().count(b"\r\n\r\nfine") == 3 for wire in whole)
    assert all(wire.rest() == b"" for wire in broken + begun)
    for wire in whole + broken + begun:
        wire.close()
    eventually(lambda: sockets(server.worker) == before)
    assert not server.log.lines("Traceback")
