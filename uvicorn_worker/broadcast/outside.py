"""Groups of a process that no worker runs in, as a management command or one of a task queue.

They have an engine of their own, in a loop and a thread of their own: whichever loops the process has, and however
short these live, connections last as long as it does.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable

from uvicorn_worker.broadcast.engines import engine_of
from uvicorn_worker.broadcast.groups import Gap, Groups
from uvicorn_worker.broadcast.once import Once
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import GroupsUnavailable
from uvicorn_worker.groups import hooks

#: Seconds that the end of a process waits for what was sent to leave.
_STOP_TIME = 5.0

#: And those of them that are for workers to read it: they may be busy.
_FLUSH_TIME = 2.5

_NO_WORKER = (
    "no worker runs in this process, and those of a Gunicorn master share their groups with nobody else unless the "
    "option groups, as by the environment variable UVICORN_WORKER_GROUPS, names a directory (local:///run/app) or a "
    "Redis, for them and for this process"
)

_log = logging.getLogger("uvicorn_worker")


class Outside:
    """The groups that one URL names."""

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.new_event_loop()
        self.groups = Groups(settings, _log, self.loop.call_soon)
        #: Awaited in the loop before anything is asked of the groups. Raises :class:`GroupsUnavailable`, and
        #: :class:`InvalidOption` where Redis doesn't let one in.
        self.start = Once(self._start)
        #: Awaited before the engine stops.
        self.before_stop: list[Callable[[], Awaitable[None]]] = []
        self._told_to_stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="uvicorn_worker groups", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        await self._told_to_stop.wait()
        for settle in self.before_stop:
            await settle()
        await self.groups.engine.stop(_FLUSH_TIME)

    async def _start(self) -> None:
        url = self.groups.url
        if url == Settings.groups:
            raise GroupsUnavailable(_NO_WORKER)
        gaps: list[Gap] = []
        self.groups.hooks = [gaps.append]
        await self.groups.start(engine_of(url, None, _log))
        self.groups.hooks = hooks
        if gaps and gaps[0].groups is None:  # A worker would serve nevertheless.
            raise GroupsUnavailable(f"{url} can't be used from here: {gaps[0].reason}")

    def stop(self) -> None:
        """Return when what was sent has left, or soon."""
        self.loop.call_soon_threadsafe(self._told_to_stop.set)
        self._thread.join(_STOP_TIME)


_all: dict[str, Outside] = {}
_lock = threading.Lock()
#: Those of the process that this one was forked from, whose threads it doesn't have.
_inherited: list[dict[str, Outside]] = []


def outside(settings: Settings) -> Outside:
    """The groups that the settings name, the same for all of this process."""
    with _lock:
        found = _all.get(settings.groups)
        if found is None:
            found = _all[settings.groups] = Outside(settings)
        return found


def stop_all() -> None:
    """For the end of the process."""
    with _lock:
        while _all:
            _all.popitem()[1].stop()


def _begin_anew() -> None:
    """In a process that was forked."""
    global _all, _lock
    _inherited.append(_all)
    _all, _lock = {}, threading.Lock()


atexit.register(stop_all)
os.register_at_fork(after_in_child=_begin_anew)
