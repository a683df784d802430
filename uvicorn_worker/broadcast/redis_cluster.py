"""The engine ``redis+cluster://``: sharded channels (Redis 7), each of which lives on the node that has its slot.

A worker has two connections to each node that it needs, one to listen and one to publish. Where the slots are is asked
anew whenever a node says that it has a channel no more, or is lost; then channels move to where they are now.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast import resp
from uvicorn_worker.broadcast.delivery import Delivery
from uvicorn_worker.broadcast.groups import Engine, Sink
from uvicorn_worker.broadcast.redis_link import Link, not_let_in, stats_of, stop
from uvicorn_worker.broadcast.redis_publisher import Publisher
from uvicorn_worker.broadcast.redis_subscriber import SHARDED, Subscriber
from uvicorn_worker.broadcast.redis_url import Node, Target
from uvicorn_worker.broadcast.redis_wire import Denied, Lost, Moved, open_wire, read_masters
from uvicorn_worker.config import PEER_FLUSH_TIME, REDIS_CLUSTER_PAUSE, REDIS_JOIN_TIME, REDIS_LONGEST_PAUSE
from uvicorn_worker.errors import GroupsUnavailable


class ClusterEngine(Engine):
    """One worker's connections to a cluster."""

    def __init__(self, target: Target, log: Log) -> None:
        self._target = target
        self._log = log
        self._prefix = target.prefix.encode()
        #: The master of each slot, as far as that is known.
        self._masters: list[Node | None] = [None] * resp.SLOTS
        self._subscribers: dict[Node, Subscriber] = {}
        self._publishers: dict[Node, Publisher] = {}
        #: The channels of groups that have members here.
        self._wanted: set[bytes] = set()
        #: Channels that a node has said not to have.
        self._moved: set[bytes] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._reason = ""

    async def start(self, sink: Sink) -> None:
        """Raises :class:`InvalidOption` where Redis does not let the worker in."""
        await super().start(sink)
        self._loop = asyncio.get_running_loop()
        #: Done whenever it is known where the slots are.
        self._is_known = asyncio.Event()
        try:
            self._use(await read_masters(self._target, list(self._target.nodes)))
        except Denied as error:
            raise not_let_in(self._target, error) from None
        except Lost as error:
            self._is_out_of_reach(error)
            self._look()
        else:
            self._log.info("Groups: found Redis at %s, with %d masters", self._target, len(resp.known(self._masters)))

    async def stop(self, within: float = PEER_FLUSH_TIME) -> None:
        self._is_stopping = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        await stop(*self._links(), within=within)

    def _links(self) -> list[Link]:
        return [*self._subscribers.values(), *self._publishers.values()]

    # What groups ask for.

    def _channel(self, group: str) -> bytes:
        return self._prefix + group.encode()

    async def add(self, group: str) -> None:
        channel = self._channel(group)
        self._wanted.add(channel)
        subscriber = self._listener_to(channel) or self._subscriber(await self._master_of(channel, REDIS_JOIN_TIME))
        if channel in self._wanted:  # The last member may have left while a node was waited for.
            await subscriber.add(channel, group)

    def discard(self, group: str) -> None:
        channel = self._channel(group)
        self._wanted.discard(channel)
        subscriber = self._listener_to(channel)
        if subscriber is not None:
            subscriber.discard(channel)

    def _listener_to(self, channel: bytes) -> Subscriber | None:
        return next((each for each in self._subscribers.values() if each.subscriptions.get(channel)), None)

    async def send(self, group: str, delivery: Delivery) -> None:
        channel, patience = self._channel(group), self._target.send_timeout
        end = self._loop.time() + patience
        while True:
            publisher = self._publisher(await self._master_of(channel, patience))
            try:
                return await publisher.send(channel, delivery.body)
            except Moved as error:  # It was not sent: this is no second time.
                if self._loop.time() > end:
                    raise GroupsUnavailable(f"no node of the cluster takes the message: {error}") from None
                self._look()
                await asyncio.sleep(REDIS_CLUSTER_PAUSE)

    async def _master_of(self, channel: bytes, patience: float) -> Node:
        """The node that has the channel's slot, waiting if need be until one is known."""
        slot = resp.slot_of(channel)
        master = self._masters[slot]
        if master is not None:
            return master
        try:
            async with asyncio.timeout(patience):
                while master is None:
                    self._is_known.clear()
                    await self._is_known.wait()
                    master = self._masters[slot]
        except TimeoutError:
            reason = self._reason or "none has its slot"
            raise GroupsUnavailable(f"no node of the cluster has the group: {reason}") from None
        return master

    def stats(self) -> dict[str, Any]:
        """As of :class:`RedisEngine`, of all nodes; and ``masters``, how many are known."""
        stats = stats_of(*self._links())
        masters = len(resp.known(self._masters))
        return {**stats, "connected": bool(masters) and stats["connected"], "masters": masters}

    # The nodes.

    def _subscriber(self, node: Node) -> Subscriber:
        subscriber = self._subscribers.get(node)
        if subscriber is None:
            subscriber = Subscriber(*self._terms(node), self.sink, SHARDED)
            self._subscribers[node] = subscriber
            subscriber.on_moved = self._is_moved
            self._begin(subscriber)
        return subscriber

    def _publisher(self, node: Node) -> Publisher:
        publisher = self._publishers.get(node)
        if publisher is None:
            publisher = self._publishers[node] = Publisher(*self._terms(node), word=b"SPUBLISH")
            self._begin(publisher)
        return publisher

    def _terms(self, node: Node) -> tuple[Any, str, Target, Log]:
        return partial(open_wire, self._target, node), f"{node[0]}:{node[1]}", self._target, self._log

    def _begin(self, link: Link) -> None:
        link.on_lost = self._look
        link.start()

    def _is_moved(self, channel: bytes) -> None:
        self._moved.add(channel)
        self._look()

    def _look(self) -> None:
        """Ask where the slots are, soon, and again until somebody says so."""
        if not self._is_stopping and (self._looking is None or self._looking.done()):
            self._looking = self._loop.create_task(self._look_until_found())

    async def _look_until_found(self) -> None:
        pause = REDIS_CLUSTER_PAUSE
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            try:
                masters = await read_masters(self._target, self._nodes())
            except Lost as error:
                self._is_out_of_reach(error)
                pause = min(2 * pause, REDIS_LONGEST_PAUSE)
            else:
                return self._use(masters)

    def _nodes(self) -> list[Node]:
        """Whom to ask, the best first."""
        nodes = [node for node, link in (*self._subscribers.items(), *self._publishers.items()) if link.is_up]
        return list(dict.fromkeys((*nodes, *resp.known(self._masters), *self._target.nodes)))

    def _is_out_of_reach(self, error: Lost) -> None:
        if not self._reason:
            self._log.warning("Groups: Redis is out of reach, and is tried again and again: %s", error)
        self._reason = str(error)

    def _use(self, masters: list[Node | None]) -> None:
        if self._reason:
            self._log.info("Groups: found Redis at %s, with %d masters", self._target, len(resp.known(masters)))
        self._reason = ""
        self._masters = masters
        self._is_known.set()
        moved, self._moved = self._moved, set()
        for node, subscriber in list(self._subscribers.items()):
            for subscription in subscriber.subscriptions:
                channel = subscription.channel
                master = masters[resp.slot_of(channel)]
                if master is not None and master != node:
                    reason = "the channel has moved" if subscriber.is_up else subscriber.reason
                    self._subscriber(master).adopt(subscriber.release(channel), f"{subscriber.where}: {reason}")
                elif channel in moved:
                    subscriber.rejoin(channel)
        self._forget_all_but(resp.known(masters))

    def _forget_all_but(self, masters: set[Node]) -> None:
        """Leave the nodes that have no channels any more."""
        for node in self._publishers.keys() - masters:
            self._leave(self._publishers.pop(node))
        for node in self._subscribers.keys() - masters:
            if not self._subscribers[node].subscriptions:
                self._leave(self._subscribers.pop(node))

    def _leave(self, link: Link) -> None:
        task = self._loop.create_task(link.stop())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
