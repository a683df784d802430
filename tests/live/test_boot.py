"""Starting: the ways to name the worker, its options, and the failures that stop the master at once."""

import re
import signal
from pathlib import Path

import pytest

from .harness import WORKER, Ended, Serve, Server, eventually, needs_setting, run_to_its_end


def only_line(ended: Ended, pattern: str) -> str:
    """The one line of the log that has `pattern`."""
    lines = ended.log.lines(pattern)
    assert len(lines) == 1, f"{len(lines)} lines have {pattern!r}"
    return lines[0]


# -- ways to start


def test_the_package_is_a_command_with_this_worker_for_a_default(serve: Serve) -> None:
    server = serve("apps:hello", command=("-m", "uvicorn_worker"))
    server.log.wait_for(r"Using worker: uvicorn_worker \d+\.\d+")
    assert server.ask("/").body == b"<h1>Hello World</h1>"


@pytest.mark.parametrize(
    "conf",
    [
        f"worker_class = '{WORKER}'",
        "from uvicorn_worker import UvicornWorker as worker_class",
        "from uvicorn_worker import UvicornWorker\nclass Worker(UvicornWorker): ...\nworker_class = Worker",
    ],
    ids=["path", "class", "subclass"],
)
def test_the_configuration_file_names_the_worker(serve: Serve, conf: str) -> None:
    server = serve(command=("-m", "gunicorn"), conf=conf)
    assert server.ask("/loop").text.startswith("uvloop")


