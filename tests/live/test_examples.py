"""Each example, as its reader would start it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .client import chunked, request
from .harness import Serve, Server

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
