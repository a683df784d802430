"""Something that many wait for, and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Once:
    """Awaits what ``do`` returns, in a task that whoever else comes waits for, too. Where it failed, who comes next has
    it begun again; who gives up waiting leaves it to go on."""

    def __init__(self, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._do = do
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Raises what it raised."""
        task = self._task
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._task = asyncio.get_running_loop().create_task(self._do())
        await asyncio.shield(task)
