"""A real Gunicorn master in a subprocess.

Nothing here sleeps: whatever is waited for is read from the log, from a socket or from /proc, with a
deadline that only a failing test reaches.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from gunicorn.config import make_settings

from .client import DEADLINE, Reply, Wire, handshake, refuses_connections, request, websocket

APPS = Path(__file__).parent

#: Whether tests that can be of two sizes are as large as operators would try, and take minutes.
FULL_SIZE = os.environ.get("FULL_SIZE") == "1"

WORKER = "uvicorn_worker.UvicornWorker"
GUNICORN = ("-m", "gunicorn", "-k")

#: What the same application is served by, and by which interface: command and name.
SERVED = {
    "gthread": ((*GUNICORN, "gthread"), "log_apps:wsgi"),
    "channels": ((*GUNICORN, WORKER), "log_apps:app"),
    "asgi": ((*GUNICORN, WORKER), "log_apps:asgi"),
}

CONF = """\
import os

control_socket_disable = True


def post_worker_init(worker):
    os.write(2, b"worker ready: %d\\n" % os.getpid())

"""

#: Configuration that has a worker tell of its end.
HOOKS = """\
def worker_int(worker):
    os.write(2, b"worker_int %d\\n" % os.getpid())


def worker_abort(worker):
    os.write(2, b"worker_abort %d\\n" % os.getpid())


def worker_exit(server, worker):
    os.write(2, b"worker_exit %d\\n" % os.getpid())
"""


def eventually(what: Callable[[], Any], *, within: float = DEADLINE, message: str = "") -> Any:
    """Ask `what` again and again until its answer is true; return that answer."""
    pause = threading.Event()
    end = time.monotonic() + within
    while not (answer := what()):
        if time.monotonic() > end:
            raise AssertionError(message or f"{what} was not true within {within} s")
        pause.wait(0.02)
    return answer


def needs_setting(name: str) -> pytest.MarkDecorator:
    """For a test that is nothing without a setting that Gunicorn has in later versions only."""
    return pytest.mark.skipif(name not in make_settings(), reason=f"this Gunicorn has no {name}")


# -- the log ------------------------------------------------------------------------------------------


class Log:
    """Everything that the master, its workers and their applications wrote to stdout and stderr."""

    _MARK = "\0all read up to "

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._mark = self._mark_read = 0
        threading.Thread(target=self._read, args=(open(reader, errors="backslashreplace"),), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        begun = ""
        with stream:
            for line in stream:
                text, mark, number = line.partition(self._MARK)
                with self._changed:
                    if mark:
                        begun += text  # of a line whose end comes after the mark
                        self._mark_read = int(number)
                    else:
                        self._lines.append(begun + line.rstrip("\n"))
                        begun = ""
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _catch_up(self) -> None:
        """Wait until everything has been read that anybody has written by now."""
        with self._changed:
            if self.writer >= 0:
                self._mark += 1
                mark = self._mark
                os.write(self.writer, f"{self._MARK}{mark}\n".encode())
                assert self._changed.wait_for(lambda: self._mark_read >= mark, DEADLINE)

    def wait_for(self, pattern: str, *, after: int = 0, within: float = DEADLINE) -> re.Match[str]:
        """The first match of `pattern` in a line from number `after` on, already there or still to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(pattern, after), timeout=within)
            match = self._find(pattern, after)
        assert match, f"the log never said {pattern!r}"
        return match

    def wait_for_end(self, within: float = DEADLINE) -> bool:
        """True once every process that could write to the log is gone."""
        with self._changed:
            if self.writer >= 0:
                os.close(self.writer)
                self.writer = -1
            return self._changed.wait_for(lambda: self._ended, timeout=within)

    def _find(self, pattern: str, after: int) -> re.Match[str] | None:
        matches = (re.search(pattern, line) for line in self._lines[after:])
        return next((match for match in matches if match), None)

    def lines(self, pattern: str = "", *, after: int = 0) -> list[str]:
        """The lines that have `pattern`, of all that have been written by now."""
        self._catch_up()
        with self._changed:
            return [line for line in self._lines[after:] if re.search(pattern, line)]

    def position(self) -> int:
        """The number of the next line: what is there already is before it."""
        self._catch_up()
        with self._changed:
            return len(self._lines)

    def __contains__(self, pattern: str) -> bool:
        return bool(self.lines(pattern))

    def __str__(self) -> str:
        return "\n".join(self.lines())


# -- the server ---------------------------------------------------------------------------------------


