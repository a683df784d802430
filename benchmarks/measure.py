"""What processes have used, as the kernel tells it in /proc (see proc(5)), and perf."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads, in user space and in the kernel; 0 for one that has gone.

    It is known to a tick of the kernel's clock, commonly 10 ms.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK


def worker_of(pids: Iterable[int]) -> int:
    """The process that does the work, which is the one that has used most CPU time."""
    return max(pids, key=cpu_seconds)


def peak_memory(pid: int) -> int:
    """Bytes of the largest resident set that a process has ever had."""
    return _kib(f"/proc/{pid}/status", ("VmHWM",))


def own_memory(pids: Iterable[int]) -> int:
    """Bytes that these processes share with nobody. Memory of sockets in the kernel is not in it."""
    return sum(_kib(f"/proc/{pid}/smaps_rollup", ("Private_Clean", "Private_Dirty")) for pid in pids)


def _kib(file: str, names: tuple[str, ...]) -> int:
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return 1024 * sum(int(fields[1]) for fields in lines if fields and fields[0].rstrip(":") in names)


def perf_counts() -> bool:
    """Whether ``perf`` is installed and can count instructions here: many virtual machines have no counters."""
    if shutil.which("perf") is None:
        return False
    command = ["perf", "stat", "-x,", "-e", "instructions:u", "true"]
    return counted(subprocess.run(command, capture_output=True, text=True).stderr) is not None


class Perf:
    """Counts the user-space instructions of processes from entering it to leaving it.

    perf is told by a pipe when to begin, and says by another that it has: it takes a while to start.
    """

    #: What has been counted; ``None`` if that failed.
    count: float | None = None

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = ",".join(map(str, pids))

    def __enter__(self) -> Self:
        told, self._tell = os.pipe()
        self._heard, says = os.pipe()
        control = ["--delay", "-1", "--control", f"fd:{told},{says}"]
        command = ["perf", "stat", "-x,", "-e", "instructions:u", "-p", self._pids, *control]
        self._process = subprocess.Popen(
            command, pass_fds=(told, says), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        os.close(told)
        os.close(says)
        self._do(b"enable\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._do(b"disable\n")
        self._process.send_signal(signal.SIGINT)
        self.count = counted(self._process.communicate()[1])
        os.close(self._tell)
        os.close(self._heard)

    def _do(self, command: bytes) -> None:
        """Have a command done; if perf has ended, its count will be missing."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tell, command)
        os.read(self._heard, 16)


def counted(said: str) -> float | None:
    """The number in the one line of ``perf stat -x,`` that has one."""
    for line in said.splitlines():
        number, *rest = line.split(",")
        if any("instructions" in field for field in rest) and number.isdigit():
            return float(number)
    return None
