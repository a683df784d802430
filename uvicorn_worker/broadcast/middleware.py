"""The middleware through which applications got ``channels['groups']`` before it was always there."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from uvicorn_worker._types import Application, Message
from uvicorn_worker.broadcast import redis_url
from uvicorn_worker.broadcast.engine_url import without_password
from uvicorn_worker.errors import InvalidApplication, InvalidOption
from uvicorn_worker.interfaces.detect import Interface, detect_interface
from uvicorn_worker.options import read_options

#: Those that name an engine.
_choosy: WeakSet[BroadcastMiddleware] = WeakSet()


class BroadcastMiddleware:
    """Serves a message/channels application that speaks to groups through a Redis server.

    ``BroadcastMiddleware(app, 'localhost', 6379)``, or with a URL, as for the option ``groups``, in place of the host,
    has the worker that serves it use this server, whatever the option says. ``BroadcastMiddleware(app)`` leaves it at
    that. Raises :class:`InvalidOption` and :class:`InvalidApplication`.
    """

    def __init__(self, app: Application, host: str | None = None, port: int | None = None) -> None:
        if detect_interface(app) is not Interface.CHANNELS:
            raise InvalidApplication(f"{app!r:.100} is an ASGI 3 application, for which the option groups is enough")
        self.app = app
        self.groups: str | None = None
        if host is not None or port is not None:
            url = _url(host or "localhost", port or 6379)
            if not redis_url.is_redis(url):
                shown = without_password(host)
                raise InvalidOption(f"BroadcastMiddleware: {shown!r} is no Redis; the option groups has more")
            self.groups = read_options({"groups": url}, {}, source="BroadcastMiddleware")["groups"]
            _choosy.add(self)

    async def __call__(self, message: Message, channels: dict[str, Any]) -> None:
        await self.app(message, channels)


#: As it was spelled, too.
BroadCastMiddleware = BroadcastMiddleware


def _url(host: str, port: int) -> str:
    if "://" in host:
        return host
    return f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}"


def choose_engine(option: str) -> str:
    """The URL that applications of this process ask for, or else that of the option. Raises :class:`InvalidOption`
    where they disagree."""
    urls = {middleware.groups for middleware in _choosy if middleware.groups is not None}
    if len(urls) > 1:
        names = " and ".join(sorted(str(redis_url.parse(url)) for url in urls))
        raise InvalidOption(f"BroadcastMiddleware: a worker has one engine for all groups, and not {names}")
    return urls.pop() if urls else option
