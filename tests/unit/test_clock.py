"""Time as a test gives it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from uvicorn_worker.clock import Clock, Deadlines, tick_under


class Member:
    """Remembers in which queue, and when, its time was up."""

    def __init__(self, clock: Clock, then: Callable[[], None] | None = None) -> None:
        self.clock = clock
        self.then = then
        self.passed: list[tuple[Deadlines, float]] = []

    def deadline_passed(self, deadlines: Deadlines) -> None:
        assert self not in deadlines
        self.passed.append((deadlines, self.clock.now))
        if self.then is not None:
            self.then()


def ticks(clock: Clock, seconds: int, step: float = 1.0) -> None:
    for _ in range(seconds):
        clock.tick(clock.now + step, clock.now)


def join(deadlines: Deadlines, member: Member) -> None:
    deadlines[member] = deadlines.due


def test_the_date_is_that_of_the_last_tick() -> None:
    clock = Clock(5.0, 0.0)
    assert (clock.now, clock.date) == (5.0, b"Thu, 01 Jan 1970 00:00:00 GMT")
    clock.tick(6.0, 784111777.9)
    assert (clock.now, clock.date) == (6.0, b"Sun, 06 Nov 1994 08:49:37 GMT")  # the example of RFC 9110 section 5.6.7


def test_the_date_is_one_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert Clock(0.0, 1_000_000_000.0).date == b"Sun, 09 Sep 2001 01:46:40 GMT"


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("since_tick", [0.0, 0.01, 0.99])
def test_a_deadline_is_never_early_and_at_most_two_ticks_late(seconds: float, since_tick: float) -> None:
    """Whenever between two ticks a member joins: the clock knows no better than its last tick."""
    clock = Clock(100.0, 0.0)
    deadlines = clock.deadlines(seconds)
    member = Member(clock)
    join(deadlines, member)
    began = clock.now + since_tick
    ticks(clock, 20)
    [(queue, ended)] = member.passed
    assert queue is deadlines
    assert seconds <= ended - began <= seconds + 2


def test_a_member_that_left_is_not_told() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(2.0)
    stays, leaves = Member(clock), Member(clock)
    join(deadlines, stays)
    join(deadlines, leaves)
    ticks(clock, 1)
    deadlines.pop(leaves, None)
    ticks(clock, 10)
    assert len(stays.passed) == 1
    assert leaves.passed == []


def test_a_member_is_told_once() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(1.0)
    member = Member(clock)
    join(deadlines, member)
    ticks(clock, 10)
    assert len(member.passed) == 1
    assert len(deadlines) == 0


def test_a_member_may_join_again_when_it_is_told() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(2.0)
    member = Member(clock, then=lambda: join(deadlines, member))
    join(deadlines, member)
    ticks(clock, 12)
    times = [time for _, time in member.passed]
    assert times == [3.0, 6.0, 9.0, 12.0]


def test_a_member_may_take_another_out_when_it_is_told() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(1.0)
    other = Member(clock)
    member = Member(clock, then=lambda: deadlines.pop(other, None) and None)
    join(deadlines, member)
    join(deadlines, other)
    ticks(clock, 5)
    assert len(member.passed) == 1
    assert other.passed == []


def test_members_are_told_in_the_order_in_which_they_joined() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(3.0)
    order: list[int] = []
    for number in range(5):
        join(deadlines, Member(clock, then=lambda number=number: order.append(number)))  # type: ignore[misc]
        ticks(clock, number % 2)
    ticks(clock, 10)
    assert order == [0, 1, 2, 3, 4]


def test_no_seconds_are_no_deadline() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(0.0)
    member = Member(clock)
    join(deadlines, member)
    ticks(clock, 3, step=1e9)
    assert member.passed == []
    assert member in deadlines


def test_queues_are_independent() -> None:
    clock = Clock(0.0, 0.0)
    short, long = clock.deadlines(1.0), clock.deadlines(5.0)
    member = Member(clock)
    join(short, member)
    join(long, member)
    ticks(clock, 10)
    assert [queue for queue, _ in member.passed] == [short, long]


def test_a_clock_that_was_stopped_tells_everybody_who_is_due() -> None:
    clock = Clock(0.0, 0.0)
    deadlines = clock.deadlines(2.0)
    members = [Member(clock) for _ in range(100)]
    for member in members:
        join(deadlines, member)
    clock.tick(1000.0, 0.0)
    assert all(len(member.passed) == 1 for member in members)


def test_a_tick_looks_only_at_who_is_due() -> None:
    looked_at = []

    class Watched(Deadlines):
        def items(self):  # type: ignore[no-untyped-def]
            for item in super().items():
                looked_at.append(item)
                yield item

    clock = Clock(0.0, 0.0)
    deadlines = Watched(5.0, clock.now)
    for step in range(5):
        deadlines.tick(float(step))
        for _ in range(100):
            join(deadlines, Member(clock))
    looked_at.clear()
    deadlines.tick(5.0)
    assert len(looked_at) == 1
    looked_at.clear()
    deadlines.tick(6.0)
    assert len(looked_at) == 101


@pytest.mark.parametrize(("timeout", "seconds"), [(0, 1.0), (1, 0.5), (2, 1.0), (30, 1.0)])
def test_a_tick_comes_twice_within_the_timeout_of_a_silent_worker(timeout: int, seconds: float) -> None:
    assert tick_under(timeout) == seconds
