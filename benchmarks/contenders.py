"""Who is measured, and how each is started: one worker, and as fast as its documentation says how to have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import Workload

#: Where servers are started, so that they find the applications, and not the package of this tree.
HOME = Path(__file__).parent

#: Environments: this package has the import name of a peer, so they never share one.
OWN, PEERS = "own", "peers"


@dataclass(frozen=True)
class Launch:
    """What a server is told at its start."""

    python: str
    port: int
    #: As ``module:name``, but for the floor.
    application: str
    #: The file to write an access log to, if it is to be written.
    access_log: str | None = None
    #: Files of a certificate and of its key, if TLS is to be spoken.
    certificate: tuple[str, str] | None = None


@dataclass(frozen=True)
class Contender:
    """One server with one interface."""

    name: str
    title: str
    environment: str
    #: The module of ``benchmarks/apps`` that it serves; ``None`` for the floor, whose replies are its own.
    module: str | None
    command: Callable[[Launch], list[str]]

    def cannot(self, workload: Workload) -> str | None:
        """Why it can't do this, as far as that is known beforehand."""
        if workload.application == "fastapi" and self.module != "asgi_app":
            return "FastAPI is for ASGI"
        if self.module is None and (workload.access_log or workload.application in ("echo", "broadcast")):
            return "sends canned bytes, and does nothing else"
        return None

    def application(self, workload: Workload) -> str:
        """What to serve, as :class:`Launch` has it."""
        if self.module is None:
            return workload.application
        module = "fastapi_app" if workload.application == "fastapi" else self.module
        return f"apps.{module}:{workload.application}"


def gunicorn(worker: str) -> Callable[[Launch], list[str]]:
    """Gunicorn with a worker class. No limit of connections or of time is to be met."""
    options = "--no-control-socket --workers 1 --keep-alive 75 --timeout 600 --worker-connections 20000"

    def command(launch: Launch) -> list[str]:
        argv = [launch.python, "-m", "gunicorn", "-k", worker, *options.split(), "--log-level", "warning"]
        argv += ["--bind", f"127.0.0.1:{launch.port}"]
        if launch.access_log:
            argv += ["--access-logfile", launch.access_log]
        if launch.certificate:
            argv += ["--certfile", launch.certificate[0], "--keyfile", launch.certificate[1]]
        return [*argv, launch.application]

    return command


def granian(launch: Launch) -> list[str]:
    options = "--interface asgi --loop uvloop --workers 1 --backlog 2048 --backpressure 20000 --log-level warning"
    argv = [launch.python, "-m", "granian", *options.split(), "--host", "127.0.0.1", "--port", str(launch.port)]
    argv.append("--access-log" if launch.access_log else "--no-access-log")
    if launch.certificate:
        argv += ["--ssl-certificate", launch.certificate[0], "--ssl-keyfile", launch.certificate[1]]
    return [*argv, launch.application]


def hypercorn(launch: Launch) -> list[str]:
    options = "--worker-class uvloop --workers 1 --keep-alive 75 --backlog 2048 --log-level warning"
    argv = [launch.python, "-m", "hypercorn", *options.split(), "--bind", f"127.0.0.1:{launch.port}"]
    if launch.access_log:
        # Its access lines are of the level that --log-level would leave out.
        argv += ["--log-level", "info", "--access-logfile", launch.access_log]
    if launch.certificate:
        argv += ["--certfile", launch.certificate[0], "--keyfile", launch.certificate[1]]
    return [*argv, launch.application]


def daphne(launch: Launch) -> list[str]:
    argv = [launch.python, "-m", "daphne", "-v", "0"]
    if launch.access_log:
        argv += ["--access-log", launch.access_log]
    if launch.certificate:
        certfile, keyfile = launch.certificate
        argv += ["-e", f"ssl:{launch.port}:interface=127.0.0.1:privateKey={keyfile}:certKey={certfile}"]
    else:
        argv += ["-b", "127.0.0.1", "-p", str(launch.port)]
    return [*argv, launch.application]


def floor(launch: Launch) -> list[str]:
    return [launch.python, "-m", "apps.floor", str(launch.port), launch.application, *(launch.certificate or ())]


#: The one to which ratios are taken: it runs the same applications as the peers.
REFERENCE = "asgi3"

#: All contenders by name, in the order of reports.
CONTENDERS = {
    contender.name: contender
    for contender in [
        Contender("floor", "floor: uvloop + httptools", OWN, None, floor),
        Contender("channels", "this worker, channels", OWN, "channels_app", gunicorn("uvicorn_worker.UvicornWorker")),
        Contender("asgi3", "this worker, ASGI 3", OWN, "asgi_app", gunicorn("uvicorn_worker.UvicornWorker")),
        Contender("uvicorn-worker", "uvicorn-worker", PEERS, "asgi_app", gunicorn("apps.peer_workers.HttpTools")),
        Contender("gunicorn-asgi", "Gunicorn's asgi worker", PEERS, "asgi_app", gunicorn("asgi")),
        Contender("granian", "granian", PEERS, "asgi_app", granian),
        Contender("hypercorn", "hypercorn", PEERS, "asgi_app", hypercorn),
        Contender("daphne", "daphne", PEERS, "asgi_app", daphne),
    ]
}
