"""One server, from its start until nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.contenders import HOME, Contender, Launch
from benchmarks.drivers import Target, Wrong
from benchmarks.workloads import Workload

#: Seconds in which a server is to end when it is told to; then it is killed.
PATIENCE = 5


class Server:
    """A contender that serves one workload; as a context manager, from the start of its process to its end."""

    def __init__(self, contender: Contender, workload: Workload, python: str, folder: Path, cpu: int) -> None:
        """:param folder: for the logs; with ``cert.pem`` and ``key.pem`` for TLS."""
        self.target = Target(free_port(), workload.tls)
        self._log, self._access_log = folder / "server.log", folder / "access.log"
        self._launch = Launch(
            python,
            self.target.port,
            contender.application(workload),
            str(self._access_log) if workload.access_log else None,
            (str(folder / "cert.pem"), str(folder / "key.pem")) if workload.tls else None,
        )
        self._command = contender.command
        self._cpu = cpu

    def start(self, environ: Mapping[str, str], wrapper: Sequence[str] = ()) -> Self:
        """Start it, by the wrapper's command line if there is one, on its core and in a session of its own."""
        self._log.write_bytes(b"")
        self._access_log.write_bytes(b"")
        command = ["taskset", "-c", str(self._cpu), *wrapper, *self._command(self._launch)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=HOME,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Have it end; whatever of its session is left is killed."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    async def ready(self, check: Callable[[Target], Awaitable[None]], within: float) -> None:
        """Wait until the check passes.

        :raises Wrong: if the server has ended, or is not there within so many seconds, or answers wrongly.
        """
        end = time.monotonic() + within
        while True:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    return await check(self.target)
            except TimeoutError:
                raise Wrong(f"does not answer within {within:g} s; {self._last_words()}") from None
            except OSError:
                if self._process.poll() is not None:
                    raise Wrong(f"ended by itself; {self._last_words()}") from None
                await asyncio.sleep(0.05)

    def pids(self) -> list[int]:
        """All its processes, the first one first."""
        found = [self._process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
        return found

    def logged(self) -> int:
        """Bytes of its logs."""
        return self._access_log.stat().st_size + self._log.stat().st_size

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return "its last lines: " + " | ".join([line for line in lines if line.strip()][-3:])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def self_signed(folder: Path) -> None:
    """Make a certificate for localhost in the folder, for a run: ``cert.pem`` and ``key.pem``.

    :raises OSError, subprocess.CalledProcessError: if there is no ``openssl``, or it doesn't do that.
    """
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=localhost"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
