"""Groups for code outside of requests: `uvicorn_worker.groups`."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue
from typing import Any

import pytest

from uvicorn_worker import groups
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.errors import GroupsUnavailable, InvalidGroupMessage

from .test_groups import Log, groups_with


class Channel:
    gathered = None

    def __init__(self) -> None:
        self.received: list[Any] = []

    def deliver(self, delivery: Delivery) -> None:
        self.received.append(delivery.message)

    def shed(self) -> None:
        """Nobody asks for it."""


class Worker:
    """The groups of a worker that runs in this loop, and a member of `chat`."""

    def __init__(self) -> None:
        self.groups = groups_with(Log())
        self.channel = Channel()

    async def __aenter__(self) -> Worker:
        groups.enrol(asyncio.get_running_loop(), self.groups)
        await self.groups.start(Engine())
        await self.groups.add("chat", self.groups.name(self.channel))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        groups.dismiss(asyncio.get_running_loop())


def test_send_reaches_the_groups_of_the_worker_that_runs_in_the_loop() -> None:
    async def main() -> None:
        async with Worker() as worker:
            await groups.send("chat", {"text": "hi"})
            assert worker.channel.received == [{"text": "hi"}]
            assert groups.stats()["members"] == 1
            with pytest.raises(InvalidGroupMessage):
                await groups.send("chat", {"text": object()})

    asyncio.run(main())


def test_send_threadsafe_reaches_them_from_a_thread_and_tells_what_fails() -> None:
    outcomes: list[Any] = []

    def speak() -> None:
        outcomes.append(groups.send_threadsafe("chat", {"text": "hi"}).result(5))
        outcomes.append(groups.send_threadsafe("chat", {"text": object()}).exception(5))

    async def main() -> None:
        async with Worker() as worker:
            thread = threading.Thread(target=speak)
            thread.start()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
            assert worker.channel.received == [{"text": "hi"}]

    asyncio.run(main())
    assert outcomes[0] is None
    assert isinstance(outcomes[1], InvalidGroupMessage)


def test_without_a_worker_sending_is_an_error_that_says_so() -> None:
    with pytest.raises(GroupsUnavailable, match="no worker runs in this process"):
        groups.send_threadsafe("chat", {"text": "hi"})
    with pytest.raises(GroupsUnavailable, match="no worker runs in this event loop"):
        asyncio.run(groups.send("chat", {"text": "hi"}))
    assert groups.stats() == {}


def test_a_process_that_a_worker_forks_has_no_worker() -> None:
    def speak(outcomes: SimpleQueue[str]) -> None:
        try:
            groups.send_threadsafe("chat", {"text": "hi"}).result(5)
        except Exception as error:
            outcomes.put(repr(error))

    async def main() -> None:
        fork = multiprocessing.get_context("fork")
        async with Worker():
            outcomes = fork.SimpleQueue()
            child = fork.Process(target=speak, args=(outcomes,))
            child.start()
            assert "no worker runs in this process" in await asyncio.to_thread(outcomes.get)
            await asyncio.to_thread(child.join)
            await groups.send("chat", {"text": "hi"})

    asyncio.run(main())


@pytest.fixture
def hooks() -> Iterator[list[groups.Gap]]:
    """The gaps that a hook was called with."""
    gaps: list[groups.Gap] = []
    hook = groups.on_gap(gaps.append)
    yield gaps
    groups.hooks.remove(hook)


def test_hooks_are_called_with_every_gap_of_workers_that_run_then_and_later(hooks: list[groups.Gap]) -> None:
    gap = groups.Gap("a test", None, 0.0)

    async def main() -> None:
        async with Worker() as worker:
            worker.groups.has_missed(gap)

    asyncio.run(main())
    asyncio.run(main())
    assert hooks == [gap, gap]
