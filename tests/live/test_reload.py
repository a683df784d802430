"""`--reload`: a change is served at once, and a mistake is shown until it is put right."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from .client import Wire, handshake, request
from .harness import HOOKS, Serve, Server, eventually, run_to_its_end

ENGINES = [
    "poll",
    pytest.param(
        "inotify",
        marks=pytest.mark.skipif(importlib.util.find_spec("inotify") is None, reason="needs inotify"),
    ),
]

#: Says a word or what is in a file beside it, streams without end, or echoes.
APP = """\
import asyncio
from pathlib import Path


async def app(message, channels):
    reply = channels["reply"]
    if message["channel"] == "websocket.connect":
        await reply.send({"accept": True})
    elif message["channel"] == "websocket.receive":
        await reply.send({"text": message["text"]})
    elif message["channel"] == "http.request" and message["path"] == "/stream":
        await reply.send({"status": 200, "content": b"begun", "more_content": True})
        await asyncio.Event().wait()
    elif message["channel"] == "http.request" and message["path"] == "/body":
        received = await channels["body"].receive()
        await reply.send({"status": 200, "content": received["content"]})
    elif message["channel"] == "http.request":
        text = Path("words.txt").read_text() if message["path"] == "/words" else "%s"
        await reply.send({"status": 200, "content": text.encode()})
"""


def change(server: Server, path: Path, text: str) -> int:
    """Write a file, until that is noticed; the number of the log's line before that."""
    start = server.log.position()

    def noticed() -> bool:
        path.write_text(text)  # Again, because what was written before the first look is no change to Gunicorn.
        return bool(server.log.lines("Worker reloading", after=start))

    eventually(noticed)
    return start


@pytest.fixture
def develop(serve: Serve, tmp_path: Path) -> Serve:
    """A server with --reload of `made.py`, which has a given text."""

    def start(text: str, *options: str, app: str = "made:app", **more: Any) -> Server:
        (tmp_path / "made.py").write_text(text)
        env = {"PYTHONDONTWRITEBYTECODE": "1"}  # A cached module is as old as its source to the second.
        return serve(app, "--reload", *options, env=env, **more)

    return start


# -- changes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_module_is_served_as_it_has_become(develop: Serve, tmp_path: Path, engine: str) -> None:
    server = develop(APP % "before", "--reload-engine", engine, conf=HOOKS)
    old = server.worker
    assert server.ask("/").text == "before"
    start = change(server, tmp_path / "made.py", APP % "after")
    server.wait_for_new_worker(start)
    assert server.ask("/").text == "after"
    # Gunicorn calls worker_int in the reloader's thread when it has told the worker to stop, which may end before that.
    assert set(server.log.lines("^worker_", after=start)) - {f"worker_int {old}"} == {f"worker_exit {old}"}
    assert not server.log.lines(r"Traceback|exited with code")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_extra_file_is_a_change(develop: Serve, tmp_path: Path, engine: str) -> None:
    words = tmp_path / "words.txt"
    words.write_text("before")
    server = develop(APP, "--reload-engine", engine, "--reload-extra-file", str(words))
    start = change(server, words, "after")
    server.wait_for_new_worker(start)
    assert server.ask("/words").text == "after"


def test_a_reload_lets_a_request_finish_and_waits_for_no_stream(develop: Serve, tmp_path: Path) -> None:
    server = develop(APP % "before", "--graceful-timeout", "600")
    stream = server.connect(request("/stream"))
    stream.until(b"begun")
    busy = server.connect(request("/body", "Content-Length: 4", "Expect: 100-continue", method="POST"))
    busy.until(b"HTTP/1.1 100 Continue\r\n\r\n")
    with server.websocket("/") as client:
        assert client.ask("hello") == "hello"
        start = change(server, tmp_path / "made.py", APP % "after")
        assert client.closing() == (1012, "")
    busy.send(b"done")
    assert busy.reply().text == "done"
    server.wait_for_new_worker(start)
    assert server.ask("/").text == "after"
    stream.count()
    assert server.log.lines("graceful_timeout: GET /stream", after=start)


# -- mistakes


def assert_shown(server: Server, text: str) -> None:
    reply = server.ask("/any/path")
    assert reply.status == 500
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert text in reply.text
    assert re.escape(text) in server.log


@pytest.mark.parametrize("engine", ENGINES)
def test_a_syntax_error_is_shown_until_it_is_put_right(develop: Serve, tmp_path: Path, engine: str) -> None:
    server = develop("def broken(:", "--reload-engine", engine)
    assert_shown(server, "SyntaxError")
    assert_shown(server, "def broken(:")
    with Wire(server.address) as wire:
        wire.send(handshake("/any/path"))
        assert wire.reply().status == 500
    start = change(server, tmp_path / "made.py", APP % "put right")
    server.wait_for_new_worker(start)
    assert server.ask("/").text == "put right"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unknown", "NameError: name 'unknown' is not defined"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("", "Failed to find attribute 'app' in 'made'"),
        ("async def app(message): ...", "takes 1 positional argument"),
        ("raise SystemExit('no key')", "no key"),
    ],
    ids=["name", "import", "no application", "no interface", "exit"],
)
def test_a_mistake_of_any_kind_is_shown_until_it_is_put_right(
    develop: Serve, tmp_path: Path, text: str, told: str
) -> None:
    server = develop(text)
    assert_shown(server, told)
    start = change(server, tmp_path / "made.py", APP % "put right")
    server.wait_for_new_worker(start)
    assert server.ask("/").text == "put right"


def test_a_mistake_in_a_module_that_is_imported_is_shown_until_it_is_put_right(develop: Serve, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("1 / 0\n")
    server = develop("import helper\n" + APP % "put right")
    assert_shown(server, "ZeroDivisionError")
    start = change(server, tmp_path / "helper.py", "")
    server.wait_for_new_worker(start)
    assert server.ask("/").text == "put right"


def test_a_mistake_that_is_made_while_it_runs_is_shown(develop: Serve, tmp_path: Path) -> None:
    server = develop(APP % "before", conf="raw_env = ['UVICORN_WORKER_INTERFACE=channels']\n")
    start = change(server, tmp_path / "made.py", APP % "after" + "\nunknown\n")
    server.wait_for_new_worker(start)
    assert_shown(server, "NameError")


def test_a_startup_that_fails_is_shown_until_it_is_put_right(develop: Serve, tmp_path: Path) -> None:
    failing = """\
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})
"""
    server = develop(failing, conf="raw_env = ['UVICORN_WORKER_INTERFACE=asgi3']\n")
    assert_shown(server, "The application did not start: the database is not there")
    start = change(server, tmp_path / "made.py", failing.replace("failed", "complete"))
    server.wait_for_new_worker(start)
    assert server.ask("/").status == 500
    assert "The application returned" in server.log


def test_a_module_that_the_command_line_misspells_stops_the_master_all_the_same(tmp_path: Path) -> None:
    ended = run_to_its_end("no_such_module:app", "--reload", folder=tmp_path)
    assert ended.status == 4
    assert len(ended.log.lines("no_such_module")) == 1
