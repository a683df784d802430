"""Gunicorn's hooks around requests, as its own WSGI worker calls them, and its statsd."""

import re
import socket
from collections.abc import Iterator

import pytest

from .client import DEADLINE, handshake, request
from .harness import SERVED, Serve, Server, eventually

HOOKS = """
from gunicorn.glogging import Logger


def say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())


def pre_request(worker, req):
    say("before", req.method, req.path, req.query, req.req_number, worker.nr)
    req.mark = "marked"
    if req.query == "before":
        raise ValueError("on purpose")


def post_request(worker, req, environ, resp):
    told = (environ["RAW_URI"], environ.get("HTTP_X_A")) if environ else environ
    say("after", req.mark, req.path, told, resp and (resp.status, resp.sent), worker.nr)
    if req.query == "after":
        raise ValueError("on purpose")


class logger_class(Logger):
    def access(self, resp, req, environ, request_time):
        say("log", getattr(req, "mark", None), resp.status)
"""

#: Requests, how many lines are said of each, and their status.
ASKED = {
    "plain": (request("/plain?a=b", "X-A: 1"), 4, 200),
    "with a body": (request("/created", method="POST", body=b"abc"), 4, 201),
    "refused before": (request("/missing?before"), 3, 500),
    "refused before, with a body": (request("/missing?before", method="POST", body=b"abc"), 3, 500),
    "failed after": (request("/missing?after"), 5, 404),
    "HTTP/1.0": (request("/plain", version="1.0"), 4, 200),
}

_SAID = "^(before|called|after|log) |Exception in post_request hook"


def ask(server: Server, raw: bytes, count: int, status: int) -> list[str]:
    """What hooks, logger and application say of a request."""
    start = server.log.position()
    with server.connect(raw) as wire:
        assert wire.reply().status == status
    eventually(lambda: len(server.log.lines(_SAID, after=start)) >= count)
    return [re.sub("^.*Exception in.*", "exception", line) for line in server.log.lines(_SAID, after=start)]


def test_hooks_are_called_as_by_a_wsgi_worker(serve: Serve) -> None:
    said: dict[str, dict[str, list[str]]] = {}
    for name, (command, app) in SERVED.items():
        server = serve(app, conf=HOOKS, command=command)
        said[name] = {key: ask(server, *asked) for key, asked in ASKED.items()}
        for key in ("refused before", "refused before, with a body"):
            said[name][key].sort()  # The WSGI worker answers after the last hook.
    assert said["gthread"]["plain"] == [
        "before GET /plain a=b 1 0",
        "called /plain",
        "log marked 200 OK",
        "after marked /plain ('/plain?a=b', '1') ('200 OK', 5) 1",
    ]
    assert said["channels"] == said["gthread"]
    assert said["asgi"] == said["gthread"]


def test_a_request_that_is_refused_by_a_hook_keeps_its_connection(serve: Serve) -> None:
    server = serve("log_apps:app", conf=HOOKS)
    wire = server.connect(request("/missing?before") + request("/plain"))
    assert [wire.reply().status, wire.reply().status] == [500, 200]
    server.log.wait_for("^after marked /plain ")
    assert [line.split()[-2:] for line in server.log.lines("^before ")] == [["1", "0"], ["2", "0"]]


ARITIES = {
    "four": "worker, req, environ, resp",
    "three": "worker, req, environ",
    "two": "worker, req",
}


@pytest.mark.parametrize("parameters", ARITIES.values(), ids=ARITIES)
@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_post_request_may_take_fewer_arguments(serve: Serve, interface: str, parameters: str) -> None:
    conf = f"""
def post_request({parameters}):
    os.write(2, b"after %s %d\\n" % (req.uri.encode(), worker.nr))
"""
    server = serve(SERVED[interface][1], conf=conf)
    for number in (1, 2):
        server.ask("/plain?a")
        server.log.wait_for(rf"^after /plain\?a {number}$")


