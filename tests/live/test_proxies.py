"""Proxies in front, by Gunicorn's settings: what their fields tell, and PROXY headers."""

import json
import shutil
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest

from .client import DEADLINE, Wire, handshake, request
from .harness import Serve, Server, eventually, run_to_its_end, sockets
from .test_boot import subclass

pytestmark = pytest.mark.unmeasured

V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack(">H", 19)
    + bytes((203, 0, 113, 7, 192, 0, 2, 1))
    + struct.pack(">HH", 4711, 80)
    + b"\x04\x00\x04noop"
)
CLIENT = ["203.0.113.7", 4711]
FORWARDED = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")

versions = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])


def seen(wire: Wire, *fields: str) -> tuple[Any, str]:
    """The client and the scheme as the application is told of them."""
    message = json.loads(wire.ask("/what", *fields).body)
    return message["client"], message["scheme"]


def announced(server: Server, header: bytes, **options: Any) -> Wire:
    return server.connect(header, **options)


# Fields.


def test_loopback_is_trusted_unless_gunicorn_is_told_otherwise(serve: Serve) -> None:
    server = serve(env={"FORWARDED_ALLOW_IPS": "127.0.0.1"})
    assert seen(server.connect(), *FORWARDED) == (["203.0.113.7", 0], "https")


@pytest.mark.parametrize(
    ("options", "env", "trusted"),
    [
        (("--forwarded-allow-ips", "10.0.0.1"), {}, False),
        (("--forwarded-allow-ips", "*"), {}, True),
        ((), {"FORWARDED_ALLOW_IPS": "10.0.0.1"}, False),
        ((), {"UVICORN_WORKER_PROXY_HEADERS": "off", "FORWARDED_ALLOW_IPS": "127.0.0.1"}, False),
        (("--forwarded-allow-ips", "10.0.0.1"), {"UVICORN_WORKER_FORWARDED_ALLOW_IPS": "127.0.0.0/8"}, True),
    ],
)
def test_who_is_trusted_is_set_as_for_gunicorn_and_uvicorn(
    serve: Serve, options: tuple[str, ...], env: dict[str, str], trusted: bool
) -> None:
    server = serve("apps:app", *options, env=env)
    wire = server.connect()
    peer = list(wire.socket.getsockname())
    assert seen(wire, *FORWARDED) == ((["203.0.113.7", 0], "https") if trusted else (peer, "http"))


