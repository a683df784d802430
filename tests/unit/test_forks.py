"""Sockets that processes do not have which are forked: those that were named, and no others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from uvicorn_worker.broadcast.forks import close_in_forks


def in_a_fork(what: Callable[[], bool]) -> bool:
    """Whether it is so in a process that is forked of this one."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if what() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def test_a_fork_has_none_of_the_sockets_and_this_process_keeps_them() -> None:
    one, other = socket.socketpair()
    with one, other:
        close_in_forks(one.fileno())

        def is_gone() -> bool:
            os.fstat(one.fileno())
            try:
                one.send(b"x")
            except OSError:
                return True
            return False

        assert in_a_fork(is_gone)
        one.send(b"y")
        assert other.recv(10) == b"y"


def test_what_has_the_descriptor_of_a_socket_that_was_closed_is_left_to_a_fork() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as former:
        descriptor = former.fileno()
        close_in_forks(descriptor)
        former.close()
        os.dup2(one.fileno(), descriptor)
        assert in_a_fork(lambda: os.write(descriptor, b"x") == 1)
        os.close(descriptor)
        assert other.recv(10) == b"x"
        assert in_a_fork(lambda: one.send(b"y") == 1)
