"""The pages of docs/: their code blocks, which are run as a reader would, or compared with what is there."""

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from uvicorn_worker import groups
from uvicorn_worker.groups import Gap
from uvicorn_worker.interfaces.detect import Interface, detect_interface

from .client import request
from .harness import WORKER, Log, Serve, Server, eventually, needs_setting, run_to_its_end
from .test_readme import BLOCKS as README
from .test_readme import HELLO, ROOT, blocks_of, gunicorn

pytestmark = pytest.mark.unmeasured

#: How the blocks of each page begin that has any; what README.rst has as well is not named.
BEGINNINGS = {
    "architecture": ["socket →", "handshake →", "channels['groups'].send →"],  # drawings
    "asgi3": ["gunicorn -k"],
    "contributing": ["python3 -m venv"],
    "groups": [
        "groups = scope",
        "from uvicorn_worker import groups",
        "async def news",
        "@groups.on_gap",
        "pip install",
        "client-output-buffer-limit",
        "from uvicorn_worker.broadcast import",
        "CHANNEL_LAYERS",
        "export",
    ],
    "groups-tests": ["FULL_SIZE=1"],
    "interface": [
        "import asyncio\n\nasync def countdown",
        "async def count",
        "async def echo",
        "import asyncio\n\nasync def notify",
        "from uvicorn_worker import UpgradedProtocol",
    ],
    "performance": ["tox -e bench   ", "tox -e bench -- hello", "hello: 20 bytes"],
    "running": ["python -m uvicorn_worker app:hello_world [gunicorn options]"],
    "security": ["python tests/fuzz"],
}

PAGES = {path.stem: blocks_of(path.read_text(encoding="utf-8")) for path in (ROOT / "docs").glob("*.rst")}


def block(page: str, beginning: str) -> str:
    (found,) = (block for block in PAGES[page] if block.startswith(beginning))
    return found


def test_every_block_has_its_test() -> None:
    own = {page: [block for block in blocks if block not in README] for page, blocks in PAGES.items()}
    assert {page: len(blocks) for page, blocks in own.items() if blocks} == {
        page: len(beginnings) for page, beginnings in BEGINNINGS.items()
    }
    for page, beginnings in BEGINNINGS.items():
        assert all(map(str.startswith, own[page], beginnings)), page


# -- applications

