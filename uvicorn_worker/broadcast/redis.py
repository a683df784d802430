"""The engines for URLs of Redis. Nothing imports this, or redis-py, unless such a URL is given."""

from __future__ import annotations

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast.groups import Engine
from uvicorn_worker.broadcast.redis_cluster import ClusterEngine
from uvicorn_worker.broadcast.redis_engine import RedisEngine
from uvicorn_worker.broadcast.redis_url import parse


def engine_of_redis(url: str, log: Log) -> Engine:
    """The engine for a URL; raises ``ValueError``."""
    target = parse(url)
    return ClusterEngine(target, log) if target.kind == "cluster" else RedisEngine(target, log)
