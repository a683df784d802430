"""The benchmarks as they are started: this worker and the floor, for a moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .client import DEADLINE
from .harness import eventually

TREE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset"),
]


class Tool:
    """The tool, and every process that descends from it, which its environment tells."""

    def __init__(self, *arguments: str) -> None:
        self._mark = f"BENCHMARKS_TEST={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--here", "--seconds", "0.2", "--repeats", "1", *arguments],
            cwd=TREE,
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[str]:
        """The command lines of its descendants."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and int(folder.name) != self.process.pid:
                    if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                        found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # Gone meanwhile, or not ours.
                continue
        return found

    def end(self) -> tuple[str, str, int]:
        """What it says, its errors, and its status."""
        output, errors = self.process.communicate(timeout=6 * DEADLINE)
        return output, errors, self.process.returncode


@contextmanager
def tool(*arguments: str) -> Iterator[Tool]:
    started = Tool(*arguments)
    try:
        yield started
    finally:
        started.process.send_signal(signal.SIGTERM)
        started.end()


def test_a_run_gives_a_table_json_and_a_picture_and_leaves_no_process(tmp_path: Path) -> None:
    files = "--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.svg")
    started = Tool("hello", "websocket-64", "floor", "asgi3", "--driver", "asyncio", *files)
    output, errors, status = started.end()
    assert status == 0, errors
    assert started.processes() == []
    assert "[1/4] hello, " in errors
    lines = output.splitlines()
    assert lines[0] == "hello: 20 bytes, 1 request header"
    assert "websocket-64: floor: uvloop + httptools: sends canned bytes, and does nothing else" in lines
    report = json.loads((tmp_path / "all.json").read_text())
    for workload in ("hello", "websocket-64"):
        (sample,) = report["workloads"][workload]["contenders"]["asgi3"]["samples"]
        assert sample.keys() >= {"rate", "cpu", "memory", "p50", "p99"}
        assert sample["rate"] > 0 < sample["memory"]
        assert 0 < sample["p50"] <= sample["p99"]
    assert report["versions"]["own"]["gunicorn"]
    assert ElementTree.parse(tmp_path / "all.svg").getroot().tag.endswith("svg")


def test_an_interrupted_run_leaves_no_process_and_shows_what_is_known_by_then() -> None:
    with tool("hello", "asgi3", "--seconds", "60", "--driver", "asyncio") as started:
        eventually(lambda: [line for line in started.processes() if "gunicorn" in line])
        started.process.send_signal(signal.SIGINT)
        output, errors, status = started.end()
        assert status == 130, errors
        assert started.processes() == []
        assert output.startswith("hello: 20 bytes, 1 request header\n")


def test_a_contender_that_does_not_start_gets_a_reason_and_no_figures(tmp_path: Path) -> None:
    report = tmp_path / "all.json"
    started = Tool("hello", "asgi3", "--driver", "asyncio", "--json", str(report), "--cpus", "99999,0")
    _, errors, status = started.end()
    assert status == 0, errors
    entry = json.loads(report.read_text())["workloads"]["hello"]["contenders"]["asgi3"]
    assert (entry["samples"], entry["medians"]) == ([], {})
    assert entry["reason"].startswith("ended by itself; its last lines: taskset")


def test_peers_are_not_looked_for_in_this_environment() -> None:
    _, errors, status = Tool("hello", "granian").end()
    assert (status, errors) == (1, "peers need an environment of their own: leave --here out\n")


def test_an_unknown_name_is_refused() -> None:
    _, errors, status = Tool("hallo").end()
    assert status == 2
    assert "'hallo' is neither a workload nor a contender" in errors
