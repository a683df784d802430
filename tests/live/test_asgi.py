"""ASGI 3 applications: how they are recognized, called, and what becomes of those that misbehave."""

import json
import re
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificates import needs_openssl, read_all, self_signed, tls, trusting
from .client import request
from .harness import Serve, Server, memory, needs_setting, run_to_its_end

APP = "asgi_apps:app"
SIZE_OF_BIG_FILE = 50 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("asgi")
    big = folder / "big.bin"
    with big.open("wb") as file:
        for number in range(SIZE_OF_BIG_FILE >> 20):
            file.write(bytes([number]) * (1 << 20))
    options = ("--keep-alive", "30", "--access-logfile", "-", "--access-logformat", "access %(U)s %(s)s")
    with Server(APP, *options, folder=folder, env={"BIG_FILE": str(big)}) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """One worker, the same for many tests."""
    yield shared
    shared.hang_up()


# -- recognition


def test_the_scope_says_what_is_spoken(server: Server) -> None:
    scope = json.loads(server.ask("/what?q=1").body)
    assert (scope["type"], scope["asgi"]["version"], scope["http_version"]) == ("http", "3.0", "1.1")
    assert (scope["method"], scope["path"], scope["query_string"]) == ("GET", "/what", "q=1")
    assert scope["state"] == {"made": ["at startup"]}
    assert "http.response.pathsend" in scope["extensions"]
    assert "tls" not in scope["extensions"]


@pytest.mark.parametrize("name", ["ASGI2", "asgi2"])
def test_an_asgi_2_application_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    ended = run_to_its_end(f"asgi_apps:{name}", folder=tmp_path)
    assert (ended.status, ended.boots) == (3, 1)
    lines = ended.log.lines("ASGI 2")
    assert len(lines) == 1
    assert f"guarantee_single_callable({name})" in lines[0]
    assert "Traceback" not in ended.log


def test_a_factory_is_named_by_a_call(serve: Serve) -> None:
    server = serve("asgi_apps:create_app()")
    assert server.ask("/hello").body == b"hello"
    assert "^created$" in server.log


def test_an_application_of_no_visible_interface_is_refused(tmp_path: Path) -> None:
    ended = run_to_its_end("asgi_apps:plain", folder=tmp_path)
    assert ended.status == 3
    assert "asgi_apps:plain is not a coroutine function" in ended.log


def test_the_option_interface_says_what_cannot_be_seen(serve: Serve) -> None:
    server = serve("asgi_apps:plain", env={"UVICORN_WORKER_INTERFACE": "asgi3"})
    assert server.ask("/hello").body == b"hello"


def test_a_bad_interface_stops_the_start(tmp_path: Path) -> None:
    ended = run_to_its_end(APP, folder=tmp_path, env={"UVICORN_WORKER_INTERFACE": "wsgi"})
    assert (ended.status, ended.boots) == (1, 0)
    assert len(ended.log.lines("UVICORN_WORKER_INTERFACE = 'wsgi': expected one of auto, channels, asgi3")) == 1


# -- applications that misbehave


def assert_goes_on(server: Server) -> None:
    assert server.ask("/hello").body == b"hello"
    assert len(server.log.lines("Booting worker")) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exits", "^SystemExit: 3"),
        ("raises", "^RuntimeError: before the start"),
        ("raises_after_start", "^RuntimeError: after the start"),
        ("never_sends", "The application returned without finishing its reply"),
        ("sends_too_much", "9 bytes more than the content-length"),
        ("starts_twice", "a second http.response.start"),
        ("body_first", "http.response.body before http.response.start"),
        ("invents", "there is no event 'http.response.invented'"),
        ("bad_status", "99"),
        ("bad_header", "x-split"),
        ("text_body", "body must be bytes, not 'text'"),
        ("pathsend_of_nothing", "^FileNotFoundError: .*/no/such/file"),
    ],
)
def test_an_application_that_fails_before_anything_was_sent_is_answered_for_with_500(
    server: Server, name: str, told: str
) -> None:
    start = server.log.position()
    reply = server.ask(f"/{name}")
    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    server.log.wait_for(told, after=start)
    assert len(server.log.lines(rf"\[ERROR\] The application (raised|returned).*: GET /{name}$", after=start)) == 1
    assert_goes_on(server)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises_amid_body", "^RuntimeError: amid the body"),
        ("returns_early", "The application returned without finishing its reply"),
    ],
)
def test_a_response_that_the_application_does_not_finish_ends_so_that_the_client_can_tell(
    server: Server, name: str, told: str
) -> None:
    start = server.log.position()
    wire = server.connect(request(f"/{name}"))
    rest = wire.rest()
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert not rest.endswith(b"\r\n0\r\n\r\n")
    server.log.wait_for(told, after=start)
    assert len(server.log.lines(rf"\[ERROR\] The application (raised|returned).*: GET /{name}$", after=start)) == 1
    assert_goes_on(server)


def test_what_is_sent_behind_the_end_reaches_nobody_and_is_logged(server: Server) -> None:
    start = server.log.position()
    with server.connect() as wire:
        assert wire.ask("/sends_more_later").body == b"whole"
        assert wire.ask("/hello").body == b"hello"
    server.log.wait_for("after the end of the reply", after=start)
    assert len(server.log.lines(r"\[ERROR\]", after=start)) == 1


