from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from .harness import eventually
from .redis_server import RedisServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@pytest.fixture
def on_uvloop() -> None:
    """For tests that take long: on one loop only."""


@pytest.fixture
def directory() -> Iterator[str]:
    """One whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """One that other tests use, too: it has no clients when a test begins."""
    assert shared_redis.clients() == []
    return shared_redis


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, on each loop where it asks for ``loop_factory``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    default = uvloop.new_event_loop if "on_uvloop" in pyfuncitem.fixturenames else asyncio.new_event_loop
    factory = pyfuncitem.funcargs.get("loop_factory", default)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_run_alone(pyfuncitem.obj(**values)))
    return True


async def _run_alone(test: Coroutine[Any, Any, None]) -> None:
    """Run a test, which is to leave no task behind."""
    await test
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
