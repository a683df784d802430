"""Groups for code that runs outside of requests: the application's startup, background tasks, other threads.

What an application says within a call goes through ``channels['groups']``, or through
``scope['extensions']['uvicorn_worker.groups']``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from uvicorn_worker._types import Message
from uvicorn_worker.broadcast.groups import Gap, Groups
from uvicorn_worker.errors import GroupsUnavailable

__all__ = ["Gap", "on_gap", "send", "send_threadsafe", "stats"]

#: The groups of the workers in this process, which nearly always is one, by their loops.
_workers: dict[asyncio.AbstractEventLoop, Groups] = {}

#: Called with each gap of any groups in this process.
hooks: list[Callable[[Gap], object]] = []


async def send(group: str, message: Message) -> None:
    """Send ``message`` to all members of ``group``, in every worker.

    It is what ``channels['reply'].send`` takes. Raises ``InvalidGroupMessage`` (a ``ValueError``), and
    ``GroupsUnavailable`` (a ``ConnectionError``) where the engine is out of reach, or no worker runs in this loop.
    """
    groups = _workers.get(asyncio.get_running_loop())
    if groups is None:
        raise GroupsUnavailable("no worker runs in this event loop: send_threadsafe sends from elsewhere")
    await groups.send_to(group, message)


def send_threadsafe(group: str, message: Message) -> Future[None]:
    """The same from any thread of a worker's process. The future is done when the message is on its way, or failed
    as :func:`send` does."""
    if not _workers:
        raise GroupsUnavailable("no worker runs in this process")
    loop, groups = next(reversed(_workers.items()))
    return asyncio.run_coroutine_threadsafe(groups.send_to(group, message), loop)


def on_gap(hook: Callable[[Gap], object]) -> Callable[[Gap], object]:
    """Have ``hook`` called, in the worker's event loop, whenever messages may have been missed there: it is given a
    :class:`Gap`, with the ``reason``, the ``groups`` concerned (``None`` means all), and the time ``at`` which. Where
    a channel layer is used in a process that no worker runs in, the loop is in a thread of its own.

    Can be used as a decorator, and by several.
    """
    hooks.append(hook)
    return hook


def stats() -> dict[str, Any]:
    """Numbers about the groups of this worker; none, where no worker runs in this process."""
    return next(reversed(_workers.values())).stats() if _workers else {}


def worker() -> tuple[asyncio.AbstractEventLoop, Groups] | None:
    """The loop and the groups of the worker in the running loop, or else of the youngest one in this process."""
    try:
        loop = asyncio.get_running_loop()
        return loop, _workers[loop]
    except (RuntimeError, KeyError):
        return next(reversed(_workers.items())) if _workers else None


def enrol(loop: asyncio.AbstractEventLoop, groups: Groups) -> None:
    """A worker begins to run in ``loop``."""
    _workers[loop] = groups
    groups.hooks = hooks


# In a process that was forked, as by multiprocessing, nobody would ever do what is asked of a worker's loop.
os.register_at_fork(after_in_child=_workers.clear)


def dismiss(loop: asyncio.AbstractEventLoop) -> None:
    """It runs no more."""
    _workers.pop(loop, None)
