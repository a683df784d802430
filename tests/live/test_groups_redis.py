"""Groups through a real Redis: workers of several masters, the middleware of 2017, and starts that fail."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from engines.redis_server import RedisServer

from .client import request
from .harness import FULL_SIZE, Serve, eventually, run_to_its_end
from .test_groups import TROUBLE, Chatter, Clients, Heard, stats_of, wait_for_more

pytestmark = pytest.mark.unmeasured

STOP, CONT = signal.SIGSTOP, signal.SIGCONT


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


def through(redis: RedisServer, query: str = "") -> dict[str, str]:
    return {"UVICORN_WORKER_GROUPS": redis.url + query}


def test_what_is_said_at_one_worker_is_heard_at_all_in_one_order(
    serve: Serve, clients: Clients, redis: RedisServer
) -> None:
    server = serve("groups_apps:asgi", workers=4, env=through(redis))
    members = clients.spread(server, server.ready_workers(), "chat")
    for number in range(100):
        for member in members:
            member.send(f"{member.pid}:{number}")
    heard = [[listener.recv() for _ in range(400)] for listener in members]
    assert all(each == heard[0] for each in heard)
    for member in members:
        said = [int(text.partition(":")[2]) for text in heard[0] if text.startswith(f"{member.pid}:")]
        assert said == list(range(100))
    assert redis.subscribers("chat") == 4
    assert len(redis.clients()) == 8
    assert not server.log.lines(TROUBLE)


def test_masters_that_share_a_redis_and_programs_that_publish_speak_to_the_same_groups(
    tmp_path: Path, serve: Serve, clients: Clients, redis: RedisServer
) -> None:
    one, other = (serve("groups_apps:app", env=through(redis)) for _ in range(2))
    here, there = clients.join(one, "chat"), clients.join(other, "chat")
    here.send("hi")
    assert (here.recv(), there.recv()) == ("hi", "hi")
    there.send(b"\0\xff")
    assert (here.recv(), there.recv()) == (b"\0\xff", b"\0\xff")
    redis.admin.publish("chat", "no JSON")
    assert redis.admin.publish("chat", '{"text": "from outside", "close": 4000}') == 2
    assert (here.recv(), there.recv()) == ("from outside", "from outside")
    assert here.closing() == there.closing() == (4000, "")
    one.log.wait_for("Groups: what has come for 'chat' is dropped")


def test_clients_that_leave_are_no_subscriptions_a_moment_later(serve: Serve, redis: RedisServer) -> None:
    server = serve("groups_apps:app", workers=2, env=through(redis))
    clients, groups, rounds = (1000, 100, 60) if FULL_SIZE else (100, 20, 2)
    for _ in range(rounds):
        wires = [server.raw_websocket(f"/group-{number % groups}") for number in range(clients)]
        wires += [server.connect(request(f"/poll/group-{number % groups}")) for number in range(20)]
        for number, wire in enumerate(wires):
            wire.reset() if number % 2 else wire.close()
    eventually(lambda: redis.channels() == [])
    for pid in server.ready_workers():
        eventually(lambda pid=pid: stats_of(server, pid)["subscriptions"] == 0)
    assert not server.log.lines(TROUBLE)


def test_a_restart_of_redis_is_logged_told_to_hooks_and_closes_members_where_that_is_asked_for(
    serve: Serve, clients: Clients, redis: RedisServer
) -> None:
    server = serve("groups_apps:app", workers=2, env=through(redis) | {"UVICORN_WORKER_GROUPS_GAP": "close"})
    members = clients.spread(server, server.ready_workers(), "chat")
    start = server.log.position()
    redis.kill()
    for pid in server.ready_workers():
        server.log.wait_for(rf"\[{pid}\] \[WARNING\] Groups: lost Redis \(receiving\) at 127", after=start)
    assert server.ask("/send/chat", method="POST", body=b"lost").status == 500
    redis.start()
    for member in members:
        assert member.closing() == (1012, "messages may have been missed")
        server.log.wait_for(rf"on_gap {member.pid} Redis at .* was lost for .*\['chat'\]", after=start)
    for pid in server.ready_workers():
        server.log.wait_for(rf"\[{pid}\] .*Groups: connected to Redis \(sending\) at .* again after", after=start)
    again = clients.spread(server, server.ready_workers(), "chat")
    again[0].send("hi")
    assert [member.recv() for member in again] == ["hi", "hi"]
    assert all(stats_of(server, member.pid)["gaps"] == 1 for member in again)


def test_a_worker_that_hangs_delays_nobody_else_and_misses_nothing(
    serve: Serve, clients: Clients, redis: RedisServer
) -> None:
    server = serve("groups_apps:app", workers=3, env=through(redis, "?ping=0.25&dead=1"))
    first, second, hung = server.ready_workers()
    speakers = clients.spread(server, [first, second], "chat")
    listener, victim = clients.join_at(server, first, "chat"), clients.join_at(server, hung, "chat")
    with Chatter(speakers) as chatter:
        wait_for_more(chatter)
        server.signal(STOP, hung)
        for _ in range(10):
            wait_for_more(chatter)
        server.signal(CONT, hung)
        said = chatter.stop()
    for each in (listener, victim):
        heard = Heard()
        heard.hear(each, chatter.END, times=2)
        assert not heard.has_gaps()
        assert [heard[number][-1] + 1 for number in range(2)] == said
    assert not server.log.lines("Groups: .*(missed|lost)")


# -- the middleware of 2017


def test_the_middleware_has_its_worker_use_the_redis_that_it_names(
    serve: Serve, clients: Clients, redis: RedisServer
) -> None:
    env = {"REDIS_PORT": str(redis.port)}
    one, other = serve("broadcast_apps:app", workers=2, env=env), serve("broadcast_apps:app", env=env)
    members = [clients.join(one, "chat"), clients.join(other, "chat")]
    members[0].send("hi")
    assert [member.recv() for member in members] == ["hi", "hi"]
    assert redis.subscribers("chat") == 2


class Of2017:
    """What a server of 2017 was to Redis: it publishes messages as JSON on the channel that is named as the group, and
    reads those of others there."""

    def __init__(self, redis: RedisServer, group: str) -> None:
        self._redis, self._group = redis, group
        self._listening = redis.admin.pubsub()
        self._listening.subscribe(group)
        self.heard()

    def send(self, message: dict[str, Any]) -> None:
        self._redis.admin.publish(self._group, json.dumps(message))

    def heard(self) -> Any:
        """The message that comes next; first of all, the word that it listens."""
        event = self._listening.get_message(timeout=5)
        assert event is not None
        return json.loads(event["data"]) if event["type"] == "message" else None


def test_servers_of_2017_and_this_one_hear_each_other(serve: Serve, clients: Clients, redis: RedisServer) -> None:
    server = serve("broadcast_apps:app", workers=2, env={"REDIS_PORT": str(redis.port)})
    members = clients.spread(server, server.ready_workers(), "chat")
    old = Of2017(redis, "chat")
    for text in ("", "hi", 'ä \N{GRINNING FACE} "\\/\n\0', "x" * 100_000):
        old.send({"text": text})
        assert [member.recv() for member in members] == [text] * 2
        assert old.heard() == {"text": text}
        members[0].send(text)
        assert [member.recv() for member in members] == [text] * 2
        assert old.heard() == {"text": text}
    old.send({"text": "last", "close": True})
    assert [member.recv() for member in members] == ["last"] * 2
    assert [member.closing() for member in members] == [(1000, "")] * 2
    assert not server.log.lines(TROUBLE)


def test_the_bare_middleware_leaves_groups_to_the_server(serve: Serve, clients: Clients) -> None:
    server = serve("broadcast_apps:bare", workers=2)
    members = clients.spread(server, server.ready_workers(), "chat")
    members[0].send("hi")
    assert [member.recv() for member in members] == ["hi", "hi"]


def test_middlewares_that_disagree_stop_the_start_with_one_clear_line(tmp_path: Path) -> None:
    ended = run_to_its_end("broadcast_apps:torn()", folder=tmp_path, env={"REDIS_PORT": "1"})
    assert ended.status == 3
    assert ended.log.lines("BroadcastMiddleware: a worker has one engine for all groups, and not .*:1 and .*:2")
    assert "Traceback" not in ended.log


# -- starts


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("redis://:secret@host:port", "= 'redis://***@host:port': expected host:port"),
        ("redis://host/0?pong=1", "there is no parameter 'pong'; there are prefix, ping"),
        ("redis+sentinel://host", "expected the name of the master"),
        ("redis+carrier://host", "expected 'local://'"),
    ],
)
def test_a_bad_url_stops_the_start_with_one_clear_line(tmp_path: Path, url: str, line: str) -> None:
    ended = run_to_its_end("groups_apps:app", folder=tmp_path, env={"UVICORN_WORKER_GROUPS": url})
    assert (ended.status != 0, ended.boots) == (True, 0)
    assert ended.log.lines("UVICORN_WORKER_GROUPS.*" + re.escape(line))
    assert "Traceback|secret" not in ended.log


def test_a_wrong_password_stops_the_start_with_one_clear_line(tmp_path: Path, redis: RedisServer) -> None:
    redis.admin.config_set("requirepass", "right")
    url = redis.url.replace("//", "//:wrong@")
    ended = run_to_its_end("groups_apps:asgi", folder=tmp_path, env={"UVICORN_WORKER_GROUPS": url})
    assert ended.status == 3
    assert ended.log.lines(rf"groups: Redis at 127.0.0.1:{redis.port} does not let the worker in: ")
    assert "Traceback|wrong" not in ended.log


@pytest.mark.parametrize("app", ["app", "asgi"])  # of which the second says something as it starts
def test_a_redis_that_is_down_does_not_stop_the_start(serve: Serve, clients: Clients, app: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        late = RedisServer(Path(folder))
        server = serve(f"groups_apps:{app}", workers=2, env=through(late))
        for pid in server.ready_workers():
            server.log.wait_for(rf"\[{pid}\] \[WARNING\] Groups: Redis \(receiving\) is out of reach at 127")
            if app == "asgi":
                server.log.wait_for(rf"\[{pid}\] \[ERROR\] Groups: what was sent to 'starts' before .* is lost: Redis")
        with late:
            eventually(lambda: len(server.log.lines("Groups: connected to Redis")) == 4)
            members = clients.spread(server, server.ready_workers(), "chat")
            members[0].send("hi")
            assert [member.recv() for member in members] == ["hi", "hi"]


def test_an_application_that_does_not_start_is_told_of_in_one_clear_line(tmp_path: Path, redis: RedisServer) -> None:
    ended = run_to_its_end("asgi_apps:fails_to_start", folder=tmp_path, env=through(redis))
    assert ended.status == 3
    assert ended.log.lines("The application did not start")
    assert "Traceback" not in ended.log


def test_nothing_of_redis_is_imported_unless_it_is_asked_for(serve: Serve, redis: RedisServer) -> None:
    without, asked = serve("broadcast_apps:modules"), serve("broadcast_apps:modules", env=through(redis))
    assert (without.ask("/").text, asked.ask("/").text) == ("False", "True")
