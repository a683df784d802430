"""What many wait for is done once, and again where it failed."""

from __future__ import annotations

import asyncio

import pytest

from uvicorn_worker.broadcast.once import Once


class Work:
    """Counts how often it is begun; is done when a test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.outcome: asyncio.Future[None]

    async def __call__(self) -> None:
        self.begun += 1
        self.outcome = asyncio.get_running_loop().create_future()
        await self.outcome


async def begin(once: Once, count: int) -> list[asyncio.Task[None]]:
    """Tasks that wait for it, once it has begun."""
    tasks = [asyncio.create_task(once()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_it_is_done_once_for_all_who_come_before_and_after() -> None:
    async def main() -> None:
        work = Work()
        once = Once(work)
        tasks = await begin(once, 3)
        work.outcome.set_result(None)
        await asyncio.gather(*tasks)
        await once()
        assert work.begun == 1

    asyncio.run(main())


def test_who_gives_up_leaves_it_to_the_others() -> None:
    async def main() -> None:
        work = Work()
        first, second = await begin(Once(work), 2)
        first.cancel()
        await asyncio.wait((first,))
        work.outcome.set_result(None)
        await second
        assert work.begun == 1

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError("out of reach"), asyncio.CancelledError()], ids=["failed", "cancelled"])
def test_all_who_wait_are_told_of_a_failure_and_the_next_begins_anew(error: BaseException) -> None:
    async def main() -> None:
        work = Work()
        once = Once(work)
        tasks = await begin(once, 2)
        work.outcome.set_exception(error)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(error)] * 2
        (task,) = await begin(once, 1)
        work.outcome.set_result(None)
        await task
        assert work.begun == 2

    asyncio.run(main())
