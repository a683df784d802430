"""Each example, as its reader would start it."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .client import chunked, handshake, request
from .harness import Serve, Server

pytestmark = pytest.mark.unmeasured

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(serve: Serve) -> Callable[[str], Server]:
    def start(name: str) -> Server:
        return serve(f"app:{name}", cwd=EXAMPLES / name, command=("-m", "uvicorn_worker"))

    return start


def test_every_example_has_its_test() -> None:
    names = {folder.name for folder in EXAMPLES.iterdir() if (folder / "app.py").exists()}
    assert all(f"test_{name}" in globals() for name in names)


def test_hello_world(example: Callable[[str], Server]) -> None:
    reply = example("hello_world").ask("/")
    assert (reply.status, reply.body) == (200, b"<h1>Hello World</h1>")
    assert reply.headers["content-type"] == "text/html"


def test_echo(example: Callable[[str], Server]) -> None:
    reply = example("echo").ask("/some/path", method="DELETE")
    assert reply.status == 200
    assert "DELETE" in reply.text
    assert "/some/path" in reply.text


def test_streamed_echo(example: Callable[[str], Server]) -> None:
    wire = example("streamed_echo").connect()
    wire.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"one ", b"two"))
    assert wire.reply().body == b"one two"
    wire.send(request("/", method="POST", body=b"sized"))
    assert wire.reply().body == b"sized"


def test_streamed_response(example: Callable[[str], Server]) -> None:
    reply = example("streamed_response").ask("/")
    assert reply.status == 200
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.body


def test_websocket_echo(example: Callable[[str], Server]) -> None:
    with example("websocket_echo").websocket("/") as client:
        for message in ("hello", b"hello", "", b""):
            assert client.ask(message) == message


def test_ticking_clock(example: Callable[[str], Server]) -> None:
    server = example("ticking_clock")
    with server.websocket("/") as client:
        for _ in range(2):
            assert re.fullmatch(r"\d\d:\d\d:\d\d", client.recv())
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


def test_chat(serve: Serve) -> None:
    server = serve("app:chat", cwd=EXAMPLES / "chat", command=("-m", "uvicorn_worker"), workers=2)
    page = server.ask("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "new WebSocket(" in page.text
    with server.websocket("/") as one:
        assert one.recv().startswith("somebody has come, to worker ")
        for number in range(8):  # sooner or later at the other worker
            with server.websocket("/") as other:
                for speaker, text in ((one, f"hello {number}"), (other, f"hi {number}")):
                    speaker.send(text)
                    for listener in (one, other):
                        while listener.recv() != text:  # What different workers send has no common order.
                            pass
            while one.recv() != "somebody has left":
                pass
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


def test_line_protocol(serve: Serve) -> None:
    folder = EXAMPLES / "line_protocol"
    command = ("-m", "gunicorn", "-k", "app.Worker", "--chdir", str(folder))
    server = serve("app:line_protocol", command=command, cwd=EXAMPLES.parent)
    asked = request("/", "Connection: Upgrade", "Upgrade: lines")
    wire = server.connect(asked + b"hello\nsplit ")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.until(b"\n") == b"HELLO\n"
    wire.send(b"line\n")
    assert wire.until(b"\n") == b"SPLIT LINE\n"
    wire.send(b"x" * 5000)
    assert wire.rest() == b""
    assert server.connect(asked.replace(b"GET / ", b"GET /other ")).reply().status == 404
    assert server.ask("/").body == b"Upgrade to lines, if you can.\n"
    assert server.connect(handshake("/")).reply().status == 403
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")
