"""A channel layer for Django Channels over the groups of the worker, in the place of one over Redis.

``CHANNEL_LAYERS = {"default": {"BACKEND": "uvicorn_worker.channel_layer.GroupsChannelLayer"}}``
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from uvicorn_worker import groups as worker_groups
from uvicorn_worker._types import Message
from uvicorn_worker.broadcast.codec import decode
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.broadcast.mailboxes import Full
from uvicorn_worker.broadcast.outside import Outside, outside
from uvicorn_worker.broadcast.routes import CHANNEL, Routes
from uvicorn_worker.config import Settings
from uvicorn_worker.options import read_options

#: A channel that nobody has received from for so many times of ``expiry`` leaves its groups.
_PATIENCE = 10

_Result = TypeVar("_Result")


class GroupsChannelLayer(BaseChannelLayer):
    """Channels and groups across the workers of a Gunicorn master or, as the option ``groups`` says, beyond.

    It can be used in any loop and, by ``async_to_sync``, in any thread. What it raises beside ``ChannelFull`` and, for
    names, ``TypeError``: ``InvalidGroupMessage`` (a ``ValueError``) for what can't be sent or joined, and
    ``GroupsUnavailable`` (a ``ConnectionError``) where the engine is out of reach.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        *,
        groups: str | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        """The keys of ``CONFIG``.

        ``groups`` is the URL of an engine, for processes that no worker runs in and for workers that have another; the
        environment variable ``UVICORN_WORKER_GROUPS`` goes over it. Layers of different ``prefix`` know nothing of each
        other. A message may wait for ``expiry`` seconds, and so many as ``capacity``, or ``channel_capacity`` by glob
        or compiled pattern, in each channel. One that nobody receives from leaves its groups after ten times
        ``expiry``, or ``group_expiry`` if that is less. Raises :class:`InvalidOption`.
        """
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.prefix = prefix
        given = {} if groups is None else {"groups": groups}
        self._settings = Settings(**read_options(given, os.environ, source="CONFIG"))
        self._routes: dict[Groups, Routes] = {}

    # What Channels asks for.

    async def new_channel(self, prefix: str = "specific") -> str:
        """The name of a new channel, which this process alone receives from."""
        self.require_valid_channel_name(f"{prefix}.")
        return await self._at_home(lambda routes: routes.new_channel(prefix))

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one who receives from the channel.

        Raises ``ChannelFull`` where that can be known: for a channel of this process, and for one of any, when as many
        messages wait that were sent in this process.
        """
        self.require_valid_channel_name(channel)
        try:
            await self._at_home(lambda routes: routes.send(channel, message))
        except Full:
            raise ChannelFull(channel) from None

    async def receive(self, channel: str) -> Message:
        """The next message of the channel, which is nobody else's, and which no other message has a part of."""
        self.require_valid_channel_name(channel)
        message = decode(await self._at_home(lambda routes: routes.receive(channel)))
        message.pop(CHANNEL, None)
        return message

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel that this process has made a member: what is sent from then on reaches it."""
        self._require_valid_names(group, channel)
        await self._at_home(lambda routes: routes.join(group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Make it no member any more, if it is one."""
        self._require_valid_names(group, channel)
        await self._at_home(lambda routes: routes.leave(group, channel))

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to all members; those that are full are left out."""
        self.require_valid_group_name(group)
        await self._at_home(lambda routes: routes.send_to_group(group, message))

    async def flush(self) -> None:
        """Forget all messages and groups of this process; those of others are theirs."""
        await self._at_home(lambda routes: routes.clear())

    async def close(self) -> None:
        """Nothing: the engine lasts as long as the process."""

    #: As channels_redis calls it.
    close_pools = close

    def _require_valid_names(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

    # Where it is done.

    async def _at_home(self, do: Callable[[Routes], Coroutine[Any, Any, _Result]]) -> _Result:
        """Do it in the loop that the groups live in, whichever runs here."""
        worker = worker_groups.worker()
        if worker is not None and self._settings.groups in (Settings.groups, worker[1].url):
            loop, doing = worker[0], self._do(do, worker[1])
        else:
            home = outside(self._settings)
            loop, doing = home.loop, self._do(do, home.groups, home)
        if loop is asyncio.get_running_loop():
            return await doing
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(doing, loop))

    async def _do(
        self, do: Callable[[Routes], Coroutine[Any, Any, _Result]], groups: Groups, home: Outside | None = None
    ) -> _Result:
        if home is not None:
            await home.start()
        routes = self._routes.get(groups)
        if routes is None:
            patience = min(_PATIENCE * self.expiry, self.group_expiry)
            routes = self._routes[groups] = Routes(groups, self.prefix, self.get_capacity, self.expiry, patience)
            if home is not None:
                home.before_stop.append(routes.settle)
        return await do(routes)
