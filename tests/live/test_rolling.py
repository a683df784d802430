"""Workers that are replaced under load: no request fails, and no connection closes under a request that was sent.

Small here; with FULL_SIZE=1 in the environment, reloads and recyclings are as many as an operator would try.
"""

import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from .crowd import Crowd
from .harness import FULL_SIZE, WORKER, Serve, Server, eventually

pytestmark = pytest.mark.unmeasured

TERM, HUP, TTIN, TTOU, USR2 = signal.SIGTERM, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2

APP = "apps:soon"
CLIENTS = 64 if FULL_SIZE else 16


def assert_nothing_failed(server: Server, crowd: Crowd) -> None:
    print(f"{crowd.replies} replies over {crowd.connections} connections, {len(crowd.failures)} failures")
    assert crowd.failures == []
    assert not server.log.lines(r"Traceback|\[ERROR\] (?!Worker)|exited with code|was sent SIG")


def all_booted(server: Server, count: int, after: int) -> bool:
    return len(server.ready_workers(after=after)) >= count


def has_left(server: Server, pid: int) -> bool:
    return pid not in server.processes()


def test_reload_after_reload_fails_no_request(serve: Serve) -> None:
    server = serve(APP, workers=2)
    pause = threading.Event()
    with Crowd(server.address, CLIENTS) as crowd:
        for _ in range(20 if FULL_SIZE else 5):
            crowd.wait_for_more()
            start, began = server.log.position(), time.monotonic()
            server.signal(HUP)
            eventually(partial(all_booted, server, 2, start))
            if FULL_SIZE:
                pause.wait(began + 1.5 - time.monotonic())
        crowd.wait_for_more()
    assert_nothing_failed(server, crowd)


def test_recycling_after_recycling_fails_no_request(serve: Serve) -> None:
    recyclings, requests = (50, 1000) if FULL_SIZE else (10, 100)
    server = serve(APP, "--max-requests", str(requests), "--max-requests-jitter", str(requests // 5), workers=2)
    with Crowd(server.address, CLIENTS) as crowd:
        while not all_booted(server, 2 + recyclings, 0):
            crowd.wait_for_more()
    assert_nothing_failed(server, crowd)


def test_term_of_one_worker_fails_no_request(serve: Serve) -> None:
    server = serve(APP, workers=2)
    with Crowd(server.address, CLIENTS) as crowd:
        crowd.wait_for_more()
        start = server.log.position()
        server.signal(TERM, server.ready_workers()[0])
        server.wait_for_new_worker(start)
        crowd.wait_for_more()
    assert_nothing_failed(server, crowd)


def test_ttin_and_ttou_fail_no_request(serve: Serve) -> None:
    server = serve(APP)
    old, start = server.worker, server.log.position()
    with Crowd(server.address, CLIENTS) as crowd:
        crowd.wait_for_more()
        server.signal(TTIN)
        new = server.wait_for_new_worker(start)
        crowd.wait_for_more()
        server.signal(TTOU)  # Gunicorn sends the oldest two TERMs at once.
        eventually(partial(has_left, server, old))
        crowd.wait_for_more()
    assert_nothing_failed(server, crowd)
    assert server.processes() == [server.process.pid, new]


def test_usr2_and_term_put_a_new_master_in_the_place_of_the_old_one_and_fail_no_request(serve: Serve) -> None:
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))  # Gunicorn starts again by the name of its script.
    server = serve(APP, command=(gunicorn, "-k", WORKER), workers=2)
    start = server.log.position()
    with Crowd(server.address, CLIENTS) as crowd:
        crowd.wait_for_more()
        server.signal(USR2)
        master = int(server.log.wait_for(r"\[(\d+)\] \[INFO\] Starting gunicorn", after=start)[1])
        eventually(partial(all_booted, server, 2, start))
        crowd.wait_for_more()
        server.signal(TERM)
        assert server.wait() == 0
        crowd.wait_for_more()
    assert_nothing_failed(server, crowd)
    assert sorted(server.processes()) == sorted([master, *server.ready_workers(after=start)])
    server.signal(TERM, master)
