"""What is left of requests, WebSockets and connections when they are over, however they ended: nothing.

Small here; with FULL_SIZE=1 in the environment they are 100,000, 10,000 and 10,000.
"""

import json
from contextlib import suppress

import pytest

from .client import Wire
from .endings import abort, ask, converse
from .harness import FULL_SIZE, Serve, Server, eventually, memory

REQUESTS, WEBSOCKETS, ABORTED = (100_000, 10_000, 10_000) if FULL_SIZE else (3000, 500, 500)
ROOM = 16  # MiB that the worker may grow by

SERVED = {
    "channels": ("fault_apps:app", ()),
    "asgi, logged": ("fault_apps:asgi", ("--access-logfile", "/dev/null")),
}


def counts(server: Server) -> dict[str, int]:
    """Asked for by a connection that has served: the task that has made it is over."""
    with Wire(server.address) as wire:
        assert wire.ask("/quiet").status == 200
        found: dict[str, int] = json.loads(wire.ask("/counts").text)
    return found


def all_quiet(server: Server) -> dict[str, int] | None:
    """The counts, if there is nothing under way but the request for them."""
    found = counts(server)
    under_way = (number for kind, number in found.items() if kind.endswith(("Exchange", "Session", "TCPTransport")))
    return found if sum(under_way) == 2 else None


def differences(server: Server, before: dict[str, int]) -> dict[str, tuple[int, int]]:
    now = counts(server)
    return {
        kind: (before.get(kind, 0), now.get(kind, 0))
        for kind in before.keys() | now.keys()
        if before.get(kind) != now.get(kind)
    }


@pytest.mark.parametrize(("app", "options"), SERVED.values(), ids=SERVED)
def test_nothing_is_left_of_what_is_over(serve: Serve, app: str, options: tuple[str, ...]) -> None:
    server = serve(app, *options)
    worker, address = server.worker, server.address
    ask(address, 100)
    converse(address, 50)
    abort(address, 200, seed=0)
    before = eventually(lambda: all_quiet(server))
    size = memory(worker, "VmRSS")
    ask(address, REQUESTS)
    converse(address, WEBSOCKETS)
    abort(address, ABORTED, seed=1)
    with suppress(AssertionError):
        eventually(lambda: not differences(server, before))
    assert differences(server, before) == {}
    grown = memory(worker, "VmRSS") - size
    print(f"{app} {' '.join(options)}: {before['descriptors']} descriptors, {before['tasks']} tasks, {grown} MiB more")
    assert grown < ROOM
    assert server.ask("/pid").text == str(worker)