@needs_setting("asgi_loop")
@pytest.mark.parametrize(("option", "module"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_asgi_loop_chooses_the_event_loop(serve: Serve, option: str, module: str) -> None:
    server = serve("apps:app", "--asgi-loop", option)
    assert server.ask("/loop").text.partition(".")[0] == module


def test_an_application_factory_call_is_served(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text("import apps\ndef make(name):\n    return getattr(apps, name)\n")
    server = serve("made:make('hello')")
    assert server.ask("/").status == 200


def test_preloaded_applications_are_served(serve: Serve) -> None:
    server = serve("apps:app", "--preload", workers=2)
    assert server.ask("/hello").status == 200


def test_post_worker_init_finds_the_loop(serve: Serve) -> None:
    conf = """\
import asyncio


def post_worker_init(worker):
    assert asyncio.get_event_loop_policy().get_event_loop() is worker.loop
    worker.loop.call_soon(lambda: os.write(2, b"worker ready: %d\\n" % os.getpid()))
"""
    server = serve(conf=conf)
    assert server.ask("/hello").status == 200


def test_a_worker_that_is_told_to_stop_while_it_imports_does_so(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        "import os, pathlib, signal\n"
        "from apps import hello\n"
        "if not pathlib.Path('been_here').exists():\n"
        "    pathlib.Path('been_here').touch()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    server = serve("told:hello")
    server.log.wait_for(rf"Worker exiting \(pid: {server.ready_workers()[0]}\)")
    eventually(lambda: len(server.ready_workers()) == 2)
    assert server.ask("/").status == 200
    assert "exited with code" not in server.log


# -- applications that cannot be loaded


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize("app", ["no_such_module:app", "apps:no_such_name"])
def test_an_application_that_is_not_there_stops_the_master_with_4(
    tmp_path: Path, app: str, preload: tuple[str, ...]
) -> None:
    ended = run_to_its_end(app, *preload, folder=tmp_path)
    if not preload:
        assert only_line(ended, "no_such_")
        assert ended.status == 4
        assert ended.boots == 1
        assert "Traceback" not in ended.log
    else:  # Gunicorn's own doing: it never comes to a worker
        assert ended.status != 0
        assert ended.boots == 0


SHOP = """\
from asyncio import sleep


class Shop:
    async def __call__(self, scope, receive, send): ...


async def shop(message, channels): ...


async def helper(number): ...


asgi = Shop()
"""


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("shopping:shop", "No module named 'shopping' (looked for in {folder}; --chdir says where else)"),
        ("shop:shp", "Failed to find attribute 'shp' in 'shop'. (there is shop:shop, shop:asgi)"),
        ("shop:", "Failed to parse '' as an attribute name or function call. (there is shop:shop, shop:asgi)"),
        ("shop.py", "did you mean 'shop:application'? (looked for in {folder}; --chdir says where else)"),
        ("./shop:shop", "is expected: did you mean 'shop:shop'?"),
        (":shop", "':shop' names no module: expected 'module:name'"),
    ],
    ids=["module", "name", "no name", "file", "path", "no module"],
)
def test_an_application_that_is_misspelt_is_told_what_there_is(tmp_path: Path, app: str, told: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    ended = run_to_its_end(app, folder=tmp_path)
    assert ended.status == 4
    assert only_line(ended, "The application could not be ").endswith(told.format(folder=tmp_path))
    assert "Traceback" not in ended.log


def test_a_module_that_lacks_a_dependency_stops_the_master_with_4_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import no_such_dependency\n\nasync def app(message, channels): ...\n")
    ended = run_to_its_end("needy:app", folder=tmp_path)
    assert ended.status == 4
    assert "no_such_dependency" in ended.log
    assert ended.boots == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("not_a_coroutine", "apps:not_a_coroutine"),
        ("too_few", "apps:too_few"),
        ("too_many", "apps:too_many"),
        ("OldStyle", "apps:OldStyle"),
        ("sync_call", "SyncCall"),
    ],
)
def test_what_is_no_application_stops_the_master_with_3_and_is_told_the_signatures(
    tmp_path: Path, name: str, told: str
) -> None:
    ended = run_to_its_end(f"apps:{name}", folder=tmp_path)
    assert ended.status == 3
    assert ended.boots == 1
    line = only_line(ended, r"app\(message, channels\)")
    assert "app(scope, receive, send)" in line
    assert told in line
    assert "Traceback" not in ended.log


def test_what_cannot_even_be_called_stops_the_master(tmp_path: Path) -> None:
    ended = run_to_its_end("apps:number", folder=tmp_path)
    assert ended.status in (3, 4)
    assert ended.boots == 1
    assert "Traceback" not in ended.log


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit('bye')", "bye"),
    ],
    ids=["raises", "syntax", "exits"],
)
def test_a_module_that_fails_at_import_stops_the_master_with_3(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "failing.py").write_text(source + "\n")
    ended = run_to_its_end("failing:app", folder=tmp_path)
    assert ended.status == 3
    assert ended.boots == 1
    assert told in ended.log


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("change", "told", "status"),
    [
        ("raise RuntimeError('not today')\n", "RuntimeError: not today", 3),
        ("import no_such_module\n", "No module named 'no_such_module'", 4),
        ("app = 5\n", "must be callable", 4),
    ],
    ids=["raises", "lacks a module", "no application"],
)
def test_an_application_that_can_not_be_loaded_after_a_reload_stops_the_master(
    serve: Serve, tmp_path: Path, change: str, told: str, status: int
) -> None:
    module = tmp_path / "made.py"
    module.write_text("from apps import app\n")
    server = serve("made:app", env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert server.ask("/hello").status == 200
    module.write_text(change)
    start = server.log.position()
    server.signal(signal.SIGHUP)
    assert server.wait() == status
    assert server.log.lines(told, after=start)


THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(120,)).start()\n"


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("raise RuntimeError", 3),
        ("import no_such_module", 4),
        ("async def app(scope, receive, send):\n await receive()\n await send({'type': 'lifespan.startup.failed'})", 3),
    ],
    ids=["raises", "import", "startup"],
)
def test_an_application_that_fails_stops_the_master_though_it_has_begun_a_thread(
    tmp_path: Path, source: str, status: int
) -> None:
    (tmp_path / "failing.py").write_text(f"{THREAD}{source}\n")
    server = Server("failing:app", folder=tmp_path)
    try:
        assert server.wait(within=20) == status
        assert len(server.log.lines("Booting worker")) == 1
    finally:
        server.kill_everything()


