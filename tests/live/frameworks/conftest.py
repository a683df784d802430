from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..client import DEADLINE
from ..harness import Server

FRAMEWORKS = ["fastapi", "starlette", "litestar", "quart", "django"]

SIZE_OF_BIG_FILE = 50 << 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if "site" in metafunc.fixturenames and all("site" not in mark.args[0] for mark in marks):
        metafunc.parametrize("site", FRAMEWORKS, indirect=True)


@dataclass
class Site:
    """A server of one framework's application, and a client."""

    server: Server
    http: httpx.Client

    def position(self) -> int:
        return self.server.log.position()

    def wait_for(self, pattern: str, **more: Any) -> None:
        self.server.log.wait_for(pattern, **more)

    def open_gate(self, name: str) -> None:
        assert self.http.post(f"/open/{name}").status_code == 200

    def tracebacks(self, after: int) -> int:
        """How many have been logged by the time that another request is answered."""
        assert self.http.get("/json").status_code == 200
        return len(self.server.log.lines(r"^Traceback \(most recent call last\)", after=after))


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.bin"
    with path.open("wb") as file:
        for number in range(SIZE_OF_BIG_FILE >> 20):
            file.write(bytes([number]) * (1 << 20))
    return path


@pytest.fixture(scope="module")
def site_of(tmp_path_factory: pytest.TempPathFactory, big_file: Path) -> Iterator[Callable[[str], Site]]:
    """The site of a framework, which is started when it is first asked for."""
    sites: dict[str, Site] = {}
    with ExitStack() as stack:

        def site_of(framework: str) -> Site:
            if framework not in sites:
                folder = tmp_path_factory.mktemp(framework)
                app, env = f"frameworks.{framework}_app:app", {"BIG_FILE": str(big_file)}
                options = ("--keep-alive", "30", "--graceful-timeout", "5")  # should a call of a failed test hang
                server = stack.enter_context(Server(app, *options, folder=folder, env=env))
                http = stack.enter_context(client_of(server))
                sites[framework] = Site(server, http)
            return sites[framework]

        yield site_of


@pytest.fixture
def site(request: pytest.FixtureRequest, site_of: Callable[[str], Site]) -> Iterator[Site]:
    """Of each framework in turn, unless a test says of which; the same server for many tests."""
    found = site_of(request.param)
    yield found
    found.server.hang_up()


def client_of(server: Server, **options: Any) -> httpx.Client:
    host, port = server.address
    options = {"headers": {"Accept-Encoding": "identity"}, "trust_env": False, "timeout": DEADLINE, **options}
    return httpx.Client(base_url=f"http://{host}:{port}", **options)
