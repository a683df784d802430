"""The channels of a channel layer in one process, over an engine that does as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from uvicorn_worker.broadcast.codec import decode
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine, Groups
from uvicorn_worker.broadcast.routes import Routes
from uvicorn_worker.config import Settings
from uvicorn_worker.errors import GroupsUnavailable, InvalidGroupMessage

from .test_groups import Log


class Slow(Engine):
    """Has whoever joins the group `slow` wait until the test knows how that ends."""

    def __init__(self) -> None:
        self.joining: list[asyncio.Future[None]] = []

    async def add(self, group: str) -> None:
        if group.endswith(":slow"):
            self.joining.append(asyncio.get_running_loop().create_future())
            await self.joining[-1]


class Process:
    def __init__(self, expiry: float = 60) -> None:
        self.log = Log()
        self.groups = Groups(Settings(), self.log, lambda end: None)
        self.engine = Slow()
        self.routes = Routes(self.groups, "asgi", lambda channel: 10, expiry, expiry)

    async def start(self) -> Process:
        await self.groups.start(self.engine)
        return self

    async def channels(self, count: int) -> list[str]:
        return [await self.routes.new_channel("specific") for _ in range(count)]

    async def begin(self, *calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(call) for call in calls]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks

    async def receive(self, channel: str) -> Any:
        """What is there; fails where that is nothing."""
        async with asyncio.timeout(0):
            return decode(await self.routes.receive(channel))

    @property
    def members(self) -> int:
        """Of groups of the engine, but for the one by which the process is reached."""
        members: int = self.groups.stats()["members"]
        return members - 1


Test = Callable[[Process], Awaitable[None]]


def run(test: Test, **options: Any) -> None:
    async def main() -> None:
        await test(await Process(**options).start())

    asyncio.run(main())


def test_who_gives_up_joining_takes_nobody_else_out_of_the_group() -> None:
    async def test(process: Process) -> None:
        one, other = await process.channels(2)
        leaving, staying = await process.begin(*(process.routes.join("slow", channel) for channel in (one, other)))
        leaving.cancel()
        await asyncio.wait((leaving,))
        while not staying.done():
            for joining in process.engine.joining:
                joining.done() or joining.set_result(None)
            await asyncio.sleep(0)
        await process.routes.send_to_group("slow", {"type": "test"})
        assert await process.receive(other) == {"type": "test"}
        with pytest.raises(TimeoutError):
            await process.receive(one)

    run(test)


def test_who_gives_up_joining_leaves_the_channel_in_the_group_for_another_who_joins_it() -> None:
    async def test(process: Process) -> None:
        (one,) = await process.channels(1)
        leaving, staying = await process.begin(*(process.routes.join("slow", one) for _ in range(2)))
        leaving.cancel()
        await asyncio.wait((leaving,))
        while not staying.done():
            for joining in process.engine.joining:
                joining.done() or joining.set_result(None)
            await asyncio.sleep(0)
        await staying
        await process.routes.send_to_group("slow", {"type": "test"})
        assert await process.receive(one) == {"type": "test"}

    run(test)


def test_a_join_that_failed_leaves_nothing_and_can_be_made_again() -> None:
    async def test(process: Process) -> None:
        one, other = await process.channels(2)
        tasks = await process.begin(*(process.routes.join("slow", channel) for channel in (one, other)))
        assert len(process.engine.joining) == 1
        process.engine.joining[0].set_exception(GroupsUnavailable("a test"))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [GroupsUnavailable] * 2
        assert process.members == 0
        await process.routes.join("chat", one)
        assert process.members == 1

    run(test)


def test_a_channel_can_leave_while_it_joins_and_join_again() -> None:
    async def test(process: Process) -> None:
        (one,) = await process.channels(1)
        (task,) = await process.begin(process.routes.join("slow", one))
        await process.routes.leave("slow", one)
        (again,) = await process.begin(process.routes.join("slow", one))
        process.engine.joining[0].set_exception(GroupsUnavailable("a test"))
        with pytest.raises(GroupsUnavailable):
            await task
        process.engine.joining[1].set_result(None)
        while not again.done():
            for joining in process.engine.joining[2:]:
                joining.done() or joining.set_result(None)
            await asyncio.sleep(0)
        await process.routes.send_to_group("slow", {"type": "test"})
        assert await process.receive(one) == {"type": "test"}

    run(test)


class Recorder:
    """A member that remembers what comes."""

    gathered = None

    def __init__(self) -> None:
        self.received: list[Any] = []

    def deliver(self, delivery: Delivery) -> None:
        self.received.append(delivery.message)

    def shed(self) -> None:
        """Nobody asks for it."""


def test_what_comes_as_the_one_who_wants_it_gives_up_is_offered_to_others() -> None:
    async def test(process: Process) -> None:
        others = Recorder()
        await process.groups.add("asgi:channel:a", process.groups.name(others))
        (receiving,) = await process.begin(process.routes.receive("a"))
        others.received.clear()
        await process.groups.send_to(f"asgi:process:{process.routes.id}", {"__asgi_channel__": "a", "type": "test"})
        receiving.cancel()
        await process.begin()
        assert others.received == [{"__asgi_offer__": process.routes.id}]
        assert (await process.receive("a"))["type"] == "test"

    run(test)


def test_a_channel_that_nobody_receives_from_leaves_its_groups_and_one_that_somebody_does_stays() -> None:
    async def test(process: Process) -> None:
        received, forgotten = await process.channels(2)
        (receiving,) = await process.begin(process.routes.receive(received))
        for channel in (received, forgotten):
            await process.routes.join("chat", channel)
            await process.routes.join(f"of-{channel[-16:]}", channel)
        await process.routes.send_to_group("chat", {"type": "test"})
        assert process.members == 2
        assert decode(await receiving) == {"type": "test"}
        assert any(forgotten in line for line in process.log.lines)
        assert not any(received in line for line in process.log.lines)

    run(test, expiry=0)


def test_nothing_is_left_of_channels_that_are_over() -> None:
    async def test(process: Process) -> None:
        for channel in [*await process.channels(3), "by-a-name"]:
            (receiving,) = await process.begin(process.routes.receive(channel))
            if channel != "by-a-name":
                await process.routes.join("chat", channel)
                await process.routes.leave("chat", channel)
            receiving.cancel()
            await asyncio.wait((receiving,))
        assert len(process.routes._boxes) == process.members == 0
        assert not process.log.lines

    run(test)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"text": "hi"},
        {"__asgi_channel__": 5},
        {"__asgi_channel__": "specific.elsewhere!1"},
        {"__asgi_ask__": "a", "from": 5, "count": 1},
        {"__asgi_ask__": ["a"], "from": "b", "count": 1},
        {"__asgi_ask__": "a", "from": "b", "count": "all"},
        {"__asgi_offer__": []},
    ],
)
def test_what_makes_no_sense_is_ignored(message: dict[str, Any]) -> None:
    """Whoever has the engine can send anything."""

    async def test(process: Process) -> None:
        await process.channels(1)
        await process.routes.send("a", {"type": "test"})
        for group in (f"process:{process.routes.id}", "channel:a"):
            await process.groups.send_to(f"asgi:{group}", message)
        assert await process.receive("a") == {"type": "test"}
        assert process.groups.stats()["failed"] == 0

    run(test)


def test_messages_can_not_say_what_processes_say_to_each_other() -> None:
    async def test(process: Process) -> None:
        for key in ("__asgi_channel__", "__asgi_ask__"):
            with pytest.raises(InvalidGroupMessage, match=key):
                await process.routes.send("a", {key: "b"})

    run(test)