def test_several_workers_that_cannot_boot_are_not_respawned(tmp_path: Path) -> None:
    ended = run_to_its_end("apps:too_few", folder=tmp_path, workers=3)
    assert ended.status in (1, 3)  # 1 where two fail at once: Gunicorn trips over the second
    assert ended.boots <= 3


# -- Gunicorn itself


@pytest.mark.parametrize("command", ["gunicorn", "uvicorn_worker"])
def test_an_old_gunicorn_is_told_of_before_any_fork(tmp_path: Path, command: str) -> None:
    conf = f"""\
import gunicorn

gunicorn.version_info, gunicorn.__version__ = (22, 0, 0), "22.0.0"
worker_class = "{WORKER}"
"""
    option = ["--check-config"] if command == "uvicorn_worker" else []
    ended = run_to_its_end("apps:app", *option, folder=tmp_path, command=("-m", command), conf=conf)
    assert (ended.status, ended.boots) == (1, 0)
    assert only_line(ended, "22.0.0 is too old for this worker").endswith(": pip install -U 'gunicorn>=23'")
    assert "Traceback" not in ended.log


# -- options


def subclass(options: str) -> str:
    return (
        "from uvicorn_worker import UvicornWorker\n"
        "class Worker(UvicornWorker):\n"
        f"    CONFIG_KWARGS = {options}\n"
        "worker_class = Worker\n"
    )


def test_options_come_from_the_class_attribute(serve: Serve) -> None:
    conf = subclass("{'root_path': '/mounted', 'server_header': False, 'headers': [('x-extra', 'yes')]}")
    server = serve(command=("-m", "gunicorn"), conf=conf)
    reply = server.ask("/what")
    assert '"root_path": "/mounted"' in reply.text
    assert "server" not in reply.headers
    assert reply.headers["x-extra"] == "yes"


def test_options_in_the_environment_win(serve: Serve) -> None:
    conf = subclass("{'root_path': '/from/class', 'date_header': True}")
    env = {"UVICORN_WORKER_ROOT_PATH": "/from/environment", "UVICORN_WORKER_DATE_HEADER": "false"}
    server = serve(command=("-m", "gunicorn"), conf=conf, env=env)
    reply = server.ask("/what")
    assert '"root_path": "/from/environment"' in reply.text
    assert "date" not in reply.headers


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("{'head_timout': 5}", ["head_timout", "head_timeout"]),
        ("{'rootpath': '/'}", ["rootpath", "root_path"]),
        ("{'head_timeout': 'soon'}", ["head_timeout", "soon"]),
        ("{'head_timeout': -1}", ["head_timeout", "-1"]),
        ("{'pipelined_requests': None}", ["pipelined_requests", "None"]),
        ("{'date_header': 'perhaps'}", ["date_header", "perhaps"]),
    ],
)
def test_a_bad_option_stops_the_start_before_any_fork(tmp_path: Path, options: str, told: list[str]) -> None:
    conf = subclass(options)
    ended = run_to_its_end("apps:app", folder=tmp_path, command=("-m", "gunicorn"), conf=conf)
    assert ended.status == 1
    assert ended.boots == 0
    line = only_line(ended, re.escape(told[0]))
    assert all(word in line for word in told)
    assert "Traceback" not in ended.log


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("UVICORN_WORKER_HEAD_TIMEOUT", "soon", ["HEAD_TIMEOUT", "soon"]),
        ("UVICORN_WORKER_HEAD_TIMOUT", "5", ["UVICORN_WORKER_HEAD_TIMOUT", "HEAD_TIMEOUT"]),
    ],
    ids=["value", "name"],
)
def test_a_bad_option_in_the_environment_stops_the_start_before_any_fork(
    tmp_path: Path, name: str, value: str, told: list[str]
) -> None:
    ended = run_to_its_end("apps:app", folder=tmp_path, env={name: value})
    assert ended.status == 1
    assert ended.boots == 0
    line = only_line(ended, f"(?i){told[0]}")
    assert all(word.lower() in line.lower() for word in told)
    assert "Traceback" not in ended.log
