"""``BroadcastMiddleware``, by both of the names that it once had. Everything else here is the server's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn_worker.broadcast.middleware import BroadCastMiddleware, BroadcastMiddleware

__all__ = ["BroadCastMiddleware", "BroadcastMiddleware"]


def __getattr__(name: str) -> Any:
    # The modules of this package are imported by those that it is made of.
    if name in __all__:
        from uvicorn_worker.broadcast import middleware

        return getattr(middleware, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