#: Those of the pages, each at the path of its name; `tell` speaks to the group `news`.
SERVED = """
async def tell(message, channels):
    await channels['groups'].send({'group': 'news', 'send': {'text': 'Something happened'}})
    await channels['reply'].send({'status': 204})


async def app(message, channels):
    await globals()[message['path'][1:]](message, channels)
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all message/channels applications, by the worker with another protocol."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("import asyncio\n\nasync def countdown", "async def count", "async def echo")
    blocks = [block("interface", name) for name in (*names, "import asyncio\n\nasync def notify")]
    (folder / "app.py").write_text("\n".join([*blocks, block("groups", "async def news"), SERVED]))
    conf = block("interface", "from uvicorn_worker import UpgradedProtocol") + "\nworker_class = Worker\n"
    with Server("app:app", folder=folder, command=("-m", "gunicorn"), conf=conf) as server:
        yield server


def test_a_response_in_parts_is_sent_as_it_comes(pages: Server) -> None:
    wire = pages.connect(request("/countdown"))
    assert b"transfer-encoding: chunked" in wire.until(b"\r\n\r\n")
    assert wire.until(b"9\n") == b"3\r\n10\n\r\n2\r\n9\n"


def test_a_body_is_counted(pages: Server) -> None:
    assert pages.ask("/count", method="POST", body=b"x" * 100_000).text == "100000 bytes\n"
    assert pages.ask("/count").text == "0 bytes\n"


def test_messages_of_a_websocket_are_echoed(pages: Server) -> None:
    with pages.websocket("/echo") as client:
        for message in ("hello", b"hello", ""):
            assert client.ask(message) == message


def test_the_call_of_a_handshake_waits_and_is_ended_by_the_last_call(pages: Server) -> None:
    start = pages.log.position()
    with pages.websocket("/notify"):
        pass
    assert pages.ask("/count").status == 200  # The worker has seen the close before it.
    assert not pages.log.lines(r"Traceback|\[(WARNING|ERROR)\]", after=start)


def test_a_held_reply_is_answered_through_its_group(pages: Server) -> None:
    waiting = pages.connect(request("/news"))
    # Until it has joined, what is told reaches nobody.
    eventually(lambda: pages.ask("/tell").status == 204 and not waiting.is_silent())
    assert waiting.reply().text == "Something happened"


def test_another_protocol_is_switched_to(pages: Server) -> None:
    wire = pages.connect(request("/", "Connection: Upgrade", "Upgrade: lines") + b"hello\n")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.until(b"\n") == b"HELLO\n"


def test_both_ways_to_name_an_asgi_application(serve: Serve, tmp_path: Path) -> None:
    hello = next(block for block in README if block.startswith("async def hello_asgi"))
    (tmp_path / "module.py").write_text(f"{hello}\napp = hello_asgi\n\ndef create_app():\n    return hello_asgi\n")
    lines = block("asgi3", "gunicorn -k").splitlines()
    assert len(lines) == 2
    for line in lines:
        *options, app = gunicorn(line)
        workers = int(options[options.index("-w") + 1]) if "-w" in options else 1
        server = serve(app, *options, workers=workers, command=("-m", "gunicorn"), cwd=tmp_path)
        assert server.ask("/").body == HELLO


# -- groups


def test_the_least_that_makes_a_group_reaches_the_clients_of_all_workers(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(block("groups", "async def chat"))
    server = serve("app:chat", workers=2)
    with server.websocket("/") as one, server.websocket("/") as other:
        one.send("hello")
        assert (one.recv(), other.recv()) == ("hello", "hello")


ASGI = """
import asyncio

{module}

async def app(scope, receive, send):
    if scope['type'] == 'websocket':
        await receive()
        await send({{'type': 'websocket.accept'}})
{connection}
        await in_the_loop()
        await asyncio.to_thread(in_a_thread)
        await receive()
