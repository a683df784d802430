"""Every kind of listener that Gunicorn knows."""

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from .client import Wire, request
from .harness import Serve, Server, eventually


def seen_by_the_application(wire: Wire) -> tuple[object, object]:
    """What the message says of server and client."""
    wire.send(request("/what", "Connection: close"))
    message = json.loads(wire.reply().body)
    return message["server"], message["client"]


def test_ipv6(serve: Serve) -> None:
    server = serve(bind="[::1]:0")
    with Wire(("::1", server.port), socket.AF_INET6) as wire:
        client = list(wire.socket.getsockname()[:2])
        assert seen_by_the_application(wire) == (["::1", server.port], client)


def test_several_listeners_at_once(serve: Serve) -> None:
    server = serve("apps:app", "-b", "[::1]:0")
    (host4, port4), (host6, port6) = server.addresses()
    for address, family in (((host4, port4), socket.AF_INET), ((host6, port6), socket.AF_INET6)):
        with Wire(address, family) as wire:
            assert wire.ask("/hello").status == 200


def test_a_unix_socket_has_no_client_and_its_path_for_a_server(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve(bind=f"unix:{path}")
    with Wire(str(path)) as wire:
        assert seen_by_the_application(wire) == ([str(path), None], None)


def test_a_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(folder=tmp_path, bind=f"unix:{path}"):
        assert path.is_socket()
    assert not path.exists()


def test_an_inherited_descriptor(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        serve(bind=f"fd://{fd}", pass_fds=(fd,))
        address = listener.getsockname()
        with Wire(address) as wire:
            assert seen_by_the_application(wire)[0] == list(address)


@pytest.fixture
def own_port() -> Iterator[tuple[str, int]]:
    """An address for --reuse-port: bound by somebody who doesn't listen, so that nobody else gets it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()


def test_reuse_port_lets_each_worker_listen_for_itself(serve: Serve, own_port: tuple[str, int]) -> None:
    server = serve("apps:app", "--reuse-port", bind="{}:{}".format(*own_port), workers=2)

    def is_served_by(pid: int) -> bool:
        with Wire(own_port) as wire:
            return wire.ask("/pid").text == str(pid)

    for pid in server.ready_workers():
        eventually(partial(is_served_by, pid))


def test_who_stands_in_the_queue_of_a_worker_that_stops_is_served(serve: Serve, own_port: tuple[str, int]) -> None:
    """With --reuse-port, the queue is the worker's own and ends with it."""
    server = serve("apps:app", "--reuse-port", bind="{}:{}".format(*own_port))
    busy = Wire(own_port)
    busy.send(request("/hold/1"))
    server.log.wait_for("holding the loop")
    queued = [Wire(own_port) for _ in range(30)]
    for number, wire in enumerate(queued):
        wire.send(request(f"/path/{number}"))
    server.signal(signal.SIGTERM, server.worker)
    assert busy.reply().text == "held"
    for number, wire in enumerate(queued):
        reply = wire.reply()
        assert (reply.text, reply.headers["connection"]) == (f"/path/{number}", "close")
    for wire in (busy, *queued):
        wire.close()


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_the_backlog_is_gunicorns(serve: Serve) -> None:
    server = serve("apps:app", "--backlog", "123")
    listing = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"LISTEN +\d+ +(\d+) +127\.0\.0\.1:{server.port} ", listing)
    assert found
    assert found[1] == "123"
