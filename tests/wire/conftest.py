from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from .harness import LOOPS, ASGIWorker, Worker, hello


class Serve:
    """``serve(app, **settings)`` gives a worker, which is closed and checked when the test ends."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []

    def __call__(self, app: Callable[..., Any] = hello, **settings: Any) -> Worker:
        worker = Worker(app, settings)
        self.workers.append(worker)
        return worker

    def asgi(self, app: Callable[..., Any], **settings: Any) -> ASGIWorker:
        """The same for an application of ASGI 3."""
        worker = ASGIWorker(app, settings)
        self.workers.append(worker)
        return worker


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@pytest.fixture
def serve(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Serve:
    return Serve()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, and close what it has served in the same loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def main() -> None:
        await pyfuncitem.obj(**values)
        for worker in pyfuncitem.funcargs["serve"].workers:
            await worker.close()

    with asyncio.Runner(loop_factory=pyfuncitem.funcargs["loop_factory"]) as runner:
        runner.run(main())
    return True
