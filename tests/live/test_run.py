"""`uvicorn_worker.run`: the same server in the calling process."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Wire, refuses_connections, request
from .harness import Log, eventually, spawn

SCRIPT = """\
import sys

import apps
import uvicorn_worker

uvicorn_worker.run(apps.app, host="127.0.0.1", port=int(sys.argv[1]))
print("run has returned")
"""


class Running:
    """A process that has called `run`."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = listener.getsockname()
        (folder / "script.py").write_text(SCRIPT)
        self.log = Log()
        self.process = spawn(["script.py", str(self.address[1])], self.log, cwd=folder)
        eventually(lambda: not refuses_connections(*self.address) or self.process.poll() is not None)
        assert self.process.poll() is None, str(self.log)

    def assert_returned(self) -> None:
        assert self.process.wait(20) == 0
        assert self.log.wait_for_end()
        assert "run has returned" in self.log
        assert refuses_connections(*self.address)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()
    running.log.wait_for_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_in_the_calling_process_until_it_is_told_to_stop(running: Running, number: signal.Signals) -> None:
    with Wire(running.address) as wire:
        assert wire.ask("/hello").body == b"<h1>Hello World</h1>"
        assert wire.ask("/pid").text == str(running.process.pid)
        running.process.send_signal(number)
        assert wire.rest() == b""
    running.assert_returned()
    assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_lets_a_request_in_flight_finish(running: Running, number: signal.Signals) -> None:
    with Wire(running.address) as wire:
        wire.send(request("/body", "Content-Length: 4", method="POST"))
        running.log.wait_for("called POST /body")
        running.process.send_signal(number)
        eventually(lambda: refuses_connections(*running.address))
        wire.send(b"done")
        assert wire.reply().body == b"done"
    running.assert_returned()


def test_a_second_interrupt_does_not_wait_for_a_request_that_hangs(running: Running) -> None:
    with Wire(running.address) as wire:
        wire.send(request("/forever"))
        running.log.wait_for("called GET /forever")
        running.process.send_signal(signal.SIGINT)
        eventually(lambda: refuses_connections(*running.address))
        running.process.send_signal(signal.SIGINT)
        running.assert_returned()
