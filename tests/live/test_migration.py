"""Configurations made for uvicorn's worker, as they come over."""

import re
from pathlib import Path

import pytest

from .harness import Serve, run_to_its_end
from .test_boot import subclass

pytestmark = pytest.mark.unmeasured

COMMAND = ("-m", "gunicorn")
APP = "asgi_apps:app"


@pytest.mark.parametrize(
    "options",
    [
        "{'loop': 'uvloop', 'http': 'httptools', 'ws': 'websockets'}",
        "{'loop': 'auto', 'http': 'auto', 'ws': 'auto', 'lifespan': 'auto', 'interface': 'asgi3'}",
        "{'loop': 'asyncio', 'access_log': False, 'root_path': '', 'ws_max_size': 1024, 'timeout_keep_alive': 60}",
        "{'log_level': None, 'reload': False, 'ssl_keyfile': None, 'factory': False}",
        "{'proxy_headers': True, 'forwarded_allow_ips': '*'}",
    ],
)
def test_options_that_mean_the_same_here_are_taken_without_a_word(serve: Serve, options: str) -> None:
    server = serve(APP, command=COMMAND, conf=subclass(options))
    assert server.ask("/hello").body == b"hello"
    assert not server.log.lines(r"\[(WARNING|ERROR)\]")


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("'log_level': 'debug'", "Gunicorn's settings for logs do that"),
        ("'workers': 4", "Gunicorn's workers does that"),
        ("'host': '0.0.0.0'", "Gunicorn's bind says where to listen"),
        ("'http': 'h11'", "HTTP/1.1 is parsed by httptools"),
        ("'limit_max_requests': 100", "Gunicorn's max_requests does that"),
    ],
)
def test_an_option_without_a_meaning_here_is_told_of_once_by_the_master(serve: Serve, option: str, advice: str) -> None:
    server = serve(APP, command=COMMAND, conf=subclass(f"{{{option}}}"), workers=2)
    assert server.ask("/hello").body == b"hello"
    lines = server.log.lines(r"\[WARNING\]")
    assert len(lines) == 1
    assert f"[{server.process.pid}]" in lines[0]
    assert option.split("'")[1] in lines[0]
    assert advice in lines[0]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("'ssl_keyfile': 'key.pem'", "Gunicorn's keyfile, certfile and their kin do that"),
        ("'factory': True", "name a call, as in app:create_app()"),
        ("'env_file': '.env'", "set Gunicorn's raw_env"),
        ("'app': 'other:app'", "Gunicorn's command line names the application"),
        ("'no_such_option': 1", "there is no option 'no_such_option'"),
        ("'interface': 'wsgi'", "expected one of auto, channels, asgi3"),
        ("'lifespan': 'maybe'", "expected one of auto, on, off"),
        ("'forwarded_allow_ips': '10.0.0.1/8'", "'10.0.0.1/8' is no network; did you mean '10.0.0.0/8'?"),
        ("'loop': 'trio'", "expected one of auto, uvloop, asyncio"),
    ],
)
def test_an_option_that_cannot_be_ignored_stops_the_start_with_one_line(tmp_path: Path, option: str, told: str) -> None:
    ended = run_to_its_end(APP, folder=tmp_path, command=COMMAND, conf=subclass(f"{{{option}}}"))
    assert (ended.status, ended.boots) == (1, 0)
    assert len(ended.log.lines(re.escape(told))) == 1
    assert "Traceback" not in ended.log


def test_ws_none_serves_no_websockets(serve: Serve) -> None:
    server = serve(APP, command=COMMAND, conf=subclass("{'ws': 'none'}"))
    wire = server.connect()
    asked = wire.ask("/hello", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert (asked.status, asked.body) == (200, b"hello")


def test_the_h11_worker_serves_with_a_notice(serve: Serve) -> None:
    server = serve(APP, command=(*COMMAND, "-k", "uvicorn_worker.UvicornH11Worker"), workers=2)
    assert server.ask("/hello").body == b"hello"
    lines = server.log.lines(r"\[WARNING\]")
    assert len(lines) == 1
    assert "UvicornH11Worker is UvicornWorker by another name" in lines[0]
