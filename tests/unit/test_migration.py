"""Every parameter of ``uvicorn.Config`` is an option by its name, or accepted with a word, or refused with one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import make_settings

from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.migration import FOREIGN
from uvicorn_worker.options import OPTIONS, read_options

#: The parameters of ``uvicorn.Config`` of uvicorn 0.54, with their defaults where these are plain values.
DEFAULTS: dict[str, Any] = {
    "app": ...,
    "host": "127.0.0.1",
    "port": 8000,
    "uds": None,
    "fd": None,
    "loop": "auto",
    "http": "auto",
    "http2": False,
    "ws": "auto",
    "ws_max_size": 16 * 1024 * 1024,
    "ws_max_queue": 32,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "ws_per_message_deflate": True,
    "lifespan": "auto",
    "env_file": None,
    "log_config": {"version": 1},
    "log_level": None,
    "access_log": True,
    "use_colors": None,
    "interface": "auto",
    "reload": False,
    "reload_dirs": None,
    "reload_delay": 0.25,
    "reload_includes": None,
    "reload_excludes": None,
    "workers": None,
    "proxy_headers": True,
    "server_header": True,
    "date_header": True,
    "forwarded_allow_ips": None,
    "root_path": "",
    "limit_concurrency": None,
    "limit_max_requests": None,
    "limit_max_requests_jitter": 0,
    "backlog": 2048,
    "timeout_keep_alive": 5,
    "timeout_notify": 30,
    "timeout_graceful_shutdown": None,
    "timeout_worker_healthcheck": 5,
    "callback_notify": None,
    "ssl_keyfile": None,
    "ssl_certfile": None,
    "ssl_keyfile_password": None,
    "ssl_version": 17,
    "ssl_cert_reqs": 0,
    "ssl_ca_certs": None,
    "ssl_ciphers": None,
    "ssl_context_factory": None,
    "headers": None,
    "factory": False,
    "h11_max_incomplete_event_size": None,
    "reset_contextvars": False,
}

#: What can't be left out without harm.
REFUSED: list[tuple[str, Any, str]] = [
    ("app", "main:app", "command line"),
    ("http2", True, "HTTP/2"),
    ("env_file", ".env", "raw_env"),
    ("ssl_keyfile", "key.pem", "keyfile"),
    ("ssl_certfile", "cert.pem", "certfile"),
    ("ssl_keyfile_password", "secret", "ssl_context hook"),
    ("ssl_cert_reqs", 2, "keyfile"),
    ("ssl_ca_certs", "ca.pem", "keyfile"),
    ("ssl_ciphers", "AES", "keyfile"),
    ("ssl_context_factory", print, "ssl_context"),
    ("factory", True, "create_app()"),
]

#: What means nothing here, and says so.
NOTICED: list[tuple[str, Any, str]] = [
    ("host", "0.0.0.0", "bind"),
    ("port", 80, "bind"),
    ("uds", "/run/a.sock", "bind"),
    ("fd", 3, "bind"),
    ("backlog", 100, "backlog"),
    ("http", "h11", "httptools"),
    ("log_config", {"version": 1}, "logs"),
    ("log_level", "debug", "logs"),
    ("use_colors", True, "logs"),
    ("use_colors", False, "logs"),
    ("reload", True, "reload"),
    ("reload_dirs", ["a"], "reload"),
    ("workers", 4, "workers"),
    ("limit_concurrency", 100, "worker_connections"),
    ("limit_max_requests", 100, "max_requests"),
    ("limit_max_requests_jitter", 10, "max_requests_jitter"),
    ("timeout_notify", 30, "master"),
    ("timeout_graceful_shutdown", 30, "graceful_timeout"),
    ("h11_max_incomplete_event_size", 65536, "limit_request_line"),
]

#: What asks for what is done here anyway.
FINE: list[tuple[str, Any]] = [
    ("http", "auto"),
    ("http", "httptools"),
    ("http2", False),
    ("factory", False),
    ("reload", False),
    ("limit_max_requests_jitter", 0),
    ("reset_contextvars", False),
    ("reset_contextvars", True),
    ("env_file", None),
    ("log_config", None),
    ("workers", None),
    ("ssl_keyfile", None),
    ("ssl_certfile", None),
    ("limit_concurrency", None),
    ("callback_notify", None),
    ("forwarded_allow_ips", None),
    ("uds", None),
]


def read(name: str, value: Any) -> tuple[dict[str, Any], list[str]]:
    notices: list[str] = []
    return read_options({name: value}, {}, notice=notices.append), notices


PAGE = (Path(__file__).parents[2] / "docs" / "asgi3.rst").read_text(encoding="utf-8")

#: What uvicorn's command line takes, and what it takes beside parameters of ``Config``.
FLAGS = {"headers": "header", "reload_dirs": "reload-dir", "reload_includes": "reload-include"}
FLAGS |= {"reload_excludes": "reload-exclude", "app_dir": "app-dir"}

#: Those of Gunicorn that its oldest release here lacks.
NEW_FLAGS = {"--asgi-loop", "--asgi-lifespan", "--root-path"}

#: Parameters that its command line does not take.
UNFLAGGED = {"app", "timeout_notify", "callback_notify", "ssl_context_factory"}


def test_each_option_of_the_command_line_of_uvicorn_is_told_of() -> None:
    flags = {FLAGS.get(name, name.replace("_", "-")) for name in {*DEFAULTS, "app_dir"} - UNFLAGGED}
    rows = re.findall(r"(?m)^   \* - ((?:.+\n)+?)     - ", PAGE)
    assert {flag for row in rows for flag in re.findall(r"``--([\w-]+)``", row)} == flags


def test_each_option_of_gunicorns_that_takes_the_place_of_one_is_there() -> None:
    known = {flag for setting in make_settings().values() for flag in setting.cli or ()}
    cells = re.findall(r"(?m)^     - ((?:.+\n)+?)(?=   \* - |\n|\Z)", PAGE)
    named = {flag for cell in cells for flag in re.findall(r"``(--[\w-]+)", cell)}
    assert len(named) > 20
    assert named - known <= NEW_FLAGS


def test_each_parameter_of_uvicorn_is_an_option_or_has_a_word() -> None:
    assert set(DEFAULTS) == (set(OPTIONS) & set(DEFAULTS)) | set(FOREIGN)


def test_nothing_is_both() -> None:
    assert not set(OPTIONS) & set(FOREIGN)


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_parameter_of_uvicorn_is_unknown(name: str) -> None:
    try:
        options, notices = read(name, "certainly not this")
    except InvalidOption as refusal:
        assert "there is no option" not in str(refusal)
        assert str(refusal).startswith(f"CONFIG_KWARGS['{name}'] = 'certainly not this'")
    else:
        assert options or notices


@pytest.mark.parametrize(("name", "value"), [(name, DEFAULTS[name]) for name in DEFAULTS if name != "app"])
def test_the_defaults_of_uvicorn_are_refused_by_nobody(name: str, value: Any) -> None:
    read(name, value)


@pytest.mark.parametrize(("name", "value", "advice"), REFUSED)
def test_what_can_not_be_ignored_without_harm_is_refused_with_what_to_do(name: str, value: Any, advice: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        read(name, value)
    text = str(refusal.value)
    assert text.startswith(f"CONFIG_KWARGS['{name}'] = {value!r} is no option here: ")
    assert advice in text
    assert "\n" not in text


@pytest.mark.parametrize(("name", "value", "advice"), NOTICED)
def test_what_means_nothing_here_is_accepted_with_what_does_it(name: str, value: Any, advice: str) -> None:
    options, [notice] = read(name, value)
    assert options == {}
    assert notice.startswith(f"CONFIG_KWARGS['{name}'] = {value!r} means nothing here: ")
    assert advice in notice
    assert "\n" not in notice


@pytest.mark.parametrize(("name", "value"), FINE)
def test_what_is_done_anyway_needs_no_word(name: str, value: Any) -> None:
    assert read(name, value) == ({}, [])


def test_nobody_need_listen_to_notices() -> None:
    assert read_options({"host": "0.0.0.0", "workers": 4}, {}) == {}


def test_notices_and_options_can_be_given_together() -> None:
    notices: list[str] = []
    options = read_options({"port": 80, "timeout_keep_alive": 7, "reload": True}, {}, notice=notices.append)
    assert options == {"keepalive": 7.0}
    assert len(notices) == 2


def test_a_parameter_in_the_environment_is_unknown() -> None:
    with pytest.raises(InvalidOption, match="there is no option 'workers'"):
        read_options({}, {"UVICORN_WORKER_WORKERS": "4"})
