"""TLS, by Gunicorn's settings."""

import os
import pwd
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from .certificates import ask, is_refused, needs_openssl, read_all, self_signed, tls, trusting
from .client import DEADLINE, Wire, refuses_connections, request
from .harness import HOOKS, Serve, Server, eventually, run_to_its_end

pytestmark = needs_openssl

HUP = signal.SIGHUP


def files(certificate: tuple[str, str]) -> list[str]:
    return ["--certfile", certificate[0], "--keyfile", certificate[1]]


@pytest.fixture
def tls_server(serve: Serve, certificate: tuple[str, str]) -> Server:
    return serve("apps:app", *files(certificate))


def test_requests_come_over_tls_with_the_scheme_https(tls_server: Server, certificate: tuple[str, str]) -> None:
    reply = ask(tls_server.address, trusting(certificate[0]), "/what")
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


def test_each_worker_of_reuse_port_speaks_tls(serve: Serve, certificate: tuple[str, str]) -> None:
    with socket.socket() as reserved:  # bound, not listening: it holds the port and gets nothing
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        host, port = reserved.getsockname()
        serve("apps:app", "--reuse-port", *files(certificate), bind=f"{host}:{port}")
        assert ask((host, port), trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")


# -- a context that cannot be made


@pytest.mark.parametrize(
    ("options", "conf", "told"),
    [
        (["--certfile", "bad.pem"], "", "certfile holds no certificate in PEM"),
        (["--keyfile", "bad.pem"], "", "keyfile holds no private key in PEM"),
        (["--keyfile", "otherkey.pem"], "", "keyfile = 'otherkey.pem'"),
        (["--ca-certs", "nowhere.pem"], "", "ca_certs can't be read: No such file or directory"),
        (["--cert-reqs", "7"], "", "cert_reqs = 7"),
        (["--ciphers", "none such"], "", "ciphers = 'none such'"),
        ([], "def ssl_context(config, default): 1 / 0\n", "ssl_context = ssl_context(): ZeroDivisionError"),
        ([], "def ssl_context(config, default): default()\n", "the hook returned None, not an ssl.SSLContext"),
    ],
    ids=["certfile", "keyfile", "wrong key", "ca_certs", "cert_reqs", "ciphers", "hook raises", "hook forgets"],
)
def test_tls_that_cannot_be_set_up_stops_the_start_with_one_line(
    tmp_path: Path, certificate: tuple[str, str], options: list[str], conf: str, told: str
) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    self_signed(tmp_path, "other")
    ended = run_to_its_end("apps:app", *files(certificate), *options, folder=tmp_path, conf=conf)
    assert (ended.status, ended.boots) == (1, 0)
    (line,) = ended.log.lines("TLS can't be set up")
    assert line.startswith("Error: ")
    assert told in line
    assert "Traceback" not in ended.log


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, as a master is that changes its workers' user")
def test_workers_of_another_user_need_not_be_able_to_read_the_key(serve: Serve, certificate: tuple[str, str]) -> None:
    os.chmod(certificate[1], 0o600)
    server = serve("apps:app", "--preload", "--user", "nobody", *files(certificate), workers=2)
    assert {os.stat(f"/proc/{pid}").st_uid for pid in server.ready_workers()} == {pwd.getpwnam("nobody").pw_uid}
    assert ask(server.address, trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")
    assert not server.log.lines(r"\[(WARNING|ERROR)\]")


def test_ciphers_are_those_of_the_setting(serve: Serve, certificate: tuple[str, str]) -> None:
    cipher, other = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    server = serve("apps:app", *files(certificate), "--ciphers", cipher)
    context = trusting(certificate[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(other)
    assert is_refused(server.address, context)
    context.set_ciphers(f"{other}:{cipher}")
    assert ask(server.address, context).startswith(b"HTTP/1.1 200 ")


# -- the hook


def test_the_hook_makes_the_context_once_in_the_master(serve: Serve, certificate: tuple[str, str]) -> None:
    hook = """
def ssl_context(config, default_ssl_context_factory):
    import ssl
    os.write(2, b"the hook runs in %d\\n" % os.getpid())
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
"""
    server = serve("apps:app", *files(certificate), workers=2, conf=hook)
    assert server.log.lines("^the hook runs in ") == [f"the hook runs in {server.process.pid}"]
    context = trusting(certificate[0])
    assert ask(server.address, context).startswith(b"HTTP/1.1 200 ")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert is_refused(server.address, context)


def test_a_key_with_a_password_can_be_loaded_by_the_hook(serve: Serve, certificate: tuple[str, str]) -> None:
    key = f"{certificate[1]}.encrypted"
    command = ["openssl", "pkey", "-in", certificate[1], "-out", key, "-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    hook = """
def ssl_context(config, default_ssl_context_factory):
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config.certfile, config.keyfile, "secret")
    return context
"""
    server = serve("apps:app", *files((certificate[0], key)), conf=hook)
    assert ask(server.address, trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")


# -- certificates of clients


def test_a_client_certificate_is_required_where_the_settings_say_so(
    tmp_path: Path, serve: Serve, certificate: tuple[str, str]
) -> None:
    known, unknown = self_signed(tmp_path, "known"), self_signed(tmp_path, "unknown")
    server = serve("apps:app", *files(certificate), "--ca-certs", known[0], "--cert-reqs", "2")
    assert ask(server.address, trusting(certificate[0], known)).startswith(b"HTTP/1.1 200 ")
    assert is_refused(server.address, trusting(certificate[0]))
    assert is_refused(server.address, trusting(certificate[0], unknown))
    assert len(server.log.lines("^called")) == 1
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")


# -- the handshake's deadline


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "its beginning"])
def test_a_handshake_that_stalls_is_ended(serve: Serve, certificate: tuple[str, str], sent: bytes) -> None:
    soon = "import uvicorn_worker.accept\nuvicorn_worker.accept.TLS_HANDSHAKE_TIMEOUT = 0.5\n"
    server = serve("apps:app", *files(certificate), "--worker-connections", "1", conf=soon)
    with Wire(server.address) as stalled:
        stalled.send(sent)
        try:
            assert stalled.socket.recv(1) == b""
        except ConnectionResetError:
            pass
    assert ask(server.address, trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "its beginning"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_handshake_that_stalls_holds_no_stop(
    serve: Serve, certificate: tuple[str, str], sent: bytes, loop: str
) -> None:
    env = {"UVICORN_WORKER_LOOP": loop}
    never = "import uvicorn_worker.accept\nuvicorn_worker.accept.TLS_HANDSHAKE_TIMEOUT = 600\n"
    server = serve("apps:app", *files(certificate), "--graceful-timeout", "600", conf=HOOKS + never, env=env)
    with Wire(server.address) as stalled:
        stalled.send(sent)
        assert stalled.stays_silent(0.3)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert f"^worker_exit {server.worker}" in server.log
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]|never retrieved|was destroyed")


# -- one context for all workers


def replace_worker(server: Server) -> None:
    start = server.log.position()
    server.signal(signal.SIGKILL, server.worker)
    server.wait_for_new_worker(start)


def shown_by(server: Server) -> str:
    """The certificate that clients get to see."""
    return ssl.get_server_certificate(server.address, timeout=DEADLINE)


def test_a_worker_that_is_replaced_needs_no_files(serve: Serve, certificate: tuple[str, str]) -> None:
    server = serve("apps:app", *files(certificate))
    context = trusting(certificate[0])
    for file in certificate:
        os.unlink(file)
    replace_worker(server)
    assert ask(server.address, context).startswith(b"HTTP/1.1 200 ")
    assert len(server.log.lines(r"\[ERROR\] TLS can't be set up by certfile = .*of before stays in use")) == 1
    replace_worker(server)
    assert ask(server.address, context).startswith(b"HTTP/1.1 200 ")
    assert len(server.log.lines(r"\[ERROR\] TLS can't")) == 1


@pytest.mark.parametrize("hook", ["", "def ssl_context(config, default): return default()\n"], ids=["", "hook"])
def test_a_worker_that_is_replaced_takes_a_renewed_certificate_as_soon_as_its_key_is_there(
    tmp_path: Path, serve: Serve, certificate: tuple[str, str], hook: str
) -> None:
    server = serve("apps:app", *files(certificate), conf=hook)
    old, key = shown_by(server), Path(certificate[1]).read_bytes()
    self_signed(tmp_path)
    new_key = Path(certificate[1]).read_bytes()
    Path(certificate[1]).write_bytes(key)
    replace_worker(server)
    assert shown_by(server) == old
    Path(certificate[1]).write_bytes(new_key)
    replace_worker(server)
    assert shown_by(server) != old
    assert ask(server.address, trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")


def test_a_session_is_resumed_by_any_worker(serve: Serve, certificate: tuple[str, str]) -> None:
    server = serve("apps:app", *files(certificate), workers=2)
    context = trusting(certificate[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions a client has as soon as it is connected

    def pid_of(sock: ssl.SSLSocket) -> bytes:
        sock.sendall(request("/pid", "Connection: close"))
        return read_all(sock).rpartition(b"\r\n")[2]

    with tls(server.address, context) as sock:
        session, first = sock.session, pid_of(sock)

    def another_resumes() -> bool:
        with tls(server.address, context, session=session) as sock:
            assert sock.session_reused
            return pid_of(sock) != first

    eventually(another_resumes)


# -- reloading


def reload(server: Server) -> None:
    """HUP, and the new worker alone is there."""
    old, start = server.worker, server.log.position()
    server.signal(HUP)
    server.wait_for_new_worker(start)
    server.log.wait_for(rf"Worker exiting \(pid: {old}\)", after=start)


def test_a_reload_takes_a_renewed_certificate(tmp_path: Path, serve: Serve, certificate: tuple[str, str]) -> None:
    server = serve("apps:app", *files(certificate))
    old = shown_by(server)
    self_signed(tmp_path)
    reload(server)
    assert shown_by(server) != old
    assert ask(server.address, trusting(certificate[0])).startswith(b"HTTP/1.1 200 ")


def test_a_reload_amid_a_renewal_keeps_the_certificate_of_before(
    tmp_path: Path, serve: Serve, certificate: tuple[str, str]
) -> None:
    server = serve("apps:app", *files(certificate))
    old, key = shown_by(server), Path(certificate[1]).read_bytes()
    self_signed(tmp_path)
    new_key = Path(certificate[1]).read_bytes()
    Path(certificate[1]).write_bytes(key)
    reload(server)
    assert len(server.log.lines(r"\[ERROR\] TLS can't be set up by certfile = .*of before stays in use")) == 1
    assert shown_by(server) == old
    Path(certificate[1]).write_bytes(new_key)
    reload(server)
    assert shown_by(server) != old


@pytest.mark.parametrize(
    "conf",
    ["ca_certs = 'nowhere.pem'\n", "def ssl_context(config, default): 1 / 0\n"],
    ids=["other settings", "a hook"],
)
def test_a_reload_to_other_settings_that_fail_stops_the_master_and_answers_nobody_in_the_clear(
    tmp_path: Path, serve: Serve, certificate: tuple[str, str], conf: str
) -> None:
    server = serve("apps:app", *files(certificate))
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(path.read_text() + conf)
    server.signal(HUP)
    assert server.wait() == 3
    assert len(server.log.lines(r"\[ERROR\] TLS can't be set up")) == 1
    assert "Traceback" not in server.log
    assert refuses_connections(*server.address)


def test_a_reload_that_begins_tls_and_fails_stops_the_master(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    (tmp_path / "bad.pem").write_text("no certificate")
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(path.read_text() + "certfile = 'bad.pem'\n")
    server.signal(HUP)
    assert server.wait() == 3
    assert len(server.log.lines(r"\[ERROR\] TLS can't be set up by certfile = 'bad.pem'")) == 1