"""


def test_groups_of_asgi_and_of_code_outside_of_requests(serve: Serve, tmp_path: Path) -> None:
    connection = indent(block("groups", "groups = scope"), " " * 8)
    module = block("groups", "from uvicorn_worker import groups")
    (tmp_path / "app.py").write_text(ASGI.format(module=module, connection=connection))
    with serve("app:app").websocket("/") as client:
        assert [client.recv() for _ in range(3)] == ["hello", "from the loop", "from a thread"]


def run_block(beginning: str, **names: Any) -> dict[str, Any]:
    exec(compile(block("groups", beginning), beginning, "exec"), names)
    return names


def test_a_function_is_told_of_gaps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hooks: list[Callable[[Gap], object]] = []
    monkeypatch.setattr(groups, "hooks", hooks)
    run_block("@groups.on_gap", groups=groups)
    for hook in hooks:
        hook(Gap("a worker was lost", frozenset({"chat"}), 1.5))
    assert capsys.readouterr().out == "a worker was lost frozenset({'chat'}) 1.5\n"


def test_the_middleware_wraps_an_application() -> None:
    async def app(message: Any, channels: Any) -> None: ...

    wrapped = run_block("from uvicorn_worker.broadcast import", app=app)["app"]
    assert wrapped is not app
    assert detect_interface(wrapped) is Interface.CHANNELS


def test_the_setting_of_django_names_a_channel_layer() -> None:
    pytest.importorskip("channels")
    module, _, name = run_block("CHANNEL_LAYERS")["CHANNEL_LAYERS"]["default"]["BACKEND"].rpartition(".")
    assert getattr(import_module(module), name)().extensions == ["groups", "flush"]


def test_extras_that_are_to_be_installed_are_there() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.rst")]
    named = {name for text in texts for name in re.findall(r"clone\[(\w+)\]'", text)}
    assert named == set(setup["options.extras_require"]) - {"test"}


# -- command lines


def lines_of(page: str, beginning: str) -> list[list[str]]:
    lines = block(page, beginning).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_the_commands_for_contributors_are_those_of_tox_and_name_what_is_there() -> None:
    install, everything, some = lines_of("contributing", "python3 -m venv")
    assert shlex.join(install).replace("'&&'", "&&") in (ROOT / ".ci" / "run").read_text()
    assert everything == [".venv/bin/tox"]
    assert (some[:4], (ROOT / some[-1]).is_dir()) == ([".venv/bin/tox", "-e", "py311", "--"], True)
    (_, pytest_, path) = lines_of("groups-tests", "FULL_SIZE=1")[0]
    assert (pytest_, (ROOT / path).exists()) == ("pytest", True)


def test_the_benchmarks_know_what_they_are_asked_for() -> None:
    code = "import sys; from benchmarks.__main__ import arguments; arguments().parse_args(sys.argv[1:])"
    for command in lines_of("performance", "tox -e bench   ") + lines_of("performance", "tox -e bench -- hello"):
        assert command[:3] == ["tox", "-e", "bench"]
        run = [sys.executable, "-c", code, *command[4:]]
        subprocess.run(run, check=True, timeout=60, cwd=ROOT)


def test_the_search_for_faults_takes_its_options() -> None:
    for program, path, what, option, _ in lines_of("security", "python tests/fuzz"):
        assert program == "python"
        tries = [sys.executable, ROOT / path, what, option, "0.1", "--seed", "1"]
        subprocess.run(tries, check=True, timeout=60, capture_output=True)


# -- what Gunicorn says


def test_every_path_that_is_named_is_there() -> None:
    pages = [ROOT / "README.rst", ROOT / "CHANGELOG.rst", *(ROOT / "docs").glob("*.rst")]
    folders = "docs|examples|tests|benchmarks|uvicorn_worker|\\.ci"
    for page in pages:
        for path in re.findall(rf"``((?:{folders})/[\w./-]+)``", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def assert_explained(log: Log, words: str) -> None:
    """That the log has the words, and the page has them to explain them."""
    assert words in " ".join((ROOT / "docs" / "running.rst").read_text(encoding="utf-8").split())
    assert log.lines(re.escape(words).replace(re.escape("..."), ".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-k", "uvicorn_worker.UvicornWorkr"), "'str' object is not callable"),
        (("-k", "UvicornWorker"), "class uri ... invalid or not found"),
        (("-k", WORKER, "--certfile", "nope.pem"), 'certfile "..." does not exist'),
        pytest.param(
            ("-k", WORKER, "--http-protocols", "h2"),
            "http_protocols includes h2 but the h2 package is not installed",
            marks=needs_setting("http_protocols"),
        ),
    ],
    ids=["name", "no module", "certificate", "h2"],
)
def test_what_gunicorn_says_to_what_it_looks_at_first_is_explained(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "h2.py").write_text("raise ImportError\n")  # Some package of the tests' may have brought the real one.
    ended = run_to_its_end("apps:app", *options, folder=tmp_path, command=("-m", "gunicorn"))
    assert ended.status != 0
    assert_explained(ended.log, words)


def test_a_port_that_is_taken_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_to_its_end("apps:app", folder=tmp_path, bind="{}:{}".format(*taken.getsockname()))
    assert ended.status == 1
    assert_explained(ended.log, "Address already in use")
    assert_explained(ended.log, "Can't connect to")


@pytest.mark.parametrize(
    ("app", "words"),
    [("apps:hello", "'coroutine' object is not iterable"), ("asgi_apps:app", "missing 1 required positional argument")],
    ids=["channels", "asgi"],
)
def test_an_application_that_gunicorns_own_worker_has_called_is_explained(serve: Serve, app: str, words: str) -> None:
    server = serve(app, command=("-m", "gunicorn"))
    assert server.ask("/").status == 500
    assert_explained(server.log, words)
