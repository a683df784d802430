"""The ceiling for connections: past it clients wait, and nobody is turned away."""

import resource
from collections.abc import Iterator

import pytest

from .client import Wire, request
from .harness import Serve

CEILING = "worker_connections"


def round_trips(wires: list[Wire]) -> None:
    for wire in wires * 5:
        assert wire.ask("/hello").status == 200


def test_past_worker_connections_a_client_waits_until_there_is_room(serve: Serve) -> None:
    server = serve("apps:app", "--worker-connections", "3", "--keep-alive", "60")
    wires = [server.connect() for _ in range(3)]
    round_trips(wires)
    fourth = server.connect(request("/path/fourth"))
    server.log.wait_for(CEILING)
    fifth = server.connect(request("/path/fifth"))
    round_trips(wires)
    assert fourth.is_silent()
    assert fifth.is_silent()
    assert len(server.log.lines(CEILING)) == 1
    wires.pop().close()
    assert fourth.reply().text == "/path/fourth"
    assert fifth.is_silent()
    wires.pop().close()
    assert fifth.reply().text == "/path/fifth"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("needs 4096 file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_gunicorns_default_of_worker_connections_is_no_ceiling(serve: Serve, many_descriptors: None) -> None:
    server = serve("apps:app", "--keep-alive", "60")
    wires = [server.connect() for _ in range(1100)]
    assert all(wire.ask("/quiet").status == 200 for wire in wires)
    assert CEILING not in server.log


def test_scarce_file_descriptors_are_a_ceiling_and_not_a_failure(serve: Serve) -> None:
    conf = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
    server = serve("apps:app", "--keep-alive", "60", conf=conf)
    wires = [server.connect(request(f"/path/{n}", "Connection: close")) for n in range(200)]
    assert [wire.reply().text for wire in wires] == [f"/path/{n}" for n in range(200)]
    held = [server.connect(request("/quiet")) for _ in range(200)]  # more than it can hold at once
    answered = 0
    while held:
        wire = held.pop(0)
        assert wire.reply().text == "fine"
        wire.close()
        answered += 1
    assert answered == 200
    assert "Too many open files" not in server.log
    assert len(server.log.lines("Booting worker")) == 1
