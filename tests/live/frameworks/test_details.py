"""What only one framework does, and how its applications go with their worker."""

import json
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..client import request
from ..harness import Serve, memory, needs_setting
from .conftest import FRAMEWORKS, SIZE_OF_BIG_FILE, Site, client_of

pytestmark = pytest.mark.unmeasured

starlette = pytest.mark.parametrize("site", ["starlette"], indirect=True)
fastapi = pytest.mark.parametrize("site", ["fastapi"], indirect=True)
litestar = pytest.mark.parametrize("site", ["litestar"], indirect=True)
quart = pytest.mark.parametrize("site", ["quart"], indirect=True)
django = pytest.mark.parametrize("site", ["django"], indirect=True)
quart_and_django = pytest.mark.parametrize("site", ["quart", "django"], indirect=True)
with_files = pytest.mark.parametrize("site", ["fastapi", "starlette", "quart"], indirect=True)


# -- files, which Starlette sends by their paths, and Quart in parts


@with_files
def test_a_file_of_50_mib_is_downloaded_in_bounded_memory(site: Site, big_file: Path) -> None:
    worker = site.server.worker
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # The highest so far begins anew.
    before, size = memory(worker, "VmRSS"), 0
    with site.http.stream("GET", "/file") as reply, big_file.open("rb") as file:
        assert reply.headers["content-length"] == str(SIZE_OF_BIG_FILE)
        for part in reply.iter_bytes():
            assert part == file.read(len(part))
            size += len(part)
    assert size == SIZE_OF_BIG_FILE
    assert memory(worker, "VmHWM") - before < 30


@with_files
def test_parts_of_a_file_can_be_asked_for(site: Site) -> None:
    reply = site.http.get("/file", headers={"Range": f"bytes={(1 << 20) - 2}-{(1 << 20) + 1}"})
    assert (reply.status_code, reply.content) == (206, b"\0\0\1\1")
    assert reply.headers["content-range"] == f"bytes 1048574-1048577/{SIZE_OF_BIG_FILE}"


@with_files
def test_an_unchanged_file_is_not_sent_again(site: Site) -> None:
    tag = site.http.head("/static/hello.txt").headers["etag"]
    reply = site.http.get("/static/hello.txt", headers={"If-None-Match": tag})
    assert (reply.status_code, reply.content) == (304, b"")


@starlette
def test_compression_of_a_stream_is_the_frameworks(site: Site, request: pytest.FixtureRequest) -> None:
    site.open_gate(request.node.name)
    reply = site.http.get(f"/parts/{request.node.name}", headers={"Accept-Encoding": "gzip"})
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.content == b"first second"


# -- clients that leave


# Behind a middleware of the kind that FastAPI's application has, Starlette never gets to see it.
@starlette
def test_is_disconnected_becomes_true_when_the_client_leaves(site: Site) -> None:
    start = site.position()
    wire = site.server.connect(request("/watch"))
    site.wait_for("^watching", after=start)
    wire.close()
    site.wait_for("^client gone", after=start, within=5)
    assert site.tracebacks(after=start) == 0
    assert not site.server.log.lines(r"\[(WARNING|ERROR)\]", after=start)


@quart_and_django
def test_a_waiting_view_is_cancelled_when_the_client_leaves(site: Site) -> None:
    start = site.position()
    wire = site.server.connect(request("/wait/for_nobody"))
    site.wait_for("^waiting for_nobody", after=start)
    wire.close()
    site.wait_for("^cancelled for_nobody", after=start)
    assert site.tracebacks(after=start) == 0
    assert not site.server.log.lines(r"\[(WARNING|ERROR)\]", after=start)


# -- FastAPI


