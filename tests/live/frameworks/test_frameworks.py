"""What applications of every framework do, over real connections."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..harness import memory
from .conftest import FRAMEWORKS, SIZE_OF_BIG_FILE, Site, client_of

pytestmark = pytest.mark.unmeasured

#: Django has neither WebSockets nor a lifespan.
without_django = pytest.mark.parametrize("site", FRAMEWORKS[:-1], indirect=True)

#: Quart cancels the handler of a WebSocket that has ended, and tells it no code.
told_of_codes = pytest.mark.parametrize("site", ["fastapi", "starlette", "litestar"], indirect=True)

MARGIN = 30  # MiB that a worker may grow by while 50 MiB pass through it


# -- requests and responses


def test_json_comes_back(site: Site) -> None:
    reply = site.http.get("/json")
    assert (reply.status_code, reply.json()) == (200, {"hello": "world"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.content))
    sent = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    assert site.http.post("/json", json=sent).json() == sent


def test_one_connection_serves_many_requests(site: Site) -> None:
    with site.server.connect() as wire:
        for _ in range(20):
            reply = wire.ask("/json")
            assert (reply.status, json.loads(reply.body)) == (200, {"hello": "world"})


def test_head_has_the_headers_of_get_and_no_body(site: Site) -> None:
    reply = site.http.head("/json")
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-length"] == site.http.get("/json").headers["content-length"]
    with site.server.connect() as wire:
        assert wire.ask("/json", method="HEAD").status == 200
        assert wire.ask("/json").status == 200  # nothing stood between


def test_what_is_not_there_is_answered_with_404(site: Site) -> None:
    assert site.http.get("/nowhere").status_code == 404


def test_forms_arrive(site: Site) -> None:
    fields = {"one": "1 & more", "two": "zwölf"}
    assert site.http.post("/form", data=fields).json() == fields


def test_cookies_go_both_ways(site: Site) -> None:
    with client_of(site.server) as browser:
        first = browser.get("/cookies")
        assert len(first.headers.get_list("set-cookie")) == 2
        assert browser.get("/cookies").json() == {"one": "1", "two": "2"}


def test_redirects_lead_to_where_they_say(site: Site) -> None:
    reply = site.http.get("/redirect")
    assert reply.status_code == 302
    followed = site.http.get("/redirect", follow_redirects=True)
    assert followed.json() == {"hello": "world"}


def test_the_application_knows_the_urls_and_the_client(site: Site) -> None:
    base = str(site.http.base_url).rstrip("/")
    known = site.http.get("/where?q=a%20b").json()
    assert known == {"client": "127.0.0.1", "url": f"{base}/where?q=a%20b", "json": f"{base}/json"}


def test_an_http_error_of_the_application_is_its_own(site: Site) -> None:
    start = site.position()
    reply = site.http.get("/teapot")
    assert reply.status_code == 418
    assert reply.headers["x-pot"] == "tea"
    assert "short and stout" in reply.text
    assert "The application raised" not in "\n".join(site.server.log.lines(after=start))


def test_an_exception_is_answered_with_500_and_one_traceback_in_the_log(site: Site) -> None:
    start = site.position()
    reply = site.http.get("/fail")
    assert reply.status_code == 500
    assert "as the framework likes" not in reply.text
    site.wait_for("^RuntimeError: as the framework likes", after=start)
    assert site.tracebacks(after=start) == 1


# FastAPI's has a middleware of Starlette's kind, which ends such a body as if it were whole.
@pytest.mark.parametrize("site", ["starlette", "litestar", "quart", "django"], indirect=True)
def test_an_exception_amid_the_body_breaks_the_connection_and_is_logged(site: Site) -> None:
    start = site.position()
    with pytest.raises(httpx.RemoteProtocolError):
        site.http.get("/fail_amid")
    site.wait_for("RuntimeError: amid the body", after=start)
    assert site.http.get("/json").status_code == 200


# -- files


def test_static_files_are_served_and_no_others(site: Site) -> None:
    first = site.http.get("/static/hello.txt")
    assert (first.status_code, first.text) == (200, "Hello, static world\n")
    assert first.headers["content-type"].startswith("text/plain")
    assert site.http.head("/static/hello.txt").headers["content-length"] == "20"
    assert site.http.get("/static/none.txt").status_code == 404
    assert site.http.get("/static/../common.py").status_code == 404
    assert site.http.get("/static/%2e%2e/common.py").status_code in (400, 404)


def test_a_small_file_is_uploaded(site: Site) -> None:
    reply = site.http.post("/upload", files={"file": ("a b.txt", b"content", "text/plain")})
    assert reply.json() == {"name": "a b.txt", "size": 7, "sha256": hashlib.sha256(b"content").hexdigest()}


def test_a_file_of_50_mib_is_uploaded_in_bounded_memory(site: Site, big_file: Path) -> None:
    worker = site.server.worker
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # The highest so far begins anew.
    before = memory(worker, "VmRSS")
    with big_file.open("rb") as file:
        reply = site.http.post("/upload", files={"file": ("big.bin", file)})
    with big_file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert reply.json() == {"name": "big.bin", "size": SIZE_OF_BIG_FILE, "sha256": digest}
    assert memory(worker, "VmHWM") - before < MARGIN


# -- streams


def test_a_request_streams_to_the_application_in_bounded_memory(site: Site) -> None:
    worker = site.server.worker
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    before = memory(worker, "VmRSS")
    reply = site.http.post("/count", content=(b"x" * (1 << 20) for _ in range(50)))
    assert reply.json() == {"size": SIZE_OF_BIG_FILE}
    assert memory(worker, "VmHWM") - before < MARGIN


@without_django
def test_the_application_receives_a_part_before_the_next_is_sent(site: Site) -> None:
    start = site.position()

    def content() -> Iterator[bytes]:
        for number in range(1, 4):
            yield b"12345"
            site.wait_for(f"^received {number * 5}$", after=start)

    assert site.http.post("/count", content=content()).json() == {"size": 15}


# Litestar takes the body away from a handler that has begun its response, to see whether the client leaves.
@pytest.mark.parametrize("site", ["fastapi", "starlette", "quart"], indirect=True)
def test_a_body_is_echoed_while_it_is_sent(site: Site) -> None:
    sent = [bytes([number]) * 100_000 for number in range(32)]
    reply = site.http.post("/echo", content=iter(sent))
    assert reply.content == b"".join(sent)


def test_a_response_streams_part_by_part(site: Site, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    with site.http.stream("GET", f"/parts/{name}") as reply:
        assert "content-length" not in reply.headers
        content = reply.iter_raw()
        assert next(content) == b"first "
        site.open_gate(name)
        assert b"".join(content) == b"second"


@pytest.mark.parametrize("kind", ["events", "silent_events"])
def test_a_generator_of_events_is_closed_when_the_client_leaves(
    site: Site, kind: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    if kind == "silent_events" and name.endswith(("[fastapi-silent_events]", "[starlette-silent_events]")):
        pytest.skip("Starlette leaves it to the next send, where the server speaks 2.4 of the specification or later")
    start = site.position()
    with site.http.stream("GET", f"/{kind}/{name}") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert next(reply.iter_lines()) == "data: 0"
    site.wait_for(f"^closed {re.escape(name)}", after=start, within=5)
    assert site.tracebacks(after=start) == 0
    assert not site.server.log.lines(r"\[(WARNING|ERROR)\]|never awaited|never retrieved", after=start)


# -- work beside and behind the response


def test_a_background_task_runs_after_the_response_and_holds_nothing_up(
    site: Site, request: pytest.FixtureRequest
) -> None:
    start, name = site.position(), request.node.name
    with site.server.connect() as wire:
        assert wire.ask(f"/background/{name}").status == 200
        site.wait_for(f"^begun {re.escape(name)}", after=start)
        assert wire.ask("/json").status == 200
        assert not site.server.log.lines("^done ", after=start)
        site.open_gate(name)
        site.wait_for(f"^done {re.escape(name)}", after=start)


def test_a_background_task_ends_though_the_client_has_left(site: Site, request: pytest.FixtureRequest) -> None:
    start, name = site.position(), request.node.name
    wire = site.server.connect()
    assert wire.ask(f"/background/{name}").status == 200
    wire.reset()
    site.wait_for(f"^begun {re.escape(name)}", after=start)
    site.open_gate(name)
    site.wait_for(f"^done {re.escape(name)}", after=start)
    assert site.tracebacks(after=start) == 0


def test_a_synchronous_endpoint_blocks_a_thread_and_not_the_loop(site: Site, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    wires = [site.server.connect() for _ in range(3)]
    start = site.position()
    for number, wire in enumerate(wires):
        wire.send(f"GET /thread/{name}{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        site.wait_for(rf"^waiting {re.escape(name)}{number}", after=start)
    for number, wire in enumerate(wires):
        site.open_gate(f"{name}{number}")
        assert json.loads(wire.reply().body) == {"opened": True, "main_thread": False}


def test_requests_at_once_are_served_at_once(site: Site, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    replies: list[bytes] = []

    def ask() -> None:
        with client_of(site.server) as client:
            replies.append(client.get(f"/parts/{name}").content)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    site.open_gate(name)
    for thread in threads:
        thread.join()
    assert replies == [b"first second"] * 20


# -- lifespan


@without_django
def test_what_the_lifespan_made_is_there_for_requests(site: Site) -> None:
    known = site.http.get("/state").json()
    assert known["startup_pid"] == known["pid"] == site.server.worker
    assert site.server.log.lines("^startup ") == [f"startup {site.server.worker}"]


# -- WebSockets


@without_django
def test_websocket_messages_come_back(site: Site) -> None:
    with site.server.websocket("/ws/echo") as client:
        for message in ("hello", "", "ü" * 100_000):
            assert client.ask(message) == message
    with site.server.websocket("/ws/echo?binary") as client:
        for data in (b"hello", bytes(100_000)):
            assert client.ask(data) == data


@without_django
def test_a_subprotocol_is_agreed_upon(site: Site) -> None:
    with site.server.websocket("/ws/echo", subprotocols=["other", "chat"]) as client:
        assert client.subprotocol == "chat"


@told_of_codes
def test_the_application_sees_the_code_that_a_client_closes_with(site: Site) -> None:
    start = site.position()
    with site.server.websocket("/ws/echo") as client:
        client.close(4002, "had enough")
    site.wait_for("^disconnected 4002", after=start)
    assert site.tracebacks(after=start) == 0


@told_of_codes
def test_the_application_sees_that_a_client_is_lost(site: Site) -> None:
    start = site.position()
    site.server.raw_websocket("/ws/echo").reset()
    site.wait_for("^disconnected 1006", after=start)
    assert site.tracebacks(after=start) == 0


@without_django
def test_the_client_sees_the_code_that_the_application_closes_with(site: Site) -> None:
    with site.server.websocket("/ws/close") as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "no more")


@without_django
def test_a_handshake_that_the_application_rejects_is_answered_with_403(site: Site) -> None:
    start = site.position()
    with pytest.raises(InvalidStatus) as rejected:
        site.server.websocket("/ws/reject")
    assert rejected.value.response.status_code == 403
    assert site.tracebacks(after=start) == 0


@without_django
def test_a_websocket_that_nobody_serves_is_rejected(site: Site) -> None:
    with pytest.raises(InvalidStatus) as rejected:
        site.server.websocket("/nowhere")
    assert rejected.value.response.status_code in (403, 404)


# Litestar and Quart catch it, and choose codes of their own.
@pytest.mark.parametrize(
    ("site", "code"),
    [("fastapi", 1011), ("starlette", 1011), ("litestar", 4500), ("quart", 1000)],
    indirect=["site"],
)
def test_an_exception_in_a_websocket_closes_it_and_is_one_traceback_in_the_log(site: Site, code: int) -> None:
    start = site.position()
    with site.server.websocket("/ws/fail") as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == code
    site.wait_for("^RuntimeError: as the framework likes", after=start)
    assert site.tracebacks(after=start) == 1
