"""Gunicorn's settings: what can't be had is refused before any fork, and what means nothing is told of, once."""

import json
import re
import signal
from pathlib import Path

import pytest
from gunicorn.config import make_settings

from uvicorn_worker.gunicorn_settings import REFUSED, WARNED

from .client import request
from .harness import Log, Serve, eventually, needs_setting, run_to_its_end, spawn

#: A value that is not the default, for each setting that is refused.
UNWANTED = {"protocol": "uwsgi", "http_protocols": "h2,h1", "http2_cleartext": "prior-knowledge"}

#: And for each that is told of.
MEANINGLESS = {
    "threads": 4,
    "http_parser": "python",
    "permit_obsolete_folding": True,
    "strip_header_spaces": True,
    "permit_unconventional_http_method": True,
    "permit_unconventional_http_version": True,
    "casefold_http_method": True,
    "suppress_ragged_eofs": False,
}


def test_every_setting_of_the_tables_is_tested() -> None:
    assert UNWANTED.keys() == REFUSED.keys()
    assert MEANINGLESS.keys() == WARNED.keys()


# -- refused


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_setting(name)) for name in UNWANTED])
def test_a_setting_that_cannot_be_had_stops_the_start_with_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "h2.py").write_text("__version__ = '4.1.0'\n")  # Without it, Gunicorn itself refuses HTTP/2.
    ended = run_to_its_end("apps:app", folder=tmp_path, conf=f"{name} = {UNWANTED[name]!r}\n")
    assert (ended.status, ended.boots) == (1, 0)
    (line,) = ended.log.lines("^Error: ")
    assert f"{name} = " in line
    assert UNWANTED[name].partition(",")[0] in line
    assert REFUSED[name] in line
    assert "Traceback" not in ended.log


@needs_setting("protocol")
def test_a_setting_that_cannot_be_had_and_comes_with_a_reload_stops_the_master(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(conf.read_text() + "protocol = 'uwsgi'\n")
    server.signal(signal.SIGHUP)
    assert server.wait() == 3
    assert len(server.log.lines(r"\[ERROR\] protocol = 'uwsgi' can't be had")) == 1
    assert "Traceback" not in server.log


# -- told of


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_setting(name)) for name in MEANINGLESS])
def test_a_setting_that_means_nothing_is_told_of_once_by_the_master(serve: Serve, name: str) -> None:
    server = serve(workers=2, conf=f"{name} = {MEANINGLESS[name]!r}\n")
    assert server.ask("/hello").status == 200
    (line,) = server.log.lines(r"\[WARNING\]")
    assert f"[{server.process.pid}]" in line
    assert f"{name} = {MEANINGLESS[name]!r} " in line
    assert line.endswith(WARNED[name])


def test_settings_at_their_defaults_are_passed_over_in_silence(serve: Serve) -> None:
    known = {**UNWANTED, **MEANINGLESS}.keys() & make_settings().keys()
    defaults = {name: setting.default for name, setting in make_settings().items() if name in known}
    server = serve(conf="".join(f"{name} = {default!r}\n" for name, default in defaults.items()))
    assert server.ask("/hello").status == 200
    assert not server.log.lines(r"\[(WARNING|ERROR)\]")


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ("ca_certs = 'ca.pem'\n", "ca_certs = 'ca.pem'"),
        ("cert_reqs = 2\n", "cert_reqs = 2"),
        ("def ssl_context(config, default): return default()\n", "ssl_context = ssl_context()"),
    ],
)
def test_tls_that_is_half_set_up_is_told_of(serve: Serve, conf: str, told: str) -> None:
    server = serve(conf=conf)
    (line,) = server.log.lines(r"\[WARNING\]")
    assert f"{told} means nothing without certfile" in line


# -- what they mean


@pytest.mark.parametrize(
    ("options", "env", "offered"),
    [
        ((), {}, True),
        (("--no-sendfile",), {}, False),
        ((), {"SENDFILE": "no"}, False),
        (("--no-sendfile",), {"UVICORN_WORKER_PATHSEND": "true"}, True),
    ],
    ids=["default", "setting", "variable", "option"],
)
def test_sendfile_says_whether_files_can_be_sent_by_their_path(
    serve: Serve, options: tuple[str, ...], env: dict[str, str], offered: bool
) -> None:
    server = serve("asgi_apps:app", *options, env=env)
    scope = json.loads(server.ask("/what").body)
    assert ("http.response.pathsend" in scope["extensions"]) is offered


