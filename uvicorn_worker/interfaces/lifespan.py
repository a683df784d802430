"""The start and the end of an ASGI 3 application in each worker (ASGI lifespan specification 2.0)."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any

from uvicorn_worker._types import Application, Log, Message
from uvicorn_worker.errors import IllegalMove, StartupFailed, WorkerExit
from uvicorn_worker.interfaces.scope import VERSIONS


class Stage(IntEnum):
    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    OVER = 3


STARTING, RUNNING, STOPPING, OVER = Stage


class Lifespan:
    """One call of the application that lasts as long as its worker serves.

    Its stage moves by what the application sends, and is OVER when the call has ended.
    """

    def __init__(self, app: Application, log: Log, *, required: bool) -> None:
        """``required`` says that an application that has no lifespan is not served."""
        self._app = app
        self._log = log
        self._required = required
        self._stage = STARTING
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._startup_received = False
        self._shutdown_asked = asyncio.Event()
        self._moved = asyncio.Event()
        #: What the application keeps here, each request gets a shallow copy of.
        self.state: dict[str, Any] = {}

    async def start(self, timeout: float | None) -> None:
        """Have the application start, within ``timeout`` seconds; raises :class:`StartupFailed`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")
        if not await self._wait(timeout):
            raise StartupFailed(f"the startup took longer than {timeout:g} s (lifespan_timeout)")
        if self._failure is not None:
            raise StartupFailed(self._failure)

    async def stop(self, timeout: float) -> None:
        """Have the application end, within ``timeout`` seconds, if it has started."""
        if self._stage is not RUNNING:
            return
        self._stage = STOPPING
        self._moved.clear()
        self._shutdown_asked.set()
        if not await self._wait(timeout):
            self._log.error("The application's shutdown took longer than %.1f s", timeout)
        elif self._failure is not None:
            self._log.error("The application's shutdown failed: %s", self._failure)

    async def _wait(self, timeout: float | None) -> bool:
        try:
            await asyncio.wait_for(self._moved.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSIONS | {"spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except WorkerExit:
            raise
        except BaseException as error:  # SystemExit too: an application ends no worker but by what it sends.
            self._raised(error)
        else:
            if self._stage is STARTING and self._required:
                self._failure = "it returned before its startup was complete"
        self._move(OVER)

    def _raised(self, error: BaseException) -> None:
        task = asyncio.current_task()
        if self._failure is not None or (task is not None and task.cancelling()):
            return  # It has said why, or the worker has ended it.
        if self._stage is not STARTING:
            self._log.error("The application's lifespan raised", exc_info=error)
        elif self._required:
            self._failure = f"it raised {error!r}"
            self._log.error("The application's startup raised", exc_info=error)
        else:
            why = f" ({error!r})" if str(error) else ""  # A bare assertion, as in many examples, says nothing.
            self._log.info("The application has no ASGI lifespan%s", why)

    def _move(self, stage: Stage) -> None:
        self._stage = stage
        self._moved.set()

    async def _receive(self) -> Message:
        if not self._startup_received:
            self._startup_received = True
            return {"type": "lifespan.startup"}
        await self._shutdown_asked.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        event, _, outcome = message["type"].removeprefix("lifespan.").partition(".")
        if (event, self._stage) not in (("startup", STARTING), ("shutdown", STOPPING)):
            raise IllegalMove(f"{message['type']} can't be sent now")
        if outcome == "failed":
            self._failure = message.get("message") or f"the application's {event} failed"
        elif outcome != "complete":
            raise IllegalMove(f"there is no event {message['type']!r} of a lifespan")
        self._move(RUNNING if event == "startup" and outcome == "complete" else OVER)
