"""The engine ``redis://``: what is sent to a group is published on a channel of Redis by the same name.

A worker has two connections, whatever the number of its clients and groups: one that listens to the channels of the
groups which have members here, and one that publishes. What a worker itself sends comes to it through Redis, too, so
that all workers see one order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine, Sink
from uvicorn_worker.broadcast.redis_link import Link, is_let_in, stats_of, stop
from uvicorn_worker.broadcast.redis_publisher import Publisher
from uvicorn_worker.broadcast.redis_subscriber import Subscriber
from uvicorn_worker.broadcast.redis_url import Target
from uvicorn_worker.broadcast.redis_wire import open_master
from uvicorn_worker.config import PEER_FLUSH_TIME


class RedisEngine(Engine):
    """One worker's connections to a server, or to the master that Sentinels know."""

    def __init__(self, target: Target, log: Log) -> None:
        self._target = target
        self._log = log
        self._prefix = target.prefix.encode()
        self._subscriber: Subscriber
        self._publisher: Publisher
        #: Both, as soon as they are there: a worker whose application does not start has none.
        self._links: tuple[Link, ...] = ()

    async def start(self, sink: Sink) -> None:
        """Raises :class:`InvalidOption` where Redis does not let the worker in."""
        await super().start(sink)
        open_wire, where = partial(open_master, self._target), str(self._target)
        self._subscriber = Subscriber(open_wire, where, self._target, self._log, sink)
        self._publisher = Publisher(open_wire, where, self._target, self._log)
        self._links = self._subscriber, self._publisher
        self._publisher.on_demoted = partial(self._subscriber.fail, "it is a replica now")
        self._subscriber.start()
        self._publisher.start()
        try:
            await is_let_in(*self._links)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, within: float = PEER_FLUSH_TIME) -> None:
        await stop(*self._links, within=within)

    def _channel(self, group: str) -> bytes:
        return self._prefix + group.encode()

    async def add(self, group: str) -> None:
        await self._subscriber.add(self._channel(group), group)

    def discard(self, group: str) -> None:
        self._subscriber.discard(self._channel(group))

    async def send(self, group: str, delivery: Delivery) -> None:
        await self._publisher.send(self._channel(group), delivery.body)

    def stats(self) -> dict[str, Any]:
        """``connected``; ``subscriptions``: channels that are listened to; ``waiting``: messages without an answer;
        ``reconnects`` of both connections."""
        return stats_of(*self._links)
