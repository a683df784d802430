"""Workers that hang, die or lose their master."""

import json
import signal
from pathlib import Path

import pytest

from .client import Wire, request
from .harness import HOOKS, Serve, Server, eventually


def blocked(server: Server) -> None:
    """Have the application hold the loop."""
    server.connect(request("/block"))
    server.log.wait_for("holding the loop")


def assert_replaced(server: Server, start: int, old: int) -> None:
    assert server.wait_for_new_worker(start) != old
    assert server.ask("/hello").status == 200


def test_abrt_tells_where_a_blocked_worker_hangs_and_it_is_replaced(serve: Serve) -> None:
    server = serve()
    old, start = server.worker, server.log.position()
    blocked(server)
    server.signal(signal.SIGABRT, old)
    server.log.wait_for("hold_the_loop", after=start)
    server.log.wait_for(rf"Worker \(pid:{old}\) exited with code 1", after=start)
    assert_replaced(server, start, old)


def test_abrt_of_an_idle_worker_has_it_replaced(serve: Serve) -> None:
    server = serve()
    old, start = server.worker, server.log.position()
    server.signal(signal.SIGABRT, old)
    server.log.wait_for(rf"Worker \(pid:{old}\) exited with code 1", after=start)
    assert_replaced(server, start, old)


def test_a_blocked_worker_is_timed_out_with_its_stack_in_the_log_and_its_hooks(serve: Serve) -> None:
    server = serve("apps:app", "--timeout", "2", conf=HOOKS)
    old, start = server.worker, server.log.position()
    blocked(server)
    server.log.wait_for(rf"WORKER TIMEOUT \(pid:{old}\)", after=start)
    server.log.wait_for("hold_the_loop", after=start)
    server.log.wait_for(rf"Worker \(pid:{old}\) exited with code 1", after=start)
    assert_replaced(server, start, old)
    assert server.log.lines("^worker_", after=start)[:2] == [f"worker_abort {old}", f"worker_exit {old}"]
    assert not server.log.lines("SIGKILL", after=start)


def test_workers_leave_when_their_master_is_killed(serve: Serve) -> None:
    server = serve("apps:app", workers=2)
    server.signal(signal.SIGKILL)
    server.wait()
    eventually(lambda: not server.processes())
    assert server.refuses_connections()


def test_an_idle_connection_does_not_keep_an_orphan_alive(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "600")
    wire = server.connect()
    assert wire.ask("/hello").status == 200
    server.signal(signal.SIGKILL)
    server.wait()
    assert wire.rest() == b""
    eventually(lambda: not server.processes())


def test_an_application_that_is_still_starting_does_not_keep_an_orphan_alive(tmp_path: Path) -> None:
    server = Server("asgi_apps:never_starts", folder=tmp_path)
    try:
        server.log.wait_for("^starting")
        server.signal(signal.SIGKILL)
        server.wait()
        eventually(lambda: not server.processes())
    finally:
        server.kill_everything()


def test_a_hook_that_recycles_its_worker_cuts_no_request(serve: Serve) -> None:
    recycle = """\
def post_request(worker, request, environ, response):
    if request.path == "/hello":
        worker.alive = False
"""
    server = serve("apps:app", conf=recycle)
    old, start = server.worker, server.log.position()
    busy = server.connect(request("/body", "Content-Length: 4", method="POST"))
    server.log.wait_for("called POST /body")
    assert server.ask("/hello").status == 200
    assert busy.stays_silent(5)
    busy.send(b"done")
    assert busy.reply().body == b"done"
    assert server.wait_for_new_worker(start) != old
    assert not server.log.lines("graceful_timeout|exited with code", after=start)


def test_the_sibling_of_a_killed_worker_goes_on_serving(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60", workers=2)
    killed, survivor = server.ready_workers()
    start = server.log.position()

    def connection_to_the_survivor() -> Wire | None:
        wire = server.connect()
        return wire if wire.ask("/pid").text == str(survivor) else None

    wire = eventually(connection_to_the_survivor)
    server.signal(signal.SIGKILL, killed)
    for _ in range(50):
        assert wire.ask("/pid").text == str(survivor)
    new = server.wait_for_new_worker(start)
    eventually(lambda: server.ask("/pid").text == str(new))
    assert wire.ask("/pid").text == str(survivor)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt"])
def test_no_application_can_end_its_worker_by_an_exception(serve: Serve, name: str) -> None:
    server = serve()
    for _ in range(3):
        assert server.ask(f"/fail/{name}").status == 500
    assert server.ask("/pid").text == str(server.worker)
    assert len(server.log.lines("Booting worker")) == 1


def test_the_reply_that_reaches_max_requests_announces_the_end_of_its_connection(serve: Serve) -> None:
    server = serve("apps:app", "--keep-alive", "60", "--max-requests", "3")
    old, start = server.worker, server.log.position()
    idle, wire = server.connect(), server.connect()
    assert idle.ask("/hello").headers.get("connection") is None
    assert [wire.ask("/hello").headers.get("connection") for _ in range(2)] == [None, "close"]
    queued = server.connect(request("/pid"))
    assert wire.rest() == idle.rest() == b""
    new = server.wait_for_new_worker(start)
    assert queued.reply().text in (str(old), str(new))
    assert not server.log.lines("exited with code", after=start)


def test_a_full_collection_leaves_the_memory_that_is_shared_with_the_master_shared(serve: Serve) -> None:
    server = serve("fault_apps:app")
    before, after = json.loads(server.ask("/shared").text)
    assert after > 0.8 * before
