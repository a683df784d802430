"""Sockets that a process which is forked of a worker, as by multiprocessing, is not to have: such a process may outlive
a worker that is killed, whose connections would then stay open, and have others wait for it."""

from __future__ import annotations

import os

#: Descriptors, and which socket each is: by the time of a fork, it may be something else's.
_sockets: dict[int, tuple[int, int]] = {}


def close_in_forks(descriptor: int) -> None:
    """Have the socket closed in every process that is forked of this one."""
    _sockets[descriptor] = _identity(descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _close_all() -> None:
    """In a process that was forked. The descriptors stay: whatever still has one must not close another's later."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, identity in _sockets.items():
        try:
            if _identity(descriptor) == identity:
                os.dup2(nothing, descriptor, inheritable=False)
        except OSError:
            pass  # It was closed before.
    os.close(nothing)
    _sockets.clear()


os.register_at_fork(after_in_child=_close_all)
