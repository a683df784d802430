"""The same server in the calling process, without a master: for debugging and for notebooks."""

from __future__ import annotations

import asyncio
import logging
import os
import pkgutil
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import uvloop

from uvicorn_worker.config import Settings, read_options
from uvicorn_worker.server import Server

_log = logging.getLogger("uvicorn_worker")


def run(app: Any, *, host: str = "127.0.0.1", port: int = 8000, **options: Any) -> None:
    """Serve ``app`` on ``host`` and ``port`` until Ctrl-C or SIGTERM; a second one doesn't wait for requests.

    ``app`` is an application or its name, ``'module:attribute'``. ``options`` are those of ``CONFIG_KWARGS``. In a
    thread that runs a loop already, as in a notebook, the server gets a thread of its own.

    Raises :class:`InvalidApplication`, :class:`InvalidOption`, and ``OSError`` where the port can't be had.
    """
    if isinstance(app, str):
        app = pkgutil.resolve_name(app)
    settings = Settings(**read_options(options, os.environ))
    if not _log.hasHandlers():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(levelname)s] %(message)s")
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        _log.info("Listening at: http://%s:%d", *listener.getsockname()[:2])
        if _loop_is_running():
            _serve_in_thread(app, settings, listener)
        elif threading.current_thread() is threading.main_thread():
            _serve_until_signalled(app, settings, listener)
        else:
            _run_loop(_serve(app, settings, listener, lambda server: None))


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def _serve(app: Any, settings: Settings, listener: socket.socket, ready: Callable[[Server], None]) -> None:
    server = Server(app, settings, [listener], _log)
    ready(server)
    await server.serve()


def _serve_until_signalled(app: Any, settings: Settings, listener: socket.socket) -> None:
    def ready(server: Server) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop_or_abort)

    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        _run_loop(_serve(app, settings, listener, ready))
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def _serve_in_thread(app: Any, settings: Settings, listener: socket.socket) -> None:
    """Serve in another thread, and wait for it here; Ctrl-C arrives here."""
    servers: SimpleQueue[tuple[asyncio.AbstractEventLoop, Server]] = SimpleQueue()

    def ready(server: Server) -> None:
        servers.put((asyncio.get_running_loop(), server))

    with ThreadPoolExecutor(1, thread_name_prefix="uvicorn_worker") as executor:
        served = executor.submit(_run_loop, _serve(app, settings, listener, ready))
        while True:
            try:
                return served.result()
            except KeyboardInterrupt:
                if served.done():
                    raise
                loop, server = servers.get()
                servers.put((loop, server))
                loop.call_soon_threadsafe(server.stop_or_abort)