class Server:
    """A Gunicorn master with its workers; as a context manager, from ready to gone without a trace.

    `conf` is text for its gunicorn.conf.py, `env` goes over the environment, `command` is what comes
    after the Python executable.
    """

    running: list["Server"] = []  # and those that ended in the present test: their logs tell why it failed

    def __init__(
        self,
        app: str = "apps:app",
        *options: str,
        folder: Path,
        workers: int = 1,
        bind: str = "127.0.0.1:0",
        conf: str = "",
        env: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (*GUNICORN, WORKER),
        cwd: Path | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        conf_file = folder / "gunicorn.conf.py"
        conf_file.write_text(CONF + conf)
        arguments = ["-c", str(conf_file), "-b", bind, "-w", str(workers), *options, app]
        self._count = workers
        self._wires: list[Wire] = []
        #: By port, the sockets that this server listens with.
        self._listeners: dict[int, set[str]] = {}
        self.log = Log()
        self.process = spawn([*command, *arguments], self.log, cwd=cwd or folder, env=env, pass_fds=pass_fds)
        Server.running.append(self)

    def __enter__(self) -> "Server":
        try:
            eventually(lambda: self.process.poll() is not None or self.all_ready())
            assert self.process.poll() is None, "Gunicorn did not start"
            self.addresses()
        except BaseException:
            self.kill_everything()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.hang_up()
            if self.process.poll() is None:
                for _, port in self.addresses():  # A reload may have bound it anew.
                    self._listeners[port] |= listeners_at(port)
                self.signal(signal.SIGTERM)
                self.wait()
            self.assert_nothing_left()
        finally:
            self.kill_everything()

    # how it goes

    def all_ready(self) -> bool:
        return len(self.ready_workers()) >= self._count

    def ready_workers(self, after: int = 0) -> list[int]:
        """The pids of the workers that booted, oldest first, dead ones included."""
        return [int(line.split()[-1]) for line in self.log.lines("^worker ready: ", after=after)]

    @property
    def worker(self) -> int:
        """The pid of the youngest worker."""
        return self.ready_workers()[-1]

    def wait_for_new_worker(self, after: int) -> int:
        """The pid of the first worker that boots after line `after` of the log."""
        return int(self.log.wait_for(r"^worker ready: (\d+)", after=after)[1])

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        """To the master, unless a pid is given."""
        os.kill(pid or self.process.pid, number)

    def wait(self, within: float = 40.0) -> int:
        """The master's exit status, once it has one."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the master is still there after {within} s") from None

    def processes(self) -> list[int]:
        """The pids of the master and its workers that live."""
        return list(processes_of_group(self.process.pid))

    def assert_nothing_left(self) -> None:
        eventually(lambda: not self.processes(), message="a process is left")
        assert self.log.wait_for_end(), "somebody still holds the log open"
        assert self.refuses_connections(), f"one of {self.addresses()} is still open"

    def kill_everything(self) -> None:
        """For a server that did not end, or not as it should have."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.wait_for_end()

    # where it is

    def addresses(self) -> list[tuple[str, int]]:
        lines = (re.findall(r"https?://([^,\s]+):(\d+)", line) for line in self.log.lines("Listening at: "))
        found = [(host.strip("[]"), int(port)) for hosts in lines for host, port in hosts]
        for _, port in found:
            if not self._listeners.get(port):
                self._listeners[port] = listeners_at(port)
        return found

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses()[0]

    @property
    def port(self) -> int:
        return self.address[1]

    def refuses_connections(self) -> bool:
        return all(refuses_connections(*address) or self._was_taken(address[1]) for address in self.addresses())

    def _was_taken(self, port: int) -> bool:
        """Whether a port that was given back is another server's by now: tests run side by side."""
        return bool(self._listeners[port]) and not self._listeners[port] & listeners_at(port)

    # talking to it

    def connect(self, data: bytes = b"", **options: Any) -> Wire:
        """A new connection, `data` sent."""
        wire = Wire(self.addresses()[0], **options)
        self._wires.append(wire)
        wire.send(data)
        return wire

    def ask(self, path: str, **options: Any) -> Reply:
        """One request on a connection of its own."""
        wire = self.connect(request(path, "Connection: close", **options))
        try:
            return wire.reply()
        finally:
            wire.close()

    def websocket(self, path: str, **options: Any) -> Any:
        """An open WebSocket of a real client, for a `with`."""
        host, port = self.address
        return websocket(f"ws://{host}:{port}{path}", **options)

    def raw_websocket(self, path: str, *headers: str, data: bytes = b"", **options: Any) -> Wire:
        """A new connection that has become a WebSocket; `data` was sent right behind the handshake."""
        wire = self.connect(handshake(path, *headers) + data, **options)
        head = wire.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return wire

    def hang_up(self) -> None:
        """Close every connection that `connect` opened."""
        while self._wires:
            self._wires.pop().close()


Serve = Callable[..., Server]  # the fixture `serve`


def spawn(
    arguments: list[str],
    log: Log,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> "subprocess.Popen[bytes]":
    """A Python process in a process group of its own, that can import apps.py and writes to `log`."""
    foreign = ("GUNICORN_", "UVICORN_WORKER_", "LISTEN_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k != "PORT"}
    path = os.pathsep.join(filter(None, [str(APPS), inherited.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})},
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=log.writer,
        stderr=log.writer,
        start_new_session=True,
    )


@dataclass
class Ended:
    """What is known of a server that was not to run for long."""

    status: int
    log: Log
    boots: int


def run_to_its_end(app: str, *options: str, **more: Any) -> Ended:
    """Start a server that stops by itself, and wait for that."""
    server = Server(app, *options, **more)
    try:
        status = server.wait()
        server.assert_nothing_left()
    finally:
        server.kill_everything()
    return Ended(status, server.log, len(server.log.lines("Booting worker with pid")))


# -- the processes, from outside ------------------------------------------------------


def listeners_at(port: int) -> set[str]:
    """The inodes of the sockets that listen at `port`, whatever their address."""
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    return {fields[9] for fields in sockets if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")}


def processes_of_group(group: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            state, _, process_group = stat.rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                yield int(folder.name)


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(descriptor).startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return found


def memory(pid: int, field_name: str) -> int:
    """VmRSS (now) or VmHWM (at its highest) of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = re.search(rf"^{field_name}:\s+(\d+) kB", status, re.MULTILINE)
    assert kib
    return int(kib[1]) // 1024
