import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from engines.redis_server import RedisServer

from .certificates import self_signed
from .harness import Serve, Server

HERE = Path(__file__).parent

#: What has a server measured. One that many tests share is, whichever of them starts it.
MEASURED = {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.live)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for server in Server.running:
            tail = "\n".join(server.log.lines()[-200:])
            report.sections.append((f"log of gunicorn {server.process.pid}", tail))


@pytest.fixture(autouse=True)
def _forget_ended_servers() -> None:
    Server.running[:] = [server for server in Server.running if server.process.poll() is None]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with these options; it is stopped, and gone without a trace, when the test ends."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Server(*args, folder=tmp_path, **more))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shared")
    with Server("apps:app", "--keep-alive", "30", folder=folder, env=MEASURED) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """One worker with default settings (but --keep-alive 30), the same for many tests."""
    yield shared_server
    shared_server.hang_up()


@pytest.fixture(scope="session")
def shared_websocket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("websockets")
    with Server("websocket_apps:app", "--keep-alive", "30", folder=folder, env=MEASURED) as server:
        yield server


@pytest.fixture
def websocket_server(shared_websocket_server: Server) -> Iterator[Server]:
    """The same with the applications of `websocket_apps`."""
    yield shared_websocket_server
    shared_websocket_server.hang_up()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture(params=["local", "redis"])
def engine(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a server whose workers hear of each other in one of the ways that there are."""
    if request.param == "local":
        return {}
    return {"UVICORN_WORKER_GROUPS": request.getfixturevalue("redis").url + "?send_timeout=10"}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Files of a self-signed certificate for localhost and of its key."""
    return self_signed(tmp_path)