@fastapi
def test_what_does_not_fit_the_model_is_answered_with_422(site: Site) -> None:
    assert site.http.post("/items", json={"name": "one", "price": 1}).json() == {"name": "one", "price": 1.0}
    assert site.http.post("/items", json={"name": "one"}).status_code == 422
    assert site.http.post("/items", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422


@fastapi
def test_middleware_and_documentation_are_served(site: Site) -> None:
    assert site.http.get("/json").headers["x-between"] == "yes"
    assert "/items" in site.http.get("/openapi.json").json()["paths"]


@fastapi
def test_a_dependency_is_given_back_behind_the_response(site: Site) -> None:
    start = site.position()
    with site.server.connect() as wire:
        assert wire.ask("/depends/thing").body == b'"thing"'
        assert not site.server.log.lines("^returned", after=start)
        site.open_gate("thing")
        site.wait_for("^returned thing", after=start)


@fastapi
def test_a_websocket_has_what_the_lifespan_made(site: Site) -> None:
    with site.server.websocket("/ws/state") as client:
        assert str(site.server.worker) in client.recv()


# -- Starlette and Quart


@pytest.mark.parametrize("site", ["starlette", "quart"], indirect=True)
def test_a_handshake_can_be_denied_with_a_response(site: Site) -> None:
    with pytest.raises(InvalidStatus) as denied:
        site.server.websocket("/ws/deny")
    response = denied.value.response
    assert (response.status_code, response.body) == (401, b'{"why":"not you"}')
    assert response.headers["x-why"] == "you"


# -- Litestar


@litestar
def test_server_sent_events_come_in_their_format(site: Site) -> None:
    reply = site.http.get("/three_events")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [line for line in reply.text.splitlines() if line] == ["data: one", "data: two", "data: three"]


# -- Quart and Django


@quart
def test_the_handler_of_a_websocket_is_cancelled_when_the_client_leaves(site: Site) -> None:
    start = site.position()
    with site.server.websocket("/ws/echo") as client:
        client.close(4002, "had enough")
    site.wait_for("^disconnected$", after=start)
    lost = site.position()
    site.server.raw_websocket("/ws/echo").reset()
    site.wait_for("^disconnected$", after=lost)
    assert site.tracebacks(after=start) == 0
    assert not site.server.log.lines(r"\[(WARNING|ERROR)\]", after=start)


@quart_and_django
def test_synchronous_code_is_called_in_a_thread_over_the_bridge(site: Site) -> None:
    start = site.position()
    wire = site.server.connect(request("/bridge/over"))
    site.wait_for("^waiting over", after=start)
    site.open_gate("over")
    assert json.loads(wire.reply().body) == {"opened": True, "main_thread": False}


@quart_and_django
def test_a_synchronous_iterator_is_streamed(site: Site) -> None:
    assert site.http.get("/sync_parts").content == b"first second"


@django
def test_a_websocket_of_plain_django_is_rejected(site: Site) -> None:
    start = site.position()
    with pytest.raises(InvalidStatus) as rejected:
        site.server.websocket("/anything")
    assert rejected.value.response.status_code in (403, 500)
    site.wait_for("Django can only handle ASGI/HTTP connections, not websocket", after=start)


@django
def test_django_has_no_lifespan_and_that_is_no_trouble(site: Site) -> None:
    log = site.server.log
    assert log.lines(r"\[INFO\] The application has no ASGI lifespan .*not lifespan")
    assert not log.lines(r"\[(WARNING|ERROR)\] .*lifespan")


# -- with the worker's settings and signals


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_under_a_root_path_routes_are_found_and_urls_have_it(serve: Serve, framework: str) -> None:
    server = serve(f"frameworks.{framework}_app:app", env={"UVICORN_WORKER_ROOT_PATH": "/mounted"})
    with client_of(server) as http:
        base = str(http.base_url).rstrip("/")
        known = http.get("/where").json()
        assert known["json"] == f"{base}/mounted/json"
        assert http.get("/static/hello.txt").text == "Hello, static world\n"


@pytest.mark.parametrize("framework", FRAMEWORKS[:-1])
def test_term_lets_requests_and_background_tasks_finish_before_the_shutdown(serve: Serve, framework: str) -> None:
    server = serve(f"frameworks.{framework}_app:app", "--keep-alive", "60", "--graceful-timeout", "20")
    worker = server.worker
    streaming = server.connect(request("/parts/term"))
    streaming.until(b"first ")
    opener = server.connect()
    assert server.connect().ask("/background/term").status == 200
    server.log.wait_for("^begun term")
    assert opener.ask("/json").status == 200
    with server.websocket("/ws/echo") as client:
        assert client.ask("hello") == "hello"
        server.signal(signal.SIGTERM)
        opener.send(request("/open/term", method="POST", body=b"{}"))  # at once, or the idle connection is closed
        assert opener.reply().status == 200
        assert b"second" in streaming.rest()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 1012
    assert server.wait() == 0
    lines = server.log.lines()
    assert lines.index("begun term") < lines.index("done term") < lines.index(f"shutdown {worker}")
    gone = "disconnected" if framework == "quart" else "disconnected 1012"  # Quart does not tell its handlers of codes.
    assert any(line.startswith(gone) for line in lines)
    assert not server.log.lines(r"Traceback|\[ERROR\]")


@needs_setting("asgi_disconnect_grace_period")
@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_a_stream_that_sends_nothing_ends_after_the_grace_period_where_starlette_would_go_on(
    serve: Serve, framework: str
) -> None:
    server = serve(f"frameworks.{framework}_app:app", "--asgi-disconnect-grace-period", "0")
    wire = server.connect(request("/silent_events/grace"))
    wire.until(b"data: 0")
    wire.close()
    server.log.wait_for("^closed grace")
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


def test_endless_events_are_cancelled_at_the_end_of_graceful_timeout(serve: Serve) -> None:
    server = serve("frameworks.starlette_app:app", "--graceful-timeout", "2")
    wire = server.connect(request("/events/term"))
    wire.until(b"data: 0")
    server.signal(signal.SIGTERM)
    assert not wire.rest().endswith(b"0\r\n\r\n")
    assert server.wait() == 0
    lines = server.log.lines()
    assert lines.index("closed term") < lines.index(f"shutdown {server.worker}")
    assert not server.log.lines("Traceback")
