"""`uvicorn_worker.run`: the same server in the calling process."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import Wire, refuses_connections, request
from .harness import Log, eventually, spawn

IN_A_LOOP = """\
import asyncio
import sys

import apps
import uvicorn_worker


async def main():
    uvicorn_worker.run(apps.app, host="127.0.0.1", port=int(sys.argv[1]))


asyncio.run(main())
print("run has returned")
"""

SCRIPT = """\
import sys

import apps
import uvicorn_worker

uvicorn_worker.run(apps.app, host="127.0.0.1", port=int(sys.argv[1]))
print("run has returned")
"""


class Running:
    """A process that has called `run`."""

    def __init__(self, folder: Path, script: str = SCRIPT, **env: str) -> None:
        (folder / "script.py").write_text(script)
        self.log = Log()
        self.process = spawn(["script.py", "0"], self.log, cwd=folder, env=env)
        host, port = self.log.wait_for(r"Listening at: http://(.+):(\d+)$").groups()
        self.address = host, int(port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.wait_for_end()

    def assert_returned(self) -> None:
        assert self.process.wait(20) == 0
        assert self.log.wait_for_end()
        assert "run has returned" in self.log
        assert refuses_connections(*self.address)


@pytest.fixture(params=[SCRIPT, IN_A_LOOP], ids=["", "where a loop runs"])
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(tmp_path, request.param)
    yield running
    running.kill()


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


WITH_OPTIONS = SCRIPT.replace("[1])", "[1]), server_header='mine', root_path='/argument'")


@pytest.mark.parametrize("running", [WITH_OPTIONS], indirect=True, ids=[""])
def test_options_are_keyword_arguments(running: Running) -> None:
    with Wire(running.address) as wire:
        reply = wire.ask("/what")
    assert reply.headers["server"] == "mine"
    assert json.loads(reply.body)["root_path"] == "/argument"


def test_options_of_the_environment_win_over_arguments(tmp_path: Path) -> None:
    running = Running(tmp_path, WITH_OPTIONS, UVICORN_WORKER_ROOT_PATH="/environment")
    try:
        with Wire(running.address) as wire:
            assert json.loads(wire.ask("/what").body)["root_path"] == "/environment"
    finally:
        running.kill()


@pytest.mark.parametrize("running", [SCRIPT.replace("apps.app", "'apps:app'")], indirect=True, ids=[""])
def test_an_application_can_be_named(running: Running) -> None:
    with Wire(running.address) as wire:
        assert wire.ask("/hello").status == 200


@pytest.mark.parametrize("script", [SCRIPT, IN_A_LOOP], ids=["", "where a loop runs"])
@pytest.mark.parametrize(
    ("app", "error"),
    [
        ("print", "InvalidApplication: builtins:print is not a coroutine function"),
        ("'apps:nope'", r"InvalidApplication: 'apps:nope' is not there \(there is apps:app, "),
        ("'nope:app'", "ModuleNotFoundError: No module named 'nope'"),
        ("'tripping:app'", "AttributeError: module 'apps' has no attribute 'nope'"),
    ],
)
def test_what_is_no_application_raises_out_of_run(tmp_path: Path, script: str, app: str, error: str) -> None:
    (tmp_path / "tripping.py").write_text("import apps\napps.nope\n")
    (tmp_path / "script.py").write_text(script.replace("apps.app", app))
    log = Log()
    process = spawn(["script.py", "0"], log, cwd=tmp_path)
    assert process.wait(20) == 1
    assert log.wait_for_end()
    assert len(log.lines(error)) == 1
    assert "run has returned" not in log