def test_an_application_that_receives_for_ever_is_cancelled_at_the_end_of_graceful_timeout(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "2")
    wire = server.connect(request("/receives_for_ever"))
    server.log.wait_for("^called http /receives_for_ever")
    wire.close()
    assert server.ask("/hello").body == b"hello"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.log.wait_for("Cancelled at the end of graceful_timeout: GET /receives_for_ever")
    server.log.wait_for("^cancelled http.disconnect")
    server.log.wait_for("^shutdown ")


# -- clients that leave


def test_a_client_that_leaves_is_told_of_by_http_disconnect(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/until_gone"))
    server.log.wait_for("^event http.request", after=start)
    wire.close()
    server.log.wait_for("^event http.disconnect", after=start)
    assert_goes_on(server)
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]", after=start)


def test_a_client_that_leaves_amid_its_body_is_told_of_by_http_disconnect(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/until_gone", "Content-Length: 10", method="POST") + b"12345")
    server.log.wait_for("^event http.request", after=start)
    wire.reset()
    server.log.wait_for("^event http.disconnect", after=start)
    assert_goes_on(server)
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]", after=start)


def test_send_raises_once_the_client_has_gone_and_that_is_no_error(server: Server) -> None:
    start = server.log.position()
    wire = server.connect(request("/ticks"))
    wire.until(b"tick\n")
    wire.reset()
    server.log.wait_for("^send raised ClientDisconnected", after=start)
    assert_goes_on(server)
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]", after=start)


def test_receive_gives_http_disconnect_when_the_response_is_complete(server: Server) -> None:
    start = server.log.position()
    with server.connect() as wire:
        assert wire.ask("/after_the_end").body == b"complete"
        server.log.wait_for("^then http.disconnect", after=start)
        assert wire.ask("/hello").body == b"hello"


@needs_setting("asgi_disconnect_grace_period")
def test_a_call_whose_client_has_gone_is_cancelled_after_gunicorns_grace_period(serve: Serve) -> None:
    server = serve(APP, conf="asgi_disconnect_grace_period = 1\n")
    wire = server.connect(request("/receives_for_ever"))
    server.log.wait_for("^called http /receives_for_ever")
    wire.reset()
    server.log.wait_for("^cancelled http.disconnect")
    assert_goes_on(server)
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


# -- extensions


@pytest.mark.parametrize("name", ["pathsend", "pathsend_later"])
def test_a_file_of_50_mib_is_sent_by_its_path_in_bounded_memory(server: Server, name: str) -> None:
    Path(f"/proc/{server.worker}/clear_refs").write_text("5")  # The highest so far begins anew.
    before = memory(server.worker, "VmRSS")
    wire = server.connect(request(f"/{name}", "Connection: close"))
    head = wire.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    size = wire.count()
    assert size >= SIZE_OF_BIG_FILE
    if b"content-length" in head.lower():
        assert size == SIZE_OF_BIG_FILE
    assert memory(server.worker, "VmHWM") - before < 20


@pytest.fixture
def client_certificate(tmp_path: Path) -> tuple[str, str]:
    """Files of a self-signed certificate of a client and of its key."""
    return self_signed(tmp_path, "client", "/O=Some, Ltd/CN=a client")


@needs_openssl
def test_the_tls_extension_tells_of_the_clients_certificate(
    serve: Serve, certificate: tuple[str, str], client_certificate: tuple[str, str]
) -> None:
    options = ["--certfile", certificate[0], "--keyfile", certificate[1]]
    options += ["--ca-certs", client_certificate[0], "--cert-reqs", str(int(ssl.CERT_REQUIRED))]
    server = serve(APP, *options)
    with tls(server.address, trusting(certificate[0], client_certificate)) as sock:
        sock.sendall(request("/what", "Connection: close"))
        reply = read_all(sock)
        suite = sock.cipher()
    scope = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert scope["scheme"] == "https"
    told = scope["extensions"]["tls"]
    assert told["client_cert_name"] == r"CN=a client,O=Some\, Ltd"
    assert told["client_cert_chain"] == [Path(client_certificate[0]).read_text()]
    assert told["tls_version"] == 0x0304
    assert suite and told["cipher_suite"] in range(0x1301, 0x1306)


# -- logs


def test_what_an_application_writes_to_uvicorns_loggers_is_in_gunicorns_logs(server: Server) -> None:
    start = server.log.position()
    assert server.ask("/logs").body == b"logged"
    for name in ("uvicorn", "uvicorn.error"):
        assert len(server.log.lines(rf"\[WARNING\] to the error log by {re.escape(name)}$", after=start)) == 1
    assert len(server.log.lines("^to the access log$", after=start)) == 1
    assert len(server.log.lines("^access /logs 200$", after=start)) == 1


# -- WebSockets


def test_websocket_messages_come_back(server: Server) -> None:
    with server.websocket("/echo") as client:
        for message in ("hello", b"hello", "", b"", "x" * 100_000):
            assert client.ask(message) == message
    server.log.wait_for("^closed with 1000")


def test_term_closes_websockets_with_1012_and_the_application_sees_it(serve: Serve) -> None:
    server = serve(APP, "--graceful-timeout", "600")
    with server.websocket("/echo") as client:
        assert client.ask("hello") == "hello"
        server.signal(signal.SIGTERM)
        assert client.closing() == (1012, "")
    assert server.wait() == 0
    server.log.wait_for("^closed with 1012")
    server.log.wait_for("^shutdown ")
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\] (?!Worker)")
