"""A Gunicorn worker for asyncio applications: ``gunicorn -k uvicorn_worker.UvicornWorker app:hello_world``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn_worker import groups
from uvicorn_worker._version import __version__
from uvicorn_worker.errors import (
    ClientDisconnected,
    GroupsUnavailable,
    IllegalMove,
    InvalidGroupMessage,
    InvalidReply,
)
from uvicorn_worker.http11.upgrade import Upgrade, UpgradedProtocol
from uvicorn_worker.run import run

if TYPE_CHECKING:
    from uvicorn_worker.worker import UvicornH11Worker, UvicornWorker

__all__ = [
    "ClientDisconnected",
    "GroupsUnavailable",
    "IllegalMove",
    "InvalidGroupMessage",
    "InvalidReply",
    "Upgrade",
    "UpgradedProtocol",
    "UvicornH11Worker",
    "UvicornWorker",
    "__version__",
    "groups",
    "run",
]


def __getattr__(name: str) -> Any:
    # Where no master is needed, as by run(), Gunicorn need not be imported.
    if name in ("UvicornH11Worker", "UvicornWorker"):
        from uvicorn_worker import worker

        return getattr(worker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
