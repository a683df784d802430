"""The access log where Gunicorn's logger is set up in this way or that, and what becomes of it in bad times."""

import re
import signal
import socket
from pathlib import Path

import pytest

from .client import DEADLINE, request
from .harness import SERVED, Serve, Server, eventually

pytestmark = pytest.mark.unmeasured

ACCESS = ("--access-logfile", "-", "--access-logformat", "access %(U)s %(s)s %(B)s")


def accesses(server: Server, *paths: str) -> list[str]:
    """What is logged of these requests; the last must be logged."""
    start = server.log.position()
    for path in paths:
        server.ask(path)
    server.log.wait_for(rf"^access {paths[-1]} ", after=start)
    return server.log.lines("^access ", after=start)


@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_logging_can_be_configured_in_any_way(serve: Serve, interface: str) -> None:
    conf = """
import json
import logging

class Formatter(logging.Formatter):
    def format(self, record):
        names = ("m", "U", "s", "B", "{user-agent}i", "{x-two}o", "{request_method}e")
        return json.dumps([record.name, *(record.args[name] for name in names)])

def is_no_ping(record):
    return record.args["U"] != "/created"

logconfig_dict = {
    "root": {"level": "INFO", "handlers": ["json"]},
    "loggers": {"gunicorn.access": {"level": "INFO", "handlers": ["json"], "propagate": False, "filters": ["ping"]}},
    "handlers": {"json": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "formatters": {"json": {"()": Formatter}},
    "filters": {"ping": {"()": lambda: is_no_ping}},
}
"""
    server = serve(SERVED[interface][1], conf=conf)
    server.ask("/created")
    server.connect(request("/plain", "User-Agent: me")).reply()
    shown = '["gunicorn.access", "GET", "/plain", "200", 5, "me", "2", "GET"]'
    server.log.wait_for(rf"^{re.escape(shown)}$")
    assert not server.log.lines("^.*/created.*gunicorn.access")


def test_a_filter_that_the_application_adds_is_heeded_soon(serve: Serve) -> None:
    server = serve("log_apps:app", *ACCESS)
    assert accesses(server, "/plain", "/filter") == ["access /plain 200 5", "access /filter 200 5"]
    eventually(lambda: accesses(server, "/plain", "/created") == ["access /created 201 7"])


def test_a_filter_that_the_application_adds_when_it_starts_is_heeded_from_the_first_request(serve: Serve) -> None:
    server = serve("log_apps:asgi", *ACCESS, env={"FILTER": "1"})
    assert accesses(server, "/plain", "/created") == ["access /created 201 7"]


def test_the_file_is_opened_again_after_sigusr1(serve: Serve, tmp_path: Path) -> None:
    file, old = tmp_path / "access.log", tmp_path / "old.log"
    server = serve("log_apps:app", "--access-logfile", "access.log", "--access-logformat", "%(U)s")
    server.ask("/plain")
    eventually(lambda: file.read_text() == "/plain\n")
    file.rename(old)
    server.ask("/created")
    eventually(lambda: old.read_text() == "/plain\n/created\n")
    server.signal(signal.SIGUSR1)
    eventually(lambda: file.exists() and server.ask("/empty") and "/empty\n" in file.read_text())
    before = old.read_text()
    server.ask("/missing")
    eventually(lambda: file.read_text().endswith("/missing\n"))
    assert old.read_text() == before


def test_a_full_disk_is_an_error_and_serving_goes_on(serve: Serve) -> None:
    server = serve("log_apps:app", "--access-logfile", "/dev/full")
    assert [server.ask("/plain").status for _ in range(3)] == [200] * 3
    server.log.wait_for("The access log failed")
    server.log.wait_for("No space left on device")


def test_there_is_no_log_where_none_is_asked_for(serve: Serve) -> None:
    server = serve("log_apps:app", *ACCESS, env={"UVICORN_WORKER_ACCESS_LOG": "no"})
    assert server.ask("/plain").status == 200
    assert server.ask("/created").status == 201
    assert server.log.lines("^access") == []


@pytest.mark.parametrize("option", [(), ("--disable-redirect-access-to-syslog",)], ids=["as it is", "disabled"])
@pytest.mark.parametrize("access", [ACCESS, ACCESS[2:]], ids=["beside a log", "alone"])
def test_syslog_has_the_lines_unless_that_is_disabled(
    serve: Serve, access: tuple[str, ...], option: tuple[str, ...]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.settimeout(DEADLINE)
        syslog.bind(("127.0.0.1", 0))
        address = "udp://{}:{}".format(*syslog.getsockname())
        server = serve("log_apps:app", *access, "--log-syslog", "--log-syslog-to", address, *option)
        assert server.ask("/plain").status == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        told = [syslog.recv(1024)]
        while b"Shutting down: Master" not in told[-1]:
            told.append(syslog.recv(1024))
    assert sum(b"access /plain 200 5" in line for line in told) == (0 if option else 1)


# Otherwise than a WSGI worker.


@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_an_application_that_raises_has_one_line_with_what_was_sent(serve: Serve, interface: str) -> None:
    server = serve(SERVED[interface][1], *ACCESS)
    assert accesses(server, "/raise") == ["access /raise 500 21"]


def test_an_answer_that_is_cut_off_by_the_end_of_its_worker_has_one_line(serve: Serve) -> None:
    server = serve("log_apps:app", *ACCESS)
    wire = server.connect(request("/unfinished"))
    wire.until(b"1\r\na\r\n")
    server.signal(signal.SIGQUIT)
    server.wait()
    assert server.log.lines("^access ") == ["access /unfinished 200 1"]