@needs_setting("root_path")
def test_root_path_is_the_one_of_messages(serve: Serve) -> None:
    server = serve("apps:app", "--root-path", "/mounted/")
    assert json.loads(server.ask("/what").body)["root_path"] == "/mounted"


def test_worker_connections_away_from_the_default_is_a_ceiling(serve: Serve) -> None:
    server = serve("apps:app", "--worker-connections", "1", "--keep-alive", "60")
    first = server.connect()
    assert first.ask("/hello").status == 200
    second = server.connect(request("/hello"))
    server.log.wait_for(r"1 connections are open \(worker_connections\)")
    first.close()
    assert second.reply().status == 200


# -- asking beforehand


def check(
    folder: Path, *options: str, app: str = "apps:app", command: str = "uvicorn_worker"
) -> tuple[int, Log]:
    """The exit status and the output of the command with `--check-config` or what else is given."""
    log = Log()
    process = spawn(["-m", command, *options, app], log, cwd=folder)
    try:
        eventually(lambda: process.poll() is not None)
    finally:
        process.kill()
        status = process.wait()
        log.wait_for_end()
    return status, log


@pytest.mark.parametrize("option", ["--check-config", "--print-config"])
def test_the_packages_command_checks_what_the_worker_does(tmp_path: Path, option: str) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    status, log = check(tmp_path, option, "--certfile", "bad.pem")
    assert status == 1
    (line,) = log.lines("TLS can't be set up by certfile = 'bad.pem'")
    assert line.startswith("Error: ")
    assert "Traceback" not in log


@pytest.mark.parametrize("option", ["--check-config", "--print-config"])
@pytest.mark.parametrize(
    ("app", "line"),
    [
        ("apps:not_a_coroutine", "Not an application: apps:not_a_coroutine is not a coroutine function"),
        ("apps:too_many", "Not an application: apps:too_many takes 4 positional arguments"),
        ("apps:nope", "The application could not be loaded: Failed to find attribute 'nope' in 'apps'"),
        ("no_such_module:app", "The application could not be imported: No module named 'no_such_module'"),
        ("folder/apps.py:app", "The application could not be imported: 'folder/apps.py' is a path"),
    ],
)
def test_the_packages_command_checks_the_application_as_a_worker_does(
    tmp_path: Path, app: str, line: str, option: str
) -> None:
    status, log = check(tmp_path, option, app=app)
    assert status == 1
    assert len(log.lines(f"^Error: {re.escape(line)}")) == 1
    assert "Traceback" not in log


@pytest.mark.parametrize("source", ["import no_such_module", "raise RuntimeError('not today')", "1 +"])
def test_the_packages_command_shows_what_the_applications_module_raises(tmp_path: Path, source: str) -> None:
    (tmp_path / "failing.py").write_text(source)
    status, log = check(tmp_path, "--check-config", app="failing:app")
    assert status == 1
    assert len(log.lines("^Traceback")) == 1
    assert log.lines("no_such_module|not today|SyntaxError")


def test_the_packages_command_finds_the_application_where_a_worker_does(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "placed.py").write_text("import os\nfrom apps import app\nos.environ['PLACE']\n")
    options = ("--pythonpath", "elsewhere", "--env", "PLACE=here")
    assert check(tmp_path, "--check-config", *options, app="placed:app")[0] == 0


def test_the_packages_command_makes_an_application_once(tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text("from apps import app\ndef make():\n print('made')\n return app\n")
    status, log = check(tmp_path, "--check-config", app="factory:make()")
    assert (status, log.lines("^made$")) == (0, ["made"])


def test_the_packages_command_warns_when_it_checks(tmp_path: Path) -> None:
    status, log = check(tmp_path, "--check-config", "--threads", "4")
    assert status == 0
    assert len(log.lines("threads = 4 means nothing to this worker")) == 1


def test_the_packages_command_checks_for_other_workers_too(tmp_path: Path) -> None:
    assert check(tmp_path, "--check-config", "-k", "sync")[0] == 0


def test_gunicorns_own_command_asks_no_worker(tmp_path: Path) -> None:
    options = ("-k", "uvicorn_worker.UvicornWorker", "--check-config", "--threads", "4")
    status, log = check(tmp_path, *options, command="gunicorn")
    assert (status, log.lines("threads")) == (0, [])


def test_printing_the_configuration_shows_gunicorns(tmp_path: Path) -> None:
    status, log = check(tmp_path, "--print-config", "--keep-alive", "7")
    assert status == 0
    assert log.lines("^keepalive += 7$")
    assert log.lines("^worker_class += uvicorn_worker.UvicornWorker$")
