"""Options from keyword arguments and the environment, and Gunicorn's settings at and away from their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from gunicorn.config import Config

from uvicorn_worker.config import OPTIONS, Settings, read_options
from uvicorn_worker.errors import InvalidOption


def settings_of(options: dict[str, Any] | None = None, **gunicorn: Any) -> Settings:
    cfg = Config()
    for name, value in gunicorn.items():
        cfg.set(name, value)
    return Settings.from_gunicorn(cfg, read_options(options or {}, {}))


# Options.


def test_without_options_there_are_none() -> None:
    assert read_options({}, {"PATH": "/bin", "UVICORN_WORKERS": "5"}) == {}


VALUES = [
    ("root_path", "", ""),
    ("root_path", "/", ""),
    ("root_path", "/mount", "/mount"),
    ("root_path", "/mount/", "/mount"),
    ("headers", [], ()),
    ("headers", [("X-A", "b"), (b"x-c", b" d ")], ((b"X-A", b"b"), (b"x-c", b"d"))),
    ("headers", [["x-a", "caf\xe9"]], ((b"x-a", b"caf\xe9"),)),
    ("headers", "x-a: b\nx-c:d: e\n\n", ((b"x-a", b"b"), (b"x-c", b"d: e"))),
    ("headers", "", ()),
    ("server_header", True, b"uvicorn-worker"),
    ("server_header", False, b""),
    ("server_header", "off", b""),
    ("server_header", "mine/1.0 (of Debian)", b"mine/1.0 (of Debian)"),
    ("date_header", False, False),
    ("date_header", "no", False),
    ("date_header", "TRUE", True),
    ("date_header", 1, True),
    ("head_timeout", 5, 5.0),
    ("head_timeout", "2.5", 2.5),
    ("head_timeout", 0, 0.0),
    ("linger_timeout", "0", 0.0),
    ("pipelined_requests", "1", 1),
    ("pipelined_requests", 100, 100),
    ("request_body_buffer", 1, 1),
    ("unread_body_limit", "0", 0),
    ("ws_max_size", 0, 0),
    ("ws_max_size", "1048576", 1048576),
    ("ws_max_queue", 1, 1),
    ("ws_max_queue", "64", 64),
    ("ws_ping_interval", 5, 5.0),
    ("ws_ping_interval", "2.5", 2.5),
    ("ws_ping_interval", 0, 0.0),
    ("ws_ping_interval", None, 0.0),
    ("ws_ping_interval", "none", 0.0),
    ("ws_ping_timeout", "30", 30.0),
    ("ws_ping_timeout", None, 0.0),
    ("ws_ping_timeout", "none", 0.0),
    ("ws_close_timeout", "5", 5.0),
    ("ws_close_timeout", 0, 0.0),
    ("ws_per_message_deflate", False, False),
    ("ws_per_message_deflate", "off", False),
    ("ws_context_takeover", True, True),
    ("ws_context_takeover", "yes", True),
]


@pytest.mark.parametrize(("name", "given", "value"), VALUES)
def test_an_option_of_the_worker_class(name: str, given: Any, value: Any) -> None:
    options = read_options({name: given}, {})
    assert options == {name: value}
    assert getattr(Settings(**options), name) == value


@pytest.mark.parametrize(("name", "given", "value"), [value for value in VALUES if isinstance(value[1], str)])
def test_an_option_of_the_environment(name: str, given: str, value: Any) -> None:
    assert read_options({}, {f"UVICORN_WORKER_{name.upper()}": given, "OTHER": "x"}) == {name: value}


def test_the_environment_wins() -> None:
    options = read_options({"head_timeout": 5, "root_path": "/a"}, {"UVICORN_WORKER_HEAD_TIMEOUT": "7"})
    assert options == {"head_timeout": 7.0, "root_path": "/a"}


BAD_VALUES = [
    ("root_path", "mount", "begins with '/'"),
    ("root_path", None, "begins with '/'"),
    ("root_path", b"/mount", "begins with '/'"),
    ("headers", 5, "pairs"),
    ("headers", [("x-a",)], ""),
    ("headers", [("x-a", "b", "c")], ""),
    ("headers", [("x-a", 5)], "expected text"),
    ("headers", [("x a", "b")], "'x a' is no field name"),
    ("headers", [("", "b")], "is no field name"),
    ("headers", "no colon at all: but with spaces", "is no field name"),
    ("headers", [("x-a", "b\r\nevil: c")], "is no field value"),
    ("headers", [("x-a", "b\0")], "is no field value"),
    ("headers", [("x-a", "\u20ac")], ""),
    ("headers", [("Content-Length", "5")], "the server's to set"),
    ("headers", [("transfer-encoding", "chunked")], "the server's to set"),
    ("headers", [("Connection", "close")], "the server's to set"),
    ("server_header", "a\nb", "is no field value"),
    ("server_header", 5, "expected text"),
    ("date_header", "maybe", "true or false"),
    ("date_header", None, "true or false"),
    ("head_timeout", "soon", "a number of seconds"),
    ("head_timeout", None, "a number of seconds"),
    ("head_timeout", -1, "0 or more"),
    ("head_timeout", "inf", "0 or more"),
    ("head_timeout", "nan", "0 or more"),
    ("linger_timeout", [], "a number of seconds"),
    ("pipelined_requests", 0, "1 or more"),
    ("pipelined_requests", -5, "1 or more"),
    ("pipelined_requests", "many", "a whole number"),
    ("pipelined_requests", 1.5, "a whole number"),
    ("pipelined_requests", True, "a whole number"),
    ("request_body_buffer", 0, "1 or more"),
    ("request_body_buffer", "64K", "a whole number"),
    ("unread_body_limit", -1, "0 or more"),
    ("ws_max_size", -1, "0 or more"),
    ("ws_max_size", "16M", "a whole number"),
    ("ws_max_size", None, "a whole number"),
    ("ws_max_queue", 0, "1 or more"),
    ("ws_max_queue", 1.5, "a whole number"),
    ("ws_ping_interval", "soon", "a number of seconds"),
    ("ws_ping_interval", -1, "0 or more"),
    ("ws_ping_timeout", "nan", "0 or more"),
    ("ws_ping_timeout", [], "a number of seconds"),
    ("ws_close_timeout", None, "a number of seconds"),
    ("ws_close_timeout", -5, "0 or more"),
    ("ws_per_message_deflate", "maybe", "true or false"),
    ("ws_per_message_deflate", None, "true or false"),
    ("ws_context_takeover", 12, "true or false"),
]


@pytest.mark.parametrize(("name", "given", "named"), BAD_VALUES)
def test_a_bad_value_is_named_with_its_source_in_one_line(name: str, given: Any, named: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        read_options({name: given}, {})
    text = str(refusal.value)
    assert text.startswith(f"CONFIG_KWARGS['{name}'] = {given!r}: ")
    assert named in text
    assert "\n" not in text


def test_a_bad_value_of_the_environment_is_named_with_its_variable() -> None:
    with pytest.raises(InvalidOption, match=r"UVICORN_WORKER_HEAD_TIMEOUT = 'soon': expected a number of seconds"):
        read_options({}, {"UVICORN_WORKER_HEAD_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("head_timout", "head_timeout"),
        ("root-path", "root_path"),
        ("header", "headers"),
        ("pipelined", "pipelined_requests"),
        ("date_headers", "date_header"),
        ("ws_ping_intervall", "ws_ping_interval"),
        ("WS_MAX_SIZE", "ws_max_size"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(name: str, nearest: str) -> None:
    with pytest.raises(InvalidOption, match=f"there is no option '{name}'; did you mean '{nearest}'"):
        read_options({name: 1}, {})


@pytest.mark.parametrize("name", ["", "zzz"])
def test_an_unknown_name_that_is_near_to_none_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"there is no option '{name}'") as refusal:
        read_options({name: 1}, {})
    assert "root_path" in str(refusal.value)


def test_an_unknown_variable_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(InvalidOption, match="UVICORN_WORKER_ROOTPATH: there is no option 'rootpath'.*'root_path'"):
        read_options({}, {"UVICORN_WORKER_ROOTPATH": "/a"})


@pytest.mark.parametrize(
    "variable",
    ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"],
)
def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_option(variable: str) -> None:
    assert read_options({}, {f"UVICORN_WORKER_{variable}": "tcp://10.0.0.1:80"}) == {}


#: Options by the names that uvicorn has for them, and the fields of Settings that they set.
NAMED_AS_IN_UVICORN = [
    ("timeout_keep_alive", 7, "keepalive", 7.0),
    ("timeout_keep_alive", "0", "keepalive", 0.0),
    ("access_log", False, "access_log", False),
    ("access_log", "on", "access_log", True),
    ("loop", "auto", "loop", "uvloop"),
    ("loop", "uvloop", "loop", "uvloop"),
    ("loop", "asyncio", "loop", "asyncio"),
    ("ws", "auto", "ws", True),
    ("ws", "websockets", "ws", True),
    ("ws", "websockets-sansio", "ws", True),
    ("ws", "wsproto", "ws", True),
    ("ws", type("Protocol", (), {}), "ws", True),
    ("ws", "none", "ws", False),
    ("interface", "auto", "interface", "auto"),
    ("interface", "asgi3", "interface", "asgi3"),
    ("interface", "channels", "interface", "channels"),
    ("lifespan", "auto", "lifespan", "auto"),
    ("lifespan", "on", "lifespan", "on"),
    ("lifespan", "off", "lifespan", "off"),
    ("lifespan_timeout", 5, "lifespan_timeout", 5.0),
    ("lifespan_timeout", "0", "lifespan_timeout", 0.0),
]


@pytest.mark.parametrize(("name", "given", "field", "value"), NAMED_AS_IN_UVICORN)
def test_an_option_by_the_name_that_uvicorn_has_for_it(name: str, given: Any, field: str, value: Any) -> None:
    options = read_options({name: given}, {})
    assert options == {field: value}
    assert getattr(Settings(**options), field) == value
    if isinstance(given, str):
        assert read_options({}, {f"UVICORN_WORKER_{name.upper()}": given}) == options


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        ("timeout_keep_alive", None, "a number of seconds"),
        ("timeout_keep_alive", -1, "0 or more"),
        ("access_log", None, "true or false"),
        ("loop", "trio", "one of auto, uvloop, asyncio"),
        ("loop", None, "one of auto, uvloop, asyncio"),
        ("ws", "wsgi", "one of auto, websockets"),
        ("interface", "wsgi", "one of auto, channels, asgi3"),
        ("interface", "asgi2", "one of auto, channels, asgi3"),
        ("lifespan", "maybe", "one of auto, on, off"),
        ("lifespan", True, "one of auto, on, off"),
        ("lifespan_timeout", None, "a number of seconds"),
    ],
)
def test_a_bad_value_of_such_an_option_is_named(name: str, given: Any, named: str) -> None:
    with pytest.raises(InvalidOption, match=named) as refusal:
        read_options({name: given}, {})
    assert str(refusal.value).startswith(f"CONFIG_KWARGS['{name}'] = {given!r}: ")


def test_uvicorns_name_of_keepalive_wins_over_gunicorns_setting() -> None:
    assert settings_of(keepalive=75).keepalive == 75
    assert settings_of({"timeout_keep_alive": 5}, keepalive=75).keepalive == 5.0


def test_the_environment_wins_over_uvicorns_names() -> None:
    options = read_options({"timeout_keep_alive": 5}, {"UVICORN_WORKER_TIMEOUT_KEEP_ALIVE": "7"})
    assert options == {"keepalive": 7.0}


@pytest.mark.parametrize("given", [None, ["root_path"], "root_path=/a"])
def test_options_that_are_no_dictionary_are_refused(given: Any) -> None:
    with pytest.raises(InvalidOption, match="CONFIG_KWARGS must be a dictionary of options"):
        read_options(given, {})


def test_what_gunicorn_has_a_setting_for_is_no_option() -> None:
    for name in ("keepalive", "timeout", "graceful_timeout", "worker_connections", "limit_request_line"):
        assert name not in OPTIONS
        with pytest.raises(InvalidOption):
            read_options({name: 5}, {})


def test_options_are_tried_in_the_form_in_which_defaults_are() -> None:
    for name, convert in OPTIONS.items():
        default = getattr(Settings(), "keepalive" if name == "timeout_keep_alive" else name)
        assert convert(default) == default


@pytest.mark.parametrize("url", ["local://", "local:///run/app"])
def test_engines_of_groups_are_named_by_urls(url: str) -> None:
    assert read_options({"groups": url}, {}) == read_options({}, {"UVICORN_WORKER_GROUPS": url}) == {"groups": url}


@pytest.mark.parametrize("url", ["", "local", "local://host/x", "local://?x", "local:x", "http://x", None, 5, b"local://"])
def test_other_engines_of_groups_are_refused(url: Any) -> None:
    with pytest.raises(InvalidOption, match="expected .*'local://'"):
        read_options({"groups": url}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("groups_max_size", 0), ("groups_max_size", 1 << 30), ("groups_max_backlog", 0), ("groups_gap", "shut")],
)
def test_bounds_of_groups_are_checked(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=name):
        read_options({name: value}, {})


# Settings.


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().timeout = 5.0  # type: ignore[misc]


def test_the_numbers_that_are_promised() -> None:
    settings = settings_of()
    assert settings.head_timeout == 10.0
    assert settings.linger_timeout == 2.0
    assert settings.pipelined_requests == 20
    assert settings.request_body_buffer == 64 * 1024
    assert settings.unread_body_limit == 64 * 1024
    assert settings.ws_max_queue == 32
    assert settings.ws_max_size == 16 * 1024 * 1024
    assert (settings.groups, settings.groups_gap) == ("local://", "log")
    assert settings.groups_max_size == 16 * 1024 * 1024
    assert settings.groups_max_backlog == 1024 * 1024
    assert settings.ws_ping_interval == settings.ws_ping_timeout == 20.0
    assert settings.ws_close_timeout == 10.0
    assert settings.ws_per_message_deflate is True
    assert settings.ws_context_takeover is False
    assert settings.server_header == b"uvicorn-worker"
    assert settings.date_header is True
    assert settings.keepalive == 2
    assert settings.timeout == settings.graceful_timeout == 30
    assert settings.loop == "uvloop"
    assert settings.interface == settings.lifespan == "auto"
    assert settings.lifespan_timeout == 300.0
    assert settings.disconnect_grace is None
    assert settings.access_log is True
    assert settings.ws is True


def test_at_gunicorns_defaults_a_head_may_have_64_kib_and_1000_fields() -> None:
    settings = settings_of()
    assert settings.request_line_limit == 0
    assert settings.field_size_limit == 0
    assert settings.field_count_limit == 1000
    assert settings.head_limit == 64 * 1024
    assert not settings.has_tight_limits


def test_gunicorns_limits_count_when_they_are_set() -> None:
    settings = settings_of(limit_request_line=2000, limit_request_fields=50, limit_request_field_size=1000)
    assert settings.request_line_limit == 2000
    assert settings.field_count_limit == 50
    assert settings.field_size_limit == 1000
    assert settings.head_limit == 64 * 1024
    assert settings.has_tight_limits


def test_one_limit_that_is_set_leaves_the_others_alone() -> None:
    assert settings_of(limit_request_line=2000).field_count_limit == 1000
    assert settings_of(limit_request_fields=50).request_line_limit == 0
    assert settings_of(limit_request_field_size=1000).field_count_limit == 1000


def test_a_limit_that_is_set_to_its_default_is_not_set() -> None:
    settings = settings_of(limit_request_line=4094, limit_request_fields=100, limit_request_field_size=8190)
    assert settings == settings_of()


def test_a_head_has_room_for_limits_that_are_set_high() -> None:
    settings = settings_of(limit_request_field_size=64 * 1024, limit_request_fields=200)
    assert settings.head_limit >= 200 * 64 * 1024
    assert settings_of(limit_request_field_size=8191).head_limit >= 100 * 8191


def test_unlimited_is_still_bounded_by_the_head() -> None:
    settings = settings_of(limit_request_line=0, limit_request_fields=32768, limit_request_field_size=0)
    assert settings.request_line_limit == 0
    assert settings.field_size_limit == 0
    assert settings.field_count_limit == 32768
    assert settings.head_limit == 64 * 1024


def test_worker_connections_is_a_ceiling_when_it_is_set() -> None:
    assert settings_of().worker_connections == 0
    assert settings_of(worker_connections=1000).worker_connections == 0
    assert settings_of(worker_connections=999).worker_connections == 999
    assert settings_of(worker_connections=5000).worker_connections == 5000


def test_gunicorns_times() -> None:
    settings = settings_of(keepalive=75, timeout=120, graceful_timeout=15)
    assert (settings.keepalive, settings.timeout, settings.graceful_timeout) == (75, 120, 15)
    assert settings_of(keepalive=0).keepalive == 0


needs_asgi_settings = pytest.mark.skipif("asgi_loop" not in Config().settings, reason="this Gunicorn has no asgi_loop")


@needs_asgi_settings
@pytest.mark.parametrize(("given", "loop"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_gunicorns_asgi_loop(given: str, loop: str) -> None:
    assert settings_of(asgi_loop=given).loop == loop


@needs_asgi_settings
def test_the_loop_gives_way_to_the_option() -> None:
    assert settings_of({"loop": "asyncio"}, asgi_loop="uvloop").loop == "asyncio"
    assert settings_of({"loop": "auto"}, asgi_loop="asyncio").loop == "uvloop"


@pytest.mark.skipif("asgi_lifespan" not in Config().settings, reason="this Gunicorn has no asgi_lifespan")
@pytest.mark.parametrize("given", ["auto", "on", "off"])
def test_gunicorns_asgi_lifespan_gives_way_to_the_option(given: str) -> None:
    assert settings_of(asgi_lifespan=given).lifespan == given
    assert settings_of({"lifespan": "on"}, asgi_lifespan=given).lifespan == "on"


@pytest.mark.skipif(
    "asgi_disconnect_grace_period" not in Config().settings, reason="this Gunicorn has no asgi_disconnect_grace_period"
)
def test_gunicorns_grace_period_counts_when_it_is_set() -> None:
    default = Config().settings["asgi_disconnect_grace_period"].default
    assert settings_of(asgi_disconnect_grace_period=default).disconnect_grace is None
    assert settings_of(asgi_disconnect_grace_period=default + 7).disconnect_grace == default + 7
    assert settings_of(asgi_disconnect_grace_period=0).disconnect_grace == 0


@needs_asgi_settings
def test_gunicorns_root_path_gives_way_to_the_option() -> None:
    assert settings_of(root_path="/a/").root_path == "/a"
    assert settings_of({"root_path": "/b"}, root_path="/a").root_path == "/b"


@needs_asgi_settings
def test_a_bad_root_path_of_gunicorn_is_a_bad_option() -> None:
    with pytest.raises(InvalidOption, match="root_path"):
        settings_of(root_path="a")


needs_websocket_settings = pytest.mark.skipif(
    "websocket_max_message_size" not in Config().settings, reason="this Gunicorn has no websocket_max_message_size"
)


@needs_websocket_settings
def test_gunicorns_bound_of_a_message_gives_way_to_the_option() -> None:
    assert settings_of(websocket_max_message_size=5000).ws_max_size == 5000
    assert settings_of({"ws_max_size": 100}, websocket_max_message_size=5000).ws_max_size == 100
