"""The engine for a URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.broadcast.local import LocalEngine
from uvicorn_worker.broadcast.redis_url import is_redis


def engine_of(url: str, directory: str | None, log: Log) -> Engine:
    """The engine for groups that ``url`` names; ``directory`` is where the workers of one master find each other."""
    if not is_redis(url):
        return LocalEngine(urlsplit(url).path or directory, log)
    # Only here, as redis-py is an extra.
    from uvicorn_worker.broadcast.redis import engine_of_redis

    return engine_of_redis(url, log)
