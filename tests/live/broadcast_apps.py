"""Applications as they were written in 2017, with the middleware that gave them groups."""

import os
import sys
from typing import Any

from groups_apps import app as groups_app

from uvicorn_worker.broadcast import BroadCastMiddleware, BroadcastMiddleware

port = int(os.environ.get("REDIS_PORT", 0))

bare = BroadCastMiddleware(groups_app)
if port:
    app = BroadcastMiddleware(groups_app, "127.0.0.1", port)


def torn() -> BroadcastMiddleware:
    return BroadcastMiddleware(app, "127.0.0.1", port + 1)


async def modules(message: dict[str, Any], channels: dict[str, Any]) -> None:
    """Whether redis-py is there."""
    await channels["reply"].send({"status": 200, "content": str("redis" in sys.modules).encode()})
