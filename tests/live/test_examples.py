"""Each example, as its reader would start it."""

import json
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from urllib.parse import urlencode

import pytest

from .client import chunked, handshake, request
from .harness import Log, Serve, Server, spawn

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


def test_every_example_is_named_in_readme_and_has_its_start_line() -> None:
    readme = (EXAMPLES.parent / "README.rst").read_text()
    named = re.findall(r"``(\w+)``", readme.partition("The directory ``examples``")[2])
    folders = {path.parent.name: path.read_text() for path in EXAMPLES.glob("*/app.py")}
    assert folders.keys() <= set(named)
    for name, text in folders.items():
        start = rf"^    (gunicorn .*--chdir examples/{name} app:{name}|cd examples/{name} && gunicorn)$"
        assert re.search(start, text, re.MULTILINE), name


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


class Chatter:
    """A client of the chat, that puts together what workers tell as the page does."""

    def __init__(self, stack: ExitStack, server: Server, name: str) -> None:
        self._client = stack.enter_context(server.websocket(f"/?{urlencode({'name': name})}"))
        self.said: list[tuple[str, str]] = []
        self._workers: dict[int, list[str]] = {}

    def say(self, text: str) -> None:
        self._client.send(text)

    def leave(self) -> None:
        self._client.close()

    def hear(self) -> None:
        news = json.loads(self._client.recv())
        if "here" in news:
            self._workers[news["worker"]] = news["here"]
        else:
            self.said.append((news["name"], news["text"]))

    def wait_to_see(self, *names: str) -> dict[str, int]:
        """Hear until exactly these are there; return the worker of each."""
        while sorted(chain(*self._workers.values())) != sorted(names):
            self.hear()
        return {name: worker for worker, here in self._workers.items() for name in here}

    def wait_for(self, name: str, text: str) -> None:
        while (name, text) not in self.said:
            self.hear()


def test_chat(serve: Serve) -> None:
    server = serve("app:chat", cwd=EXAMPLES / "chat", command=("-m", "uvicorn_worker"), workers=2)
    page = server.ask("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    with ExitStack() as stack:
        ada = Chatter(stack, server, "Ada & Co")
        names = ["Ada & Co"]
        workers = ada.wait_to_see(*names)
        while len(set(workers.values())) < 2:  # sooner or later somebody comes to the other worker
            names.append(f"Guest {len(names)}")
            guest = Chatter(stack, server, names[-1])
            workers = ada.wait_to_see(*names)
        assert guest.wait_to_see(*names) == workers
        for number in range(5):
            guest.say(f"hello {number}")
            for listener in (ada, guest):
                listener.wait_for(names[-1], f"hello {number}")
            ada.say(f"hi {number}")
            for listener in (ada, guest):
                listener.wait_for("Ada & Co", f"hi {number}")
        assert ada.said == guest.said
        guest.leave()
        ada.wait_to_see(*names[:-1])
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


def test_server_sent_events(serve: Serve) -> None:
    folder = EXAMPLES / "server_sent_events"
    server = serve("app:server_sent_events", cwd=folder, command=("-m", "uvicorn_worker"), workers=2)
    assert "new EventSource(" in server.ask("/").text
    listeners = [server.connect(request("/events")) for _ in range(4)]
    for wire in listeners:
        assert b"\r\ncontent-type: text/event-stream\r\n" in wire.until(b"\r\n\r\n")
        wire.until(b": hello\n\n")
    assert server.ask("/", method="POST", body=b"two\nlines").status == 202
    for wire in listeners:
        assert b"data: two\ndata: lines\n\n" in wire.until(b"lines\n\n")
    assert server.connect(handshake("/")).reply().status == 403


def test_fastapi_groups(serve: Serve) -> None:
    folder = EXAMPLES / "fastapi_groups"
    server = serve("app:fastapi_groups", cwd=folder, command=("-m", "uvicorn_worker"), workers=2)
    with server.websocket("/rooms/kitchen") as cook, server.websocket("/rooms/cellar") as other:
        body = b'{"text":"Dinner is ready"}'
        told = server.connect(request("/rooms/kitchen", "Content-Type: application/json", method="POST", body=body))
        assert told.reply().status == 202
        assert cook.recv().encode() == body
        assert (cook.ask("Coming"), other.ask("Late")) == ('{"text":"Coming"}', '{"text":"Late"}')
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


def test_production(serve: Serve, tmp_path: Path) -> None:
    folder = EXAMPLES / "production"
    conf = (folder / "gunicorn.conf.py").read_text()
    server = serve("app:production", conf=conf, command=("-m", "gunicorn"), cwd=folder, workers=2)
    assert server.ask("/healthz").status == 204
    reply = server.ask("/")
    assert (reply.body, "server" in reply.headers) == (b"Hello\n", False)
    server.log.wait_for('"GET / HTTP/1.1" 200 6 ')
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    for pattern, times in (("Ready, with 2 workers", 1), ("Worker .* ends", 2), ("Worker .* is gone", 2), ("Done", 1)):
        assert len(server.log.lines(pattern)) == times
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\] ")


def test_the_configuration_for_production_is_in_order_as_it_stands() -> None:
    log = Log()
    assert spawn(["-m", "uvicorn_worker", "--check-config"], log, cwd=EXAMPLES / "production").wait(30) == 0
    assert log.wait_for_end()
    assert str(log) == ""


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
