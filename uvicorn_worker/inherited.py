"""What the workers of one master have from it."""

from __future__ import annotations

import gc
import os
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from uvicorn_worker._types import Log
from uvicorn_worker.broadcast.directory import Directory, own_directory

#: Where the workers of this master find each other, by the masters' pids: a worker may become one itself.
_directories: dict[int, Directory] = {}


def directory_of_master(cfg: Any, url: str, log: Log) -> str | None:
    """Where the workers of this master find each other, made where there is none, if the engine that ``url`` names
    needs that; raises ``OSError``. Called before each worker is started."""
    scheme, _, path, _, _ = urlsplit(url)
    if scheme != "local":
        return None
    if path:
        return own_directory(path, cfg.uid, cfg.gid)
    pid = os.getpid()
    directory = _directories.get(pid)
    if directory is not None and not directory.is_there:
        directory = _renewed(directory, log)
    if directory is None:
        former = os.environ.get("GUNICORN_PID")  # of the master that this takes over from (USR2)
        directory = Directory.of_master(cfg.worker_tmp_dir, cfg.uid, cfg.gid, int(former) if former else None)
    _directories[pid] = directory
    return directory.path


def _renewed(directory: Directory, log: Log) -> Directory | None:
    """A directory that was removed, again where that is possible."""
    try:
        directory.renew()
    except OSError as error:
        lost = "workers that run are not found by new ones, which have another"
        log.error("Groups: %s was removed, and can't be made again: %s: %s", directory.path, error, lost)
        return None
    log.warning("Groups: %s, where workers find each other, was removed: made again", directory.path)
    return directory


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
