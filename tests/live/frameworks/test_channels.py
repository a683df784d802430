"""Django Channels on its consumers of both kinds, whose channel layer is the groups of two workers."""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..client import DEADLINE
from ..harness import Serve, Server, eventually, spawn

TROUBLE = r"Traceback|\[(WARNING|ERROR)\]"

APP = "frameworks.channels_app"


class Client:
    """A member of a room by one of the consumers."""

    def __init__(self, kind: str, socket: Any) -> None:
        self._kind = kind
        self._socket = socket
        self.worker, self.channel = json.loads(socket.recv())

    def say(self, text: str) -> None:
        self._socket.send(text if self._kind == "async" else json.dumps({"say": text}))

    def hear(self) -> str:
        received: str = self._socket.recv(DEADLINE)
        return received if self._kind == "async" else json.loads(received)["said"]

    def leave(self) -> None:
        self._socket.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(f"{APP}:app", workers=2)


@pytest.fixture
def join(stack: ExitStack) -> Callable[[Server, str, int], Client]:
    """A client of a worker; a connection goes to either."""

    def join(server: Server, path: str, worker: int) -> Client:
        def try_to() -> Client | None:
            kind = path.split("/")[1]
            client = Client(kind, stack.enter_context(server.websocket(path)))
            if client.worker == worker:
                return client
            client.leave()
            return None

        client: Client = eventually(try_to)
        return client

    return join


Join = Callable[[Server, str, int], Client]


def ask_at(server: Server, worker: int, path: str) -> None:
    """Have one worker answer, whatever else is asked for on the way."""
    eventually(lambda: server.ask(path).body.decode() == str(worker))


@pytest.fixture
def members(server: Server, join: Join) -> list[Client]:
    """Of both consumers in both workers, in one room."""
    return [join(server, f"/{kind}/chat", worker) for kind in ("async", "sync") for worker in server.ready_workers()]


def test_what_anybody_says_is_heard_by_all_once_and_in_order(server: Server, members: list[Client]) -> None:
    for member in members:
        for number in range(20):
            member.say(f"{member.channel}:{number}")
    for listener in members:
        heard = [listener.hear() for _ in range(20 * len(members))]
        for member in members:
            assert [text for text in heard if text.startswith(f"{member.channel}:")] == [
                f"{member.channel}:{number}" for number in range(20)
            ]
    assert not server.log.lines(TROUBLE)


def test_views_and_threads_speak_to_the_members_of_every_worker(server: Server, members: list[Client]) -> None:
    for path, texts in (("/tell/chat/hi", ["hi"]), ("/tell_in_thread/chat/ho", ["ho 0", "ho 1"])):
        assert server.ask(path).status == 200
        for member in members:
            assert [member.hear() for _ in texts] == texts
    assert not server.log.lines(TROUBLE)


def test_one_client_is_reached_from_every_worker_by_the_name_of_its_channel(
    server: Server, members: list[Client]
) -> None:
    for member in members:
        for worker in server.ready_workers():
            ask_at(server, worker, f"/tell_one/{member.channel}/you")
            server.ask(f"/tell_one/{member.channel}/end{worker}")
            heard = []
            while not heard or heard[-1] != f"end{worker}":
                heard.append(member.hear())
            assert "you" in heard
    assert not server.log.lines(TROUBLE)


def test_a_room_goes_on_without_who_has_left_or_died(server: Server, join: Join, members: list[Client]) -> None:
    stays, leaves = members[0], members[1]
    leaves.leave()
    server.log.wait_for(f"left {leaves.channel}")
    stays.say("who is there?")
    assert [member.hear() for member in members if member is not leaves] == ["who is there?"] * 3
    position = server.log.position()
    server.signal(signal.SIGKILL, leaves.worker)
    newcomer = join(server, "/async/chat", server.wait_for_new_worker(position))
    stays.say("and now?")
    assert (stays.hear(), newcomer.hear()) == ("and now?", "and now?")


def test_runworker_meets_the_workers_in_a_directory(tmp_path: Path, serve: Serve, join: Join) -> None:
    with tempfile.TemporaryDirectory() as directory:
        environment = {"UVICORN_WORKER_GROUPS": f"local://{directory}"}
        server = serve(f"{APP}:app", workers=2, env=environment)
        asker = join(server, "/async/chat", server.worker)
        for worker in server.ready_workers():
            ask_at(server, worker, "/ask/chat/1")  # before there is anybody who could answer
        arguments = ["-m", APP, "runworker", "tasks"]
        process = spawn(arguments, server.log, cwd=tmp_path, env=environment)
        try:
            assert (asker.hear(), asker.hear()) == ("2", "2")
            ask_at(server, server.worker, "/ask/chat/4")
            assert "8" in iter(asker.hear, "")
        finally:
            process.kill()
            process.wait()
