"""User-space instructions by valgrind, where ``perf`` can't count; the server is some fifty times slower under it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.drivers import Load, Wrong
from benchmarks.server import Server


class Callgrind:
    """A wrapper for a server's command line, whose counters are read and set to zero by :meth:`dump`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vgdb = f"--vgdb-prefix={folder / 'vgdb'}"

    @property
    def wrapper(self) -> list[str]:
        out = f"--callgrind-out-file={self._folder / 'callgrind.%p'}"
        return ["valgrind", "--tool=callgrind", "--trace-children=yes", "--fair-sched=yes", self._vgdb, out]

    def per_request(self, server: Server, drive: Callable[[], Load]) -> float:
        """Instructions per request of what ``drive`` does, in the process that does most.

        :raises Wrong: if the counters can't be read.
        """
        self.dump(server)
        requests = drive().requests
        return max(self.dump(server)) / requests

    def dump(self, server: Server) -> list[int]:
        """Instructions since the last time, by process."""
        return [self._dump(pid) for pid in server.pids()]

    def _dump(self, pid: int) -> int:
        before = set(self._folder.glob(f"callgrind.{pid}.*"))
        command = ["vgdb", self._vgdb, f"--pid={pid}", "--wait=10", "dump"]
        done = subprocess.run(command, capture_output=True, text=True)
        made = set(self._folder.glob(f"callgrind.{pid}.*")) - before
        if done.returncode or len(made) != 1:
            raise Wrong(f"callgrind's counters can't be read: {done.stderr.strip()[-300:]}")
        lines = made.pop().read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("totals:"))
