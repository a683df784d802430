"""The end of a process: by a signal, and though its threads may never end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from uvicorn_worker._types import Log
from uvicorn_worker.config import FLUSH_GRACE
from uvicorn_worker.errors import WorkerExit


def status_by(error: BaseException | None, otherwise: int) -> int:
    """The status of a process that ends by ``error``; ``otherwise`` is that of any other than ``SystemExit``."""
    if not isinstance(error, SystemExit):
        return otherwise if error is not None else 0
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def leave_within(seconds: float, status: int, log: Log, beat: Callable[[], None], every: float) -> None:
    """Have the process end in so many seconds, though threads hold it that the interpreter waits for.

    Where they end in time, it ends in its usual way. ``beat`` is called ``every`` so many seconds meanwhile.
    """
    _start_guard(status)  # Already now: while the interpreter waits, Python 3.12 and later start no thread.
    _start(_watch, time.monotonic() + seconds, status, log, beat, every)


def _start(run: Callable[..., None], *args: object) -> None:
    threading.Thread(target=run, args=args, name="leaving", daemon=True).start()


def _watch(end: float, status: int, log: Log, beat: Callable[[], None], every: float) -> None:
    while (left := end - time.monotonic()) > 0:
        beat()
        time.sleep(min(every, left))
    if _threads_left():
        leave(status, log)


def leave(status: int, log: Log) -> NoReturn:
    """End the process now, whatever its threads do, when what it has written is where it belongs."""
    try:
        _flushes.set()  # First: in a signal's handler, to start a thread may wait for a lock that is held below it.
        with suppress(RuntimeError):  # There is one already, where none can be started any more.
            _start_guard(status)
        left = ", ".join(_threads_left())
        if left:
            log.warning("Threads are still running and left behind: %s", left)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # It is what the application has made of it.
                stream.flush()
        logging.shutdown()
    finally:
        os._exit(status)


#: Set when the process ends as soon as what it has written is flushed.
_flushes = threading.Event()


def _start_guard(status: int) -> None:
    """Have the process end, too, where a thread holds what has to be flushed, and never lets go."""
    _start(_guard, status)


def _guard(status: int) -> None:
    _flushes.wait()
    time.sleep(FLUSH_GRACE)
    os._exit(status)


def _threads_left() -> list[str]:
    """The names of the threads that the interpreter waits for."""
    main = threading.main_thread()
    return [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]


def close_loop(loop: asyncio.AbstractEventLoop, grace: float) -> None:
    """Let tasks that are left see their cancellation, and generators be closed, for ``grace`` seconds; close it."""
    if loop.is_running():  # uvloop says so where a signal has kept it from beginning.
        return
    _cancel_tasks(loop, grace)
    closing = loop.create_task(loop.shutdown_asyncgens())
    loop.run_until_complete(asyncio.wait((closing,), timeout=grace))
    _cancel_tasks(loop, grace)
    loop.close()


def _cancel_tasks(loop: asyncio.AbstractEventLoop, grace: float) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=grace))


def ignore_exits(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The handler of what nobody else handles: a task that was left by a signal has failed in nothing."""
    if not isinstance(context.get("exception"), WorkerExit):
        loop.default_exception_handler(context)
