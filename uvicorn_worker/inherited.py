"""What the workers of one master have from it."""

from __future__ import annotations

import gc
import os
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from uvicorn_worker.broadcast.directory import Directory, own_directory

#: Where the workers of this master find each other, by the masters' pids: a worker may become one itself.
_directories: dict[int, Directory] = {}


def directory_of_master(cfg: Any, url: str) -> str | None:
    """Where the workers of this master find each other, made where there is none, if the engine that ``url`` names
    needs that; raises ``OSError``."""
    scheme, _, path, _, _ = urlsplit(url)
    if scheme != "local":
        return None
    if path:
        return own_directory(path, cfg.uid, cfg.gid)
    pid = os.getpid()
    if pid not in _directories or not os.path.isdir(_directories[pid].path):
        former = os.environ.get("GUNICORN_PID")  # of the master that this takes over from (USR2)
        _directories[pid] = Directory.of_master(cfg.worker_tmp_dir, cfg.uid, cfg.gid, int(former) if former else None)
    return _directories[pid].path


def keep_shared() -> None:
    """Have the collector leave alone what there is, which is the master's: a full collection writes to each object that
    it looks at, and the process would get a copy of every page, 4 MiB without an application in the master.
    """
    gc.freeze()


def signals_before(handler: object) -> list[int]:
    """The signals that came since the fork, in which the master's ``handler`` of them has kept them for a loop that
    this process never enters: the master sends each once, and would wait in vain until its time is over.

    Among them are those that the master has had no time for yet; to stop is what it is about to say to its workers.
    """
    queue = getattr(getattr(handler, "__self__", None), "SIG_QUEUE", None)
    if isinstance(queue, SimpleQueue):
        return [queue.get_nowait() for _ in range(queue.qsize())]
    return list(queue or ())  # Gunicorn 23
