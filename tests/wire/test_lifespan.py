"""The start and the end of an ASGI 3 application, by ASGI's lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from uvicorn_worker.config import Settings
from uvicorn_worker.errors import IllegalMove, StartupFailed
from uvicorn_worker.interfaces.lifespan import Lifespan
from uvicorn_worker.server import Server

from .asgi_apps import Event, Receive, Send
from .harness import Log, run, turn

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}
STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


class App:
    """Sends these events in answer to the startup and to the shutdown, and raises those that are errors."""

    def __init__(self, *startup: Any, shutdown: tuple[Any, ...] = (STOPPED,)) -> None:
        self.startup = startup or (STARTED,)
        self.shutdown = shutdown
        self.calls: list[Any] = []
        self.scope: Event = {}

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.scope = scope
        for answers in (self.startup, self.shutdown):
            self.calls.append(await receive())
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                if answer is ...:
                    await asyncio.get_running_loop().create_future()
                await send(answer)


@asynccontextmanager
async def lifespan_of(app: Any, *, required: bool = False) -> AsyncIterator[tuple[Lifespan, Log]]:
    """A lifespan of which nothing is left at the end, and nothing in the log that was not looked at."""
    unexpected: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unexpected.append(context))
    log = Log()
    yield Lifespan(app, log, required=required), log
    await turn()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turn()
    assert log.take() == []
    assert unexpected == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


both = pytest.mark.parametrize("required", [False, True], ids=["auto", "on"])


@both
def test_an_application_starts_and_stops(required: bool) -> None:
    async def main() -> None:
        app = App()
        async with lifespan_of(app, required=required) as (lifespan, _):
            await lifespan.start(5)
            assert app.calls == [STARTUP]
            await turn()
            assert app.calls == [STARTUP]
            await lifespan.stop(5)
            assert app.calls == [STARTUP, SHUTDOWN]

    run(main())


def test_the_scope_is_that_of_the_specification() -> None:
    async def main() -> None:
        app = App()
        async with lifespan_of(app) as (lifespan, _):
            await lifespan.start(5)
            assert app.scope == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
            app.scope["state"]["pool"] = 1
            assert lifespan.state == {"pool": 1}

    run(main())


@both
def test_a_startup_that_failed_says_why(required: bool) -> None:
    async def main() -> None:
        for reason, told in (({"message": "no database"}, "no database"), ({}, "failed"), ({"message": ""}, "failed")):
            app = App({"type": "lifespan.startup.failed", **reason})
            async with lifespan_of(app, required=required) as (lifespan, _):
                with pytest.raises(StartupFailed, match=told):
                    await lifespan.start(5)
                await lifespan.stop(5)  # There is nothing to stop.
                assert SHUTDOWN not in app.calls

    run(main())


@both
def test_an_error_behind_the_reason_of_a_failure_is_no_news(required: bool) -> None:
    async def main() -> None:
        app = App({"type": "lifespan.startup.failed", "message": "no database"}, ValueError("broken"))
        async with lifespan_of(app, required=required) as (lifespan, _):
            with pytest.raises(StartupFailed, match="^no database$"):
                await lifespan.start(5)

    run(main())


ERRORS = [ValueError("broken"), SystemExit(3), KeyboardInterrupt(), AssertionError("type"), BaseException("odd")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_application_that_raises_has_no_lifespan_where_none_is_required(error: BaseException) -> None:
    async def main() -> None:
        app = App(error)
        async with lifespan_of(app) as (lifespan, _):
            await lifespan.start(5)
            await lifespan.stop(5)
            assert app.calls == [STARTUP]

    run(main())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_application_that_raises_has_not_started_where_a_lifespan_is_required(error: BaseException) -> None:
    async def main() -> None:
        async with lifespan_of(App(error), required=True) as (lifespan, log):
            with pytest.raises(StartupFailed, match=type(error).__name__):
                await lifespan.start(5)
            assert log.take() == [f"The application's startup raised [{type(error).__name__}: {error}]"]

    run(main())


async def returns(scope: Event, receive: Receive, send: Send) -> None:
    """Knows of no lifespan."""


def test_an_application_that_returns_at_once_is_served_where_no_lifespan_is_required() -> None:
    async def main() -> None:
        async with lifespan_of(returns) as (lifespan, _):
            await lifespan.start(5)
            await lifespan.stop(5)

    run(main())


def test_an_application_that_returns_at_once_has_not_started_where_a_lifespan_is_required() -> None:
    async def main() -> None:
        async with lifespan_of(returns, required=True) as (lifespan, _):
            with pytest.raises(StartupFailed, match="returned before"):
                await lifespan.start(5)

    run(main())


@both
def test_a_startup_that_takes_too_long_has_failed(required: bool) -> None:
    async def main() -> None:
        async with lifespan_of(App(...), required=required) as (lifespan, _):
            with pytest.raises(StartupFailed, match=r"longer than 0\.01 s \(lifespan_timeout\)"):
                await lifespan.start(0.01)

    run(main())


def test_a_startup_may_take_for_ever_without_a_timeout() -> None:
    async def main() -> None:
        async with lifespan_of(App(...)) as (lifespan, _):
            starting = asyncio.create_task(lifespan.start(None))
            await turn(100)
            assert not starting.done()

    run(main())


SHUTDOWNS: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "complete": ((STOPPED,), []),
    "failed": (
        ({"type": "lifespan.shutdown.failed", "message": "no database"},),
        ["The application's shutdown failed: no database"],
    ),
    "failed without a reason": (
        ({"type": "lifespan.shutdown.failed"},),
        ["The application's shutdown failed: the application's shutdown failed"],
    ),
    "failed, and raised": (
        ({"type": "lifespan.shutdown.failed", "message": "no database"}, ValueError("broken")),
        ["The application's shutdown failed: no database"],
    ),
    "raised": ((ValueError("broken"),), ["The application's lifespan raised [ValueError: broken]"]),
    "exited": ((SystemExit(3),), ["The application's lifespan raised [SystemExit: 3]"]),
    "returned": ((), []),
}


@pytest.mark.parametrize(("answers", "told"), SHUTDOWNS.values(), ids=SHUTDOWNS)
def test_how_a_shutdown_ended_is_logged_once_unless_it_is_complete(answers: tuple[Any, ...], told: list[str]) -> None:
    async def main() -> None:
        async with lifespan_of(App(shutdown=answers)) as (lifespan, log):
            await lifespan.start(5)
            await lifespan.stop(5)
            await turn()
            assert log.take() == told

    run(main())


def test_a_shutdown_that_never_ends_is_waited_for_as_long_as_there_is_time() -> None:
    async def main() -> None:
        async with lifespan_of(App(shutdown=(...,))) as (lifespan, log):
            await lifespan.start(5)
            async with asyncio.timeout(5):
                await lifespan.stop(0.1)
            assert log.take() == ["The application's shutdown took longer than 0.1 s"]

    run(main())


def test_an_application_that_ends_while_it_is_served_is_not_asked_to_stop() -> None:
    async def main() -> None:
        async with lifespan_of(App(STARTED, ValueError("broken"))) as (lifespan, log):
            await lifespan.start(5)
            await turn()
            assert log.take() == ["The application's lifespan raised [ValueError: broken]"]
            await lifespan.stop(5)

    run(main())


WRONG: dict[str, tuple[Any, ...]] = {
    "a second startup": (STARTED, STARTED),
    "a failure after the startup": (STARTED, {"type": "lifespan.startup.failed"}),
    "a shutdown before it was asked for": (STARTED, STOPPED),
    "a shutdown before the startup": (STOPPED,),
    "an event of another kind": ({"type": "lifespan.startup.other"},),
    "an event of HTTP": ({"type": "http.response.start", "status": 200},),
    "no event at all": ({"type": "lifespan"},),
}


@pytest.mark.parametrize("events", WRONG.values(), ids=WRONG)
def test_an_event_at_the_wrong_time_raises(events: tuple[Event, ...]) -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        for event in events[:-1]:
            await send(event)
        with pytest.raises(IllegalMove):
            await send(events[-1])
        refused.append(events[-1])

    refused: list[Event] = []

    async def main() -> None:
        async with lifespan_of(app) as (lifespan, _):
            await lifespan.start(5)
            await turn()
            assert refused == [events[-1]]

    run(main())


# Within a server.


def server_of(app: Any, log: Log, **settings: Any) -> Server:
    return Server(app, Settings(**settings), [], log)


def test_a_server_whose_application_does_not_start_does_not_serve() -> None:
    async def main() -> None:
        log = Log()
        app = App({"type": "lifespan.startup.failed", "message": "no database"})
        with pytest.raises(StartupFailed, match="no database"):
            await server_of(app, log).serve()
        with pytest.raises(StartupFailed, match="lifespan_timeout"):
            await server_of(App(...), log, lifespan_timeout=0.01).serve()
        assert log.take() == []

    run(main())


def test_without_a_timeout_an_application_may_take_any_time_to_start() -> None:
    async def slow(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await turn()
        await send(STARTED)
        await receive()
        await send(STOPPED)

    async def main() -> None:
        server = server_of(slow, Log(), lifespan_timeout=0)
        serving = asyncio.create_task(server.serve())
        await turn(30)
        assert server.started
        server.stop()
        await asyncio.wait_for(serving, 5)

    run(main())


def test_a_server_has_its_application_stop_last() -> None:
    async def main() -> None:
        log, app = Log(), App()
        server = server_of(app, log)
        serving = asyncio.create_task(server.serve())
        await turn()
        assert app.calls == [STARTUP]
        server.stop()
        await asyncio.wait_for(serving, 5)
        assert app.calls == [STARTUP, SHUTDOWN]
        assert log.take() == []

    run(main())


def test_a_server_ends_in_time_though_its_application_never_stops() -> None:
    async def main() -> None:
        log = Log()
        server = server_of(App(shutdown=(...,)), log, graceful_timeout=0.5)
        serving = asyncio.create_task(server.serve())
        await turn()
        server.stop()
        await asyncio.wait_for(serving, 5)
        assert [line for line in log.take() if "shutdown took longer than" in line] != []

    run(main())


def test_a_server_that_is_stopped_while_its_application_starts_ends() -> None:
    async def main() -> None:
        log, app = Log(), App(...)
        server = server_of(app, log)
        serving = asyncio.create_task(server.serve())
        await turn()
        assert app.calls == [STARTUP]
        server.stop()
        await asyncio.wait_for(serving, 5)
        assert app.calls == [STARTUP]

    run(main())


@pytest.mark.parametrize("settings", [{"lifespan": "off"}, {"lifespan": "off", "interface": "asgi3"}])
def test_a_server_without_a_lifespan_does_not_call_the_application(settings: dict[str, Any]) -> None:
    async def main() -> None:
        app = App()
        server = server_of(app, Log(), **settings)
        server.stop()
        await asyncio.wait_for(server.serve(), 5)
        assert app.calls == []

    run(main())


class RecordingLoop(asyncio.SelectorEventLoop):
    """Remembers for how many seconds it was told to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    def call_later(self, delay: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        self.delays.append(delay)
        return super().call_later(delay, *args, **options)


@pytest.mark.parametrize(("timeout", "delay"), [(1.0, 0.5), (30.0, 1.0)])
def test_a_server_shows_that_it_lives_twice_within_the_timeout_of_a_silent_worker(timeout: float, delay: float) -> None:
    """A worker whose next sign of life is due when its time is up would be killed by chance."""
    beats: list[float] = []

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, RecordingLoop)
        server = Server(App(), Settings(timeout=timeout), [], Log(), heartbeat=lambda: beats.append(loop.time()))
        loop.delays.clear()
        loop.call_soon(server.stop)
        await server.serve()
        return loop.delays

    with asyncio.Runner(loop_factory=RecordingLoop) as runner:
        delays = runner.run(main())
    assert len(beats) == delays.count(delay) > 0
    assert {0.5, 1.0}.intersection(delays) == {delay}
