from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Iterator

import pytest
import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


@pytest.fixture
def directory() -> Iterator[str]:
    """One whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, on each loop where it asks for ``loop_factory``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    factory = pyfuncitem.funcargs.get("loop_factory", asyncio.new_event_loop)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(pyfuncitem.obj(**values))
    return True
