"""Self-signed certificates, and clients that speak TLS."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .client import DEADLINE, request

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def self_signed(folder: Path, name: str = "", subject: str = "/CN=localhost") -> tuple[str, str]:
    """Files of a certificate for localhost, unless for another subject, and of its key."""
    certfile, keyfile = str(folder / f"{name}cert.pem"), str(folder / f"{name}key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2"
    what = ["-subj", subject, "-addext", "subjectAltName=DNS:localhost", "-keyout", keyfile, "-out", certfile]
    subprocess.run([*command.split(), *what], check=True, capture_output=True)
    return certfile, keyfile


def trusting(certfile: str, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    """The context of a client that trusts this certificate, and may have one of its own."""
    context = ssl.create_default_context(cafile=certfile)
    if client is not None:
        context.load_cert_chain(*client)
    return context


@contextmanager
def tls(address: Any, context: ssl.SSLContext, **options: Any) -> Iterator[ssl.SSLSocket]:
    with socket.create_connection(address, DEADLINE) as plain:
        with context.wrap_socket(plain, server_hostname="localhost", **options) as sock:
            yield sock


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def ask(address: Any, context: ssl.SSLContext, path: str = "/hello") -> bytes:
    """All bytes of the reply to one request."""
    with tls(address, context) as sock:
        sock.sendall(request(path, "Connection: close"))
        return read_all(sock)


def is_refused(address: Any, context: ssl.SSLContext) -> bool:
    """Whether a client gets no answer: by TLS 1.3 it may learn of its refusal late."""
    try:
        return ask(address, context) == b""
    except (ssl.SSLError, ConnectionError):
        return True
