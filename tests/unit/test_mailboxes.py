"""Messages that wait for receivers, and receivers that wait for messages."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from uvicorn_worker.broadcast.mailboxes import Full, Mailboxes

from .test_groups import Log

EXPIRY, PATIENCE = 60.0, 600.0


class Office:
    """Mailboxes on a clock that stands still until it is told to go on."""

    def __init__(self, capacity: int = 2) -> None:
        self.now = 0.0
        self.needed: set[str] = set()
        self.forgotten: list[str] = []
        self.log = Log()
        self.boxes = Mailboxes(
            lambda name: capacity,
            EXPIRY,
            PATIENCE,
            self.log,
            is_needed=lambda name: name in self.needed,
            forget=self.forgotten.append,
            clock=lambda: self.now,
        )

    def put(self, *bodies: bytes, name: str = "a") -> list[int]:
        return [self.boxes.put(name, body) for body in bodies]

    def take(self, name: str = "a") -> bytes:
        """What is there; fails where that is nothing."""

        async def now() -> bytes:
            async with asyncio.timeout(0):
                return await self.boxes.take(name)

        return asyncio.run(now())

    def is_empty(self, name: str = "a") -> bool:
        return self.boxes.kept(name) == 0 and self.boxes.pop(name) is None


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


async def begin(*coroutines: Coroutine[Any, Any, bytes]) -> list[asyncio.Task[bytes]]:
    """Tasks that have come to their first wait."""
    tasks = [asyncio.get_running_loop().create_task(each) for each in coroutines]
    await asyncio.sleep(0)
    return tasks


def test_messages_are_taken_in_the_order_in_which_they_were_put() -> None:
    office = Office()
    assert office.put(b"1", b"2") == [1, 2]
    assert (office.take(), office.take()) == (b"1", b"2")
    with pytest.raises(TimeoutError):
        office.take()


def test_a_full_mailbox_says_so_and_logs_it_once_until_it_is_read_from() -> None:
    office = Office()
    office.put(b"1", b"2")
    for _ in range(2):
        with pytest.raises(Full):
            office.put(b"3")
    assert len(office.log.lines) == 1
    office.take()
    office.put(b"3")
    with pytest.raises(Full):
        office.put(b"4")
    assert len(office.log.lines) == 2
    assert (office.take(), office.take()) == (b"2", b"3")


def test_what_has_expired_is_not_taken_and_takes_no_room() -> None:
    office = Office()
    office.put(b"1", b"2")
    office.now = EXPIRY - 1
    assert office.boxes.kept("a") == 2
    office.now = EXPIRY
    office.put(b"3")
    assert office.take() == b"3"
    assert office.is_empty()


def test_of_several_who_wait_each_gets_one_in_their_order() -> None:
    async def main() -> None:
        office = Office(capacity=0)  # there is no room for what nobody waits for
        one, other = await begin(office.boxes.take("a"), office.boxes.take("a"))
        assert office.boxes.waiting("a") == 2
        assert office.put(b"1", b"2") == [0, 0]
        assert (await one, await other) == (b"1", b"2")

    run(main())


def test_a_message_is_not_lost_with_one_who_gives_up_as_it_comes() -> None:
    async def main() -> None:
        office = Office()
        one, other = await begin(office.boxes.take("a"), office.boxes.take("a"))
        office.put(b"1")
        one.cancel()
        assert await other == b"1"
        (last,) = await begin(office.boxes.take("a"))
        office.put(b"2")
        last.cancel()
        await asyncio.wait((last,))
        assert office.boxes.pop("a") == b"2"

    run(main())


def test_what_comes_for_one_who_gives_up_is_kept_though_nobody_else_needs_the_channel_any_more() -> None:
    async def main() -> None:
        office = Office()
        one, other = await begin(office.boxes.take("a"), office.boxes.take("a"))
        office.put(b"1")
        office.put(b"2")
        other.cancel()
        assert await one == b"1"
        await asyncio.wait((other,))
        assert office.boxes.pop("a") == b"2"

    run(main())


def test_who_gives_up_before_gets_nothing() -> None:
    async def main() -> None:
        office = Office()
        one, other = await begin(office.boxes.take("a"), office.boxes.take("a"))
        one.cancel()
        office.put(b"1")
        assert await other == b"1"

    run(main())


def test_what_comes_while_it_is_announced_is_taken_and_a_failed_announcement_leaves_nobody_waiting() -> None:
    office = Office()

    async def announce() -> None:
        assert office.boxes.waiting("a") == 1
        office.put(b"1")

    async def fail() -> None:
        raise OSError("out of reach")

    async def main() -> None:
        assert await office.boxes.take("a", announce) == b"1"
        with pytest.raises(OSError, match="out of reach"):
            await office.boxes.take("a", fail)
        assert office.boxes.waiting("a") == 0

    run(main())


def test_a_mailbox_is_gone_with_who_waited_unless_something_is_in_it_or_needs_it() -> None:
    async def main() -> None:
        office = Office()
        office.needed.add("needed")
        tasks = await begin(*(office.boxes.take(name) for name in ("plain", "needed", "used")))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        office.put(b"1", name="used")
        assert office.forgotten == ["plain", "used"]
        assert len(office.boxes) == 2
        office.now = EXPIRY
        office.boxes.sweep()
        assert office.forgotten == ["plain", "used", "used"]
        office.needed.clear()
        office.boxes.rest("needed")
        assert len(office.boxes) == 0

    run(main())


def test_a_needed_channel_that_nobody_receives_from_is_forgotten_after_a_while() -> None:
    office = Office(capacity=100)
    office.needed |= {"a", "b"}
    office.put(b"1")
    office.put(b"1", name="b")
    for office.now in range(0, int(PATIENCE), 30):
        office.put(b"1")
        office.boxes.sweep()
    assert office.forgotten == []
    office.boxes.pop("b")
    office.take("a")  # somebody is there
    office.now = PATIENCE
    office.boxes.sweep()
    assert office.forgotten == ["b"]


def test_one_who_waits_is_never_forgotten_nor_cleared_away() -> None:
    async def main() -> None:
        office = Office()
        (task,) = await begin(office.boxes.take("a"))
        office.put(b"1", name="b")
        office.now = 2 * PATIENCE
        office.boxes.sweep()
        office.boxes.clear()
        assert office.forgotten == ["b"]
        office.put(b"1")
        assert await task == b"1"

    run(main())