@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_requests_are_in_the_log_at_the_level_of_debugging(serve: Serve, interface: str) -> None:
    server = serve(SERVED[interface][1], "--log-level", "debug")
    server.ask("/plain/%20?a")
    server.log.wait_for(r"\[DEBUG\] GET /plain/%20$")


def test_a_websocket_is_a_request_to_hooks_that_ends_with_its_call(serve: Serve) -> None:
    server = serve("log_apps:asgi", conf=HOOKS)
    with server.websocket("/socket"):
        server.log.wait_for("^log marked 101 ")
        assert server.log.lines(_SAID) == ["before GET /socket  1 0", "log marked 101 Switching Protocols"]
    server.log.wait_for("^after marked /socket ")
    assert server.log.lines(f"{_SAID}|^websocket")[2:] == [
        "websocket websocket.disconnect",
        "after marked /socket ('/socket', None) ('101 Switching Protocols', 0) 1",
    ]


def test_a_websocket_that_a_hook_refuses_is_not_shown_to_the_application(serve: Serve) -> None:
    server = serve("log_apps:asgi", conf=HOOKS)
    assert server.connect(handshake("/socket?before")).reply().status == 500
    server.log.wait_for("^after ")
    assert server.log.lines("^websocket|^after|^log") == [
        "log marked 500 Internal Server Error",
        "after marked /socket {} None 0",
    ]


# statsd


class Statsd:
    """What such a server receives."""

    def __init__(self, received: socket.socket) -> None:
        self._socket = received
        self.address = "{}:{}".format(*received.getsockname())

    def metrics_until(self, last: str) -> list[str]:
        metrics: list[str] = []
        while not metrics or not metrics[-1].startswith(last):
            metrics.append(self._socket.recv(1024).decode())
        return metrics


@pytest.fixture
def statsd() -> Iterator[Statsd]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(DEADLINE)
        receiver.bind(("127.0.0.1", 0))
        yield Statsd(receiver)


@pytest.mark.parametrize("options", [(), ("--access-logfile", "-")], ids=["no log", "log"])
@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_statsd_is_told_of_each_request(serve: Serve, statsd: Statsd, interface: str, options: tuple[str, ...]) -> None:
    tags = ("--statsd-prefix", "my.app", "--dogstatsd-tags", "region:here")
    server = serve(SERVED[interface][1], "--statsd-host", statsd.address, *tags, *options)
    for path, status in (("/plain", 200), ("/missing", 404)):
        assert server.ask(path).status == status
        told = statsd.metrics_until("my.app.gunicorn.request.status")
        metrics = [metric for metric in told if ".request" in metric][-3:]  # The master tells of its workers between.
        assert re.fullmatch(r"my\.app\.gunicorn\.request\.duration:[\d.]+\|ms\|#region:here", metrics[0])
        assert metrics[1:] == [
            "my.app.gunicorn.requests:1|c|@1.0|#region:here",
            f"my.app.gunicorn.request.status.{status}:1|c|@1.0|#region:here",
        ]
    assert len(server.log.lines('"GET /')) == (2 if options else 0)


def test_statsd_is_told_of_handshakes_and_of_what_is_refused(serve: Serve, statsd: Statsd) -> None:
    server = serve("log_apps:asgi", "--statsd-host", statsd.address)
    with server.websocket("/socket"):
        statsd.metrics_until("gunicorn.request.status.101:1|c")
    server.connect(request("/plain", host=None)).reply()
    statsd.metrics_until("gunicorn.request.status.400:1|c")


@pytest.mark.parametrize("logged", [False, True], ids=["no log", "log"])
def test_statsd_is_told_though_the_option_access_log_is_off(serve: Serve, statsd: Statsd, logged: bool) -> None:
    options = ("--access-logfile", "-") if logged else ()
    env = {"UVICORN_WORKER_ACCESS_LOG": "false"}
    server = serve("log_apps:app", "--statsd-host", statsd.address, *options, env=env)
    assert server.ask("/plain").status == 200
    statsd.metrics_until("gunicorn.request.status.200:1|c")
    assert len(server.log.lines('"GET /plain')) == (1 if logged else 0)
