"""The same server in the calling process, without a master: for debugging and for notebooks."""

from __future__ import annotations

import asyncio
import logging
import os
import pkgutil
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import uvloop

from uvicorn_worker.broadcast.directory import own_directory
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import InvalidApplication
from uvicorn_worker.interfaces.detect import applications_beside, detect_interface
from uvicorn_worker.options import read_options
from uvicorn_worker.server import Server

#: Is given what stops a server, as soon as there is one.
Ready = Callable[[Callable[[], object]], None]

_log = logging.getLogger("uvicorn_worker")


def run(app: Any, *, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve ``app`` on ``host`` and ``port`` until Ctrl-C or SIGTERM; a second one doesn't wait for requests.

    ``app`` is an application or its name, ``'module:attribute'``. ``options`` are those of ``CONFIG_KWARGS``. Where a
    loop runs already, as in a notebook, the server gets a thread of its own. Called in another thread than the main
    one, where no signals arrive, it serves until the process ends.

    Raises :class:`InvalidApplication`, :class:`InvalidOption`, :class:`StartupFailed`, and ``OSError`` where the port
    can't be had, nor the directory that ``groups`` names.
    """
    if isinstance(app, str):
        app = _find(app)
    settings = Settings(**read_options(options, os.environ, source="run"))
    detect_interface(app, settings.interface)  # raises before anything is listened on
    directory = urlsplit(settings.groups).path
    if directory:
        own_directory(directory, os.geteuid(), os.getegid())
    if not _log.hasHandlers():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(levelname)s] %(message)s")
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        _log.info("Listening at: http://%s:%d", *listener.getsockname()[:2])
        serve = partial(_serve_loop, app, settings, listener)
        if threading.current_thread() is not threading.main_thread():
            serve(lambda stop: None)
        elif _loop_is_running():
            _serve_until_signalled(partial(_in_thread, serve))
        else:
            _serve_until_signalled(serve)


def _find(name: str) -> Any:
    """What is called so; an error in its own module is that module's."""
    try:
        return pkgutil.resolve_name(name)
    except AttributeError as error:
        if getattr(error.obj, "__name__", None) != name.partition(":")[0]:
            raise
        raise InvalidApplication(f"{name!r} is not there{applications_beside(name)}") from None


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _serve_loop(app: Any, settings: Settings, listener: socket.socket, ready: Ready) -> None:
    """Serve on a loop of this thread, having handed what stops it to ``ready``."""

    async def serve() -> None:
        server = Server(app, settings, [listener], _log)
        loop = asyncio.get_running_loop()
        ready(lambda: loop.call_soon_threadsafe(server.stop_or_abort))
        await server.serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _in_thread(serve: Callable[[Ready], None], ready: Ready) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="uvicorn_worker") as executor:
        executor.submit(serve, ready).result()


def _serve_until_signalled(serve: Callable[[Ready], None]) -> None:
    """Serve, and have Ctrl-C and SIGTERM stop it meanwhile, whoever handles them otherwise (as asyncio.run does)."""
    stops: list[Callable[[], object]] = []

    def handle(number: int, frame: object) -> None:
        _log.info("Stopping at %s; once more doesn't wait for requests", signal.Signals(number).name)
        for stop in stops:
            stop()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve(stops.append)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
