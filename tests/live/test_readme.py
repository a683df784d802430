"""README.rst: each of its code blocks, run as a reader would."""

import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from .client import Wire
from .harness import Log, Serve, Server, spawn

ROOT = Path(__file__).parents[2]

HELLO = b"<h1>Hello World</h1>"


def blocks_of(page: str) -> list[str]:
    """The literal blocks of a page, in order."""
    found = re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", page)
    return [dedent(block).strip("\n") + "\n" for block in found]


BLOCKS = blocks_of((ROOT / "README.rst").read_text(encoding="utf-8"))


def block(beginning: str) -> str:
    (found,) = (block for block in BLOCKS if block.startswith(beginning))
    return found


def gunicorn(line: str) -> list[str]:
    """What stands behind ``gunicorn`` in a command line."""
    return shlex.split(re.split(r"gunicorn (?=-k)", line)[-1])


@pytest.fixture
def serve_app(serve: Serve, tmp_path: Path) -> Callable[..., Server]:
    """Serve the code of a block, by the command line of another, on a port of its own."""

    def start(code: str, line: str, **more: object) -> Server:
        (tmp_path / "app.py").write_text(code)
        *options, app = gunicorn(line)
        workers = int(options[options.index("-w") + 1]) if "-w" in options else 1
        return serve(app, *options, workers=workers, command=("-m", "gunicorn"), **more)

    return start


def test_every_block_has_its_test() -> None:
    beginnings = (
        "python3 -m venv .venv && .venv/bin/pip install . &&",
        "python3 -m venv .venv && .venv/bin/pip install -q tox &&",
        "async def hello_world",
        "async def hello_asgi",
        "gunicorn -k",
        "worker_class =",
        "import uvicorn_worker",
        "async def chat",
        "from uvicorn_worker import UvicornWorker",
        "UVICORN_WORKER_",
        "cd examples/production && python -m uvicorn_worker --check-config && gunicorn",
    )
    assert len(BLOCKS) == len(beginnings)
    assert all(block.startswith(beginning) for block, beginning in zip(BLOCKS, beginnings, strict=True))


def test_the_first_command_line_serves_the_example(serve: Serve) -> None:
    *options, app = gunicorn(block("python3 -m venv .venv && .venv/bin/pip install . &&"))
    reply = serve(app, *options, command=("-m", "gunicorn"), cwd=ROOT).ask("/")
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "text/html", HELLO)


def test_the_second_command_line_is_what_continuous_integration_runs() -> None:
    line = block("python3 -m venv .venv && .venv/bin/pip install -q tox &&")
    assert line.strip() in (ROOT / ".ci" / "run").read_text()


def test_the_message_channels_application(serve_app: Callable[..., Server]) -> None:
    reply = serve_app(block("async def hello_world"), block("gunicorn -k")).ask("/")
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "text/html", HELLO)


def test_the_asgi_application_by_a_configuration_file(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(block("async def hello_asgi"))
    server = serve("app:hello_asgi", workers=4, command=("-m", "gunicorn"), conf=block("worker_class ="))
    reply = server.ask("/")
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "text/html", HELLO)


def test_a_server_in_the_calling_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(block("import uvicorn_worker").replace("port=8000", "port=0"))
    log = Log()
    process = spawn(["script.py"], log, cwd=tmp_path)
    try:
        port = int(log.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
        with Wire(("127.0.0.1", port)) as wire:
            assert wire.ask("/").body == b"Hello World"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_group_reaches_the_clients_of_all_workers(serve_app: Callable[..., Server]) -> None:
    server = serve_app(block("async def chat"), block("gunicorn -k").replace("hello_world", "chat"))
    with server.websocket("/") as one, server.websocket("/") as other:
        one.send("hello")
        assert (one.recv(), other.recv()) == ("hello", "hello")


def test_options_of_a_subclass(serve: Serve) -> None:
    conf = block("from uvicorn_worker import UvicornWorker")
    assert "server" not in serve("apps:app", command=("-m", "gunicorn"), conf=conf).ask("/hello").headers


def test_options_of_the_environment(serve: Serve) -> None:
    *variables, program, rest = shlex.split(block("UVICORN_WORKER_"))
    assert (program, rest) == ("gunicorn", "...")
    env = dict(variable.split("=") for variable in variables)
    assert "server" not in serve("apps:app", env=env).ask("/hello").headers


def test_the_configuration_for_production_is_checked_and_started(serve: Serve) -> None:
    change, check, start = (shlex.split(part) for part in block("cd examples").split("&&"))
    assert (change[0], check[0], start) == ("cd", "python", ["gunicorn"])
    log = Log()
    assert spawn(check[1:], log, cwd=ROOT / change[1]).wait(30) == 0
    assert log.wait_for_end()
    conf = (ROOT / change[1] / "gunicorn.conf.py").read_text()
    assert serve("app:production", conf=conf, cwd=ROOT / change[1]).ask("/").body == b"Hello\n"
