"""Groups with many clients, while workers come, go and die: whoever stays connected misses nothing.

Small here; with FULL_SIZE=1 in the environment, there are as many clients and messages as in a chat that people use.
"""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .client import DEADLINE
from .harness import FULL_SIZE, Serve, Server, eventually
from .room import Room
from .test_groups import replace
from .test_reload import change

HUP, TTIN, TTOU, KILL = signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGKILL

APP = "groups_apps:app"
SERVICE_RESTART = 1012

#: How often workers are replaced.
TIMES = 3 if FULL_SIZE else 1

#: What a gap, or a failure of any kind, is in the log. A worker that closes hundreds of clients at this moment may have
#: no time for a new one, which says so; whether that has cost a message is judged by what was heard.
GAP = r"Groups: (?!messages may have been missed: (no answer|worker \S+ has answered only now)).*(missed|lost|slow)"
TROUBLE = rf"Traceback|{GAP}|\[ERROR\] (?!Worker \(pid:\d+\) was sent SIGKILL)"


def reload(server: Server) -> None:
    """Have other workers in the place of all that there are."""
    old, start = set(server.processes()) - {server.process.pid}, server.log.position()
    server.signal(HUP)
    eventually(lambda: old.isdisjoint(server.processes()), within=2 * DEADLINE)
    eventually(lambda: len(server.ready_workers(after=start)) == len(old))


def ends_of(room: Room) -> set[int | str | None]:
    return {member.end for member in room.members if member.pid}


def test_a_chat_goes_on_through_a_reload_and_a_crash(serve: Serve, engine: dict[str, str]) -> None:
    clients, messages = (2000, 120) if FULL_SIZE else (100, 120)
    server = serve(APP, workers=4, env=engine)
    with Room(server.address, clients, pause=0.5 if FULL_SIZE else 0.01, restless=messages // 20) as room:
        room.wait_for_more(messages // 3)
        room.check()
        reload(server)
        room.wait_until_full()
        room.wait_for_more(messages // 3)
        room.check()
        assert room.unanswered == 0
        room.killed.add(room.fullest())
        replace(server, partial(server.signal, KILL, *room.killed))
        room.wait_until_full()
        room.wait_for_more(messages // 3)
        room.finish()
        assert ends_of(room) == {None, "left", "lost", SERVICE_RESTART}
        assert {member.pid for member in room.members if member.pid and member.end == "lost"} == room.killed
    assert not server.log.lines(TROUBLE)


def test_workers_that_all_say_much_are_heard_by_all_in_the_order_of_each(serve: Serve, engine: dict[str, str]) -> None:
    server = serve(APP, workers=4, env=engine)
    with Room(server.address, 8, share=2, pause=0.0015, talkers=4) as room:
        room.wait_for_more(60_000 if FULL_SIZE else 400)
        room.finish()
        assert {member.pid for member in room.present} == set(server.ready_workers())
        assert ends_of(room) <= {None, "left"}
    assert not server.log.lines(TROUBLE)


# -- workers that are replaced


def reload_again_and_again(server: Server, room: Room, file: Path) -> None:
    for _ in range(TIMES):
        reload(server)
        room.wait_for_more(50)
        room.check()


def add_and_take_away(server: Server, room: Room, file: Path) -> None:
    for number in (TTIN, TTOU) * TIMES:
        start = server.log.position()
        server.signal(number)
        if number == TTIN:
            server.wait_for_new_worker(start)
        else:
            server.log.wait_for("Worker exiting", after=start)
        room.wait_for_more(50)
        room.check()


def recycle(server: Server, room: Room, file: Path) -> None:
    start = server.log.position()
    while len(server.ready_workers(after=start)) < 3:
        server.ask("/stats")


def touch(server: Server, room: Room, file: Path) -> None:
    for number in range(TIMES):
        start = change(server, file, str(number))
        eventually(lambda start=start: len(server.ready_workers(after=start)) >= 3)
        room.wait_for_more(50)
        room.check()


@pytest.mark.parametrize(
    ("act", "options"),
    [
        (reload_again_and_again, ""),
        (add_and_take_away, ""),
        (recycle, "--max-requests 60 --max-requests-jitter 60"),
        (touch, "--reload --reload-extra-file words.txt"),
    ],
)
def test_workers_that_are_replaced_cost_nobody_who_stays_a_message(
    serve: Serve, tmp_path: Path, act: Callable[[Server, Room, Path], None], options: str
) -> None:
    file = tmp_path / "words.txt"
    file.write_text("before")
    server = serve(APP, *options.split(), workers=3)
    with Room(server.address, 30, pause=0.002, talkers=3) as room:
        room.wait_for_more(100)
        act(server, room, file)
        room.wait_for_more(100)
        room.wait_until_full()
        room.finish()
        # Of few workers that go, each may have been one without clients: who accepts is chance.
        assert ends_of(room) - {SERVICE_RESTART} == {None}
        assert room.unanswered == 0
    assert not server.log.lines(TROUBLE)
