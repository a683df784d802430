"""States of channels: whatever members want and servers answer, what is wanted is on in the end, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvicorn_worker.broadcast.subscriptions import JOINING, LEAVING, ON, REFUSED, Subscriptions
from uvicorn_worker.config import GROUP_LINGER

A, B = b"a", b"b"


class Waiter:
    def __init__(self) -> None:
        self.outcome: list[Exception | None] = []

    def done(self) -> bool:
        return bool(self.outcome)

    def set_result(self, result: None, /) -> None:
        self.outcome.append(None)

    def set_exception(self, exception: Exception, /) -> None:
        self.outcome.append(exception)


@pytest.fixture
def subscriptions() -> Subscriptions:
    connected = Subscriptions()
    connected.begin()
    return connected


def asked(subscriptions: Subscriptions) -> tuple[list[bytes], list[bytes]]:
    """What is to be asked for and given up since the last time."""
    joins, leaves = subscriptions.joins, subscriptions.leaves
    subscriptions.joins, subscriptions.leaves = [], []
    return joins, leaves


def test_a_channel_is_asked_for_once_however_many_want_it(subscriptions: Subscriptions) -> None:
    waiters = [Waiter(), Waiter()]
    for waiter in waiters:
        subscriptions.want(A, "a").waiters.append(waiter)
    assert asked(subscriptions) == ([A], [])
    subscriptions.joined(A)
    assert [waiter.outcome for waiter in waiters] == [[None], [None]]
    assert subscriptions.want(A, "a").state is ON
    assert asked(subscriptions) == ([], [])


def test_a_channel_that_nobody_wants_is_kept_for_a_while(subscriptions: Subscriptions) -> None:
    subscriptions.want(A, "a")
    subscriptions.joined(A)
    asked(subscriptions)
    subscriptions.unwant(A, 10.0)
    assert subscriptions.give_up(10.5) == 10 + GROUP_LINGER
    assert subscriptions.want(A, "a").state is ON
    assert subscriptions.give_up(20.0) is None
    subscriptions.unwant(A, 30.0)
    assert subscriptions.give_up(30 + GROUP_LINGER) is None
    assert asked(subscriptions) == ([], [A])
    assert not subscriptions.left(A)
    assert len(subscriptions) == 0


def test_a_channel_that_is_wanted_while_it_leaves_is_asked_for_when_it_has(subscriptions: Subscriptions) -> None:
    subscriptions.want(A, "a")
    subscriptions.joined(A)
    subscriptions.unwant(A, 0.0)
    subscriptions.give_up(100.0)
    assert asked(subscriptions) == ([A], [A])
    assert subscriptions.want(A, "a").state is LEAVING
    assert asked(subscriptions) == ([], [])
    subscriptions.left(A)
    assert asked(subscriptions) == ([A], [])
    subscriptions.joined(A)
    assert subscriptions.want(A, "a").state is ON


def test_what_is_not_answered_yet_is_given_up_when_it_is(subscriptions: Subscriptions) -> None:
    subscriptions.want(A, "a")
    subscriptions.unwant(A, 0.0)
    assert subscriptions.give_up(100.0) == 100 + GROUP_LINGER
    assert asked(subscriptions) == ([A], [])
    subscriptions.joined(A)
    assert subscriptions.give_up(200.0) is None
    assert asked(subscriptions) == ([], [A])


def test_a_lost_connection_is_one_gap_of_what_is_still_wanted_when_all_is_back(subscriptions: Subscriptions) -> None:
    for channel in (A, B, b"c", b"d"):
        subscriptions.want(channel, channel.decode())
        subscriptions.joined(channel)
    subscriptions.unwant(b"c", 0.0)
    assert subscriptions.lose() == 3
    subscriptions.unwant(b"d", 0.0)
    subscriptions.want(b"e", "e")
    subscriptions.begin()
    assert asked(subscriptions) == ([A, B, b"e"], [])
    assert subscriptions.lose() == 2  # once more, before there was an answer
    subscriptions.begin()
    subscriptions.joined(A)
    assert subscriptions.take_restored() == frozenset()
    subscriptions.joined(B)
    assert subscriptions.take_restored() == {"a", "b"}
    assert subscriptions.take_restored() == frozenset()


def test_without_a_connection_nothing_is_kept_that_nobody_wants() -> None:
    subscriptions = Subscriptions()
    for number in range(100):
        subscriptions.want(b"%d" % number, str(number))
        subscriptions.unwant(b"%d" % number, 0.0)
    assert subscriptions.give_up(GROUP_LINGER) is None
    assert (len(subscriptions), asked(subscriptions)) == (0, ([], []))


def test_a_channel_that_is_refused_is_asked_for_when_it_is_wanted_again(subscriptions: Subscriptions) -> None:
    subscription, waiter, error = subscriptions.want(A, "a"), Waiter(), PermissionError()
    subscription.waiters.append(waiter)
    asked(subscriptions)
    assert not subscriptions.refused(A, error)
    assert (waiter.outcome, subscription.state) == ([error], REFUSED)
    subscriptions.want(A, "a")
    assert asked(subscriptions) == ([A], [])
    subscriptions.joined(A)
    subscriptions.lose()
    subscriptions.begin()
    assert subscriptions.refused(A, error)
    assert subscriptions.take_restored() == {"a"}
    subscriptions.unwant(A, 0.0)
    subscriptions.give_up(GROUP_LINGER)
    assert len(subscriptions) == 0


def test_a_channel_that_moves_takes_its_waiters_and_its_gap_along(subscriptions: Subscriptions) -> None:
    other = Subscriptions()
    other.begin()
    subscriptions.want(A, "a")
    subscriptions.joined(A)
    waiting = Waiter()
    subscriptions.want(B, "b").waiters.append(waiting)
    asked(subscriptions)
    other.want(B, "b")
    other.joined(B)
    for channel in (A, B):
        other.adopt(subscriptions.release(channel))
    assert asked(subscriptions) == ([], [A])
    assert waiting.outcome == [None]
    assert other.take_restored() == frozenset()
    other.joined(A)
    assert other.take_restored() == {"a"}
    subscriptions.joined(B)  # an answer that comes too late
    assert asked(subscriptions) == ([], [B])


def test_a_channel_that_the_server_gives_up_by_itself_is_missed(subscriptions: Subscriptions) -> None:
    subscriptions.want(A, "a")
    subscriptions.joined(A)
    assert subscriptions.left(A)
    assert subscriptions.want(A, "a").state is JOINING
    subscriptions.joined(A)
    assert subscriptions.take_restored() == {"a"}


@given(st.lists(st.sampled_from(["want", "unwant", "give up", "answer", "lose", "begin"]), max_size=60))
def test_in_the_end_the_server_has_what_is_wanted(steps: list[str]) -> None:
    """A server answers the questions in their order; what it has, it has until it is told otherwise."""
    subscriptions, server, questions, wanted, now = Subscriptions(), set(), [], False, 0.0
    connected = False

    def ask() -> None:
        joins, leaves = asked(subscriptions)
        questions.extend([("leave", channel) for channel in leaves] + [("join", channel) for channel in joins])

    def answer() -> None:
        kind, channel = questions.pop(0)
        if kind == "join":
            assert channel not in server
            server.add(channel)
            subscriptions.joined(channel)
        else:
            server.remove(channel)
            assert not subscriptions.left(channel)
        ask()

    for step in [*steps, "lose", "begin", "give up"]:
        now += 1
        if step == "want":
            wanted = True
            subscriptions.want(A, "a")
        elif step == "unwant" and wanted:
            wanted = False
            subscriptions.unwant(A, now)
        elif step == "give up":
            subscriptions.give_up(now + 100)
        elif step == "answer" and questions:
            answer()
        elif step == "lose" and connected:
            connected = False
            subscriptions.lose()
            server.clear()
            questions.clear()
        elif step == "begin" and not connected:
            connected = True
            subscriptions.begin()
        if connected:
            ask()
    while questions:
        answer()
    assert server == ({A} if wanted else set())
    assert len(subscriptions) == wanted
