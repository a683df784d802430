"""TLS, by Gunicorn's settings."""

import shutil
import socket
import ssl
from pathlib import Path

import pytest

from .client import DEADLINE, request
from .harness import Serve, Server, run_to_its_end

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def tls_server(serve: Serve, certificate: tuple[str, str]) -> Server:
    certfile, keyfile = certificate
    return serve("apps:app", "--certfile", certfile, "--keyfile", keyfile)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_requests_come_over_tls_with_the_scheme_https(tls_server: Server, certificate: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    with socket.create_connection(tls_server.address, DEADLINE) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(request("/what", "Connection: close"))
            reply = read_all(sock)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b'"scheme": "https"' in reply


def test_a_tls_port_never_answers_in_the_clear(tls_server: Server) -> None:
    with socket.create_connection(tls_server.address, DEADLINE) as plain:
        plain.sendall(request("/hello"))
        try:
            assert b"HTTP" not in read_all(plain)
        except ConnectionResetError:
            pass
    assert "called" not in tls_server.log
    assert "Traceback" not in tls_server.log


def test_a_certificate_that_cannot_be_used_stops_the_master(tmp_path: Path, certificate: tuple[str, str]) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    ended = run_to_its_end("apps:app", "--certfile", str(bad), "--keyfile", certificate[1], folder=tmp_path)
    assert ended.status == 3
    assert ended.boots == 1
    assert "certfile" in ended.log