def test_a_proxy_at_a_unix_socket_is_trusted(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve("apps:app", "--forwarded-allow-ips", "10.0.0.1", bind=f"unix:{path}")
    with Wire(str(path)) as wire:
        assert seen(wire, *FORWARDED) == (["203.0.113.7", 0], "https")
        assert seen(wire) == (None, "http")


def test_the_fields_of_the_scheme_are_gunicorns(serve: Serve) -> None:
    conf = "forwarded_allow_ips = '127.0.0.1'\nsecure_scheme_headers = {'X-SECURE': 'Yes'}\n"
    wire = serve(conf=conf).connect()
    assert seen(wire, "X-Secure: Yes")[1] == "https"
    assert seen(wire, "X-Forwarded-Proto: https")[1] == "http"


def test_a_contradiction_about_the_scheme_is_a_400(serve: Serve) -> None:
    server = serve("apps:app", "--forwarded-allow-ips", "127.0.0.1")
    wire = server.connect()
    assert wire.ask("/what", "X-Forwarded-Proto: http", "X-Forwarded-Ssl: on").status == 400
    assert "called" not in server.log


def test_a_scheme_field_without_text_stops_the_start_with_one_line(tmp_path: Path) -> None:
    ended = run_to_its_end("apps:app", folder=tmp_path, conf="secure_scheme_headers = {'X-SECURE': True}\n")
    assert (ended.status, ended.boots) == (1, 0)
    assert len(ended.log.lines("secure_scheme_headers")) == 1
    assert "Traceback" not in ended.log


def names(wire: Wire, *fields: str) -> list[str]:
    return [name for name, _ in json.loads(wire.ask("/what", *fields).body)["headers"]]


def test_names_with_an_underscore_pass_at_gunicorns_default(serve: Serve) -> None:
    assert "x_api_key" in names(serve().connect(), "X_Api_Key: secret")


def test_names_with_an_underscore_are_refused_if_gunicorn_says_so(serve: Serve) -> None:
    server = serve("apps:app", "--header-map", "refuse", "--forwarder-headers", "REMOTE_USER")
    assert server.connect().ask("/what", "X_Api_Key: secret").status == 400
    assert "remote_user" in names(server.connect(), "Remote_User: me")


def test_names_with_an_underscore_can_be_dropped_by_the_option(serve: Serve) -> None:
    conf = subclass("{'header_map': 'drop'}")
    server = serve("apps:app", "--forwarded-allow-ips", "10.0.0.1", command=("-m", "gunicorn"), conf=conf)
    assert names(server.connect(), "X_Api_Key: secret", "SCRIPT_NAME: /a", "X-A: b") == ["host", "x-a"]


# PROXY headers.

PROXY = ("apps:app", "--proxy-protocol", "--keep-alive", "30")


@versions
def test_all_requests_of_a_connection_come_from_the_client_of_its_header(serve: Serve, header: bytes) -> None:
    wire = announced(serve(*PROXY), header)
    for _ in range(20):
        assert seen(wire) == (CLIENT, "http")


@versions
def test_a_websocket_behind_a_header_whose_client_is_no_proxy(serve: Serve, header: bytes) -> None:
    server = serve("websocket_apps:app", *PROXY[1:], "--forwarded-allow-ips", "127.0.0.1")
    fields = ("X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https")
    wire = announced(server, header + handshake("/what", *fields))
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    message = wire.until(b"}")
    assert b'"client": ["203.0.113.7", 4711]' in message
    assert b'"scheme": "ws"' in message


@versions
def test_a_header_may_come_byte_by_byte(serve: Serve, header: bytes) -> None:
    wire = serve(*PROXY).connect()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header + request("/what"):
        wire.send(bytes((byte,)))
    assert json.loads(wire.reply().body)["client"] == CLIENT


@versions
def test_a_header_at_a_unix_socket(serve: Serve, tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "socket"
    serve(*PROXY, "--proxy-allow-from", "10.0.0.1", bind=f"unix:{path}")
    with Wire(str(path)) as wire:
        wire.send(header)
        assert seen(wire) == (CLIENT, "http")
    with Wire(str(path)) as wire:
        assert seen(wire) == (None, "http")


@pytest.mark.parametrize("header", [b"", b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"])
def test_without_an_address_the_client_is_the_peer(serve: Serve, header: bytes) -> None:
    wire = announced(serve(*PROXY), header)
    assert seen(wire) == (list(wire.socket.getsockname()), "http")


def test_the_access_log_has_the_client_of_the_header(serve: Serve) -> None:
    server = serve(*PROXY, "--access-logfile", "-", "--access-logformat", "seen %(h)s %({REMOTE_PORT}e)s")
    assert announced(server, V2).ask("/what", *FORWARDED).status == 200
    server.log.wait_for("^seen 203.0.113.7 4711$")


@versions
def test_a_peer_that_may_send_no_header_is_forbidden(serve: Serve, header: bytes) -> None:
    server = serve(*PROXY, "--proxy-allow-from", "10.0.0.1")
    wire = announced(server, header)
    assert wire.ask("/what").status == 403
    assert wire.socket.recv(1) == b""
    assert "called" not in server.log
    assert len(server.log.lines("Refused a connection of 127.0.0.1: ")) == 1
    assert server.ask("/hello").status == 200


def test_a_malformed_header_is_a_400(serve: Serve) -> None:
    server = serve(*PROXY)
    assert announced(server, b"PROXY TCP4 nonsense\r\n").ask("/what").status == 400
    assert "called" not in server.log


@pytest.mark.parametrize("sent", [b"", V1[:20], V2[:20]])
def test_a_header_that_never_comes_meets_the_deadline_and_leaves_no_socket(serve: Serve, sent: bytes) -> None:
    server = serve(*PROXY, env={"UVICORN_WORKER_HEAD_TIMEOUT": "1"})
    assert server.connect().ask("/hello").status == 200  # and stays open
    before = sockets(server.worker)
    assert server.connect(sent).socket.recv(1) == b""
    eventually(lambda: sockets(server.worker) == before)


def test_a_worker_that_stops_does_not_wait_for_a_header(serve: Serve) -> None:
    server = serve(*PROXY, "--graceful-timeout", "300", env={"UVICORN_WORKER_HEAD_TIMEOUT": "0"})
    waiting = [server.connect(sent) for sent in (b"", V1[:20], V2[:20])]
    assert announced(server, V1).ask("/hello").status == 200  # so the others have been accepted
    server.process.terminate()
    assert server.wait() == 0
    for wire in waiting:
        assert wire.socket.recv(1) == b""


# Before TLS.


@pytest.fixture
def tls_options(certificate: tuple[str, str]) -> tuple[str, ...]:
    certfile, keyfile = certificate
    return (*PROXY, "--certfile", certfile, "--keyfile", keyfile)


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def over_tls(server: Server, header: bytes, certfile: str) -> Any:
    """The first answer to one request behind the header, in the clear, and TLS."""
    context = ssl.create_default_context(cafile=certfile)
    with socket.create_connection(server.address, DEADLINE) as plain:
        plain.sendall(header)
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(request("/what", "Connection: close"))
            return json.loads(b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[2])


@needs_openssl
@versions
def test_a_header_comes_before_tls(
    serve: Serve, tls_options: tuple[str, ...], certificate: tuple[str, str], header: bytes
) -> None:
    server = serve(*tls_options)
    message = over_tls(server, header, certificate[0])
    assert (message["client"], message["scheme"]) == (CLIENT, "https")
    assert over_tls(server, b"", certificate[0])["client"][0] == "127.0.0.1"


@needs_openssl
@pytest.mark.parametrize("options", [(), ("--proxy-allow-from", "10.0.0.1")])
def test_before_tls_a_bad_header_is_answered_by_closing(
    serve: Serve, tls_options: tuple[str, ...], options: tuple[str, ...]
) -> None:
    server = serve(*tls_options, *options)
    wire = server.connect(V1 if options else b"PROXY TCP4 nonsense\r\n")
    with pytest.raises(ConnectionResetError):  # as it was closed with bytes unread
        wire.socket.recv(1)
    assert len(server.log.lines("Refused a connection of 127.0.0.1: ")) == 1
    assert "Traceback" not in server.log
