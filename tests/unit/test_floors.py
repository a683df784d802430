"""The table of rooms and floors in docs/architecture.rst: a module imports only from lower floors, never sideways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import uvicorn_worker

PACKAGE = "uvicorn_worker"
ROOT = Path(uvicorn_worker.__file__).parent

#: Modules by floor; the package root itself is ``__init__``. A new module gets a place here.
FLOORS: dict[int, set[str]] = {
    0: {"errors", "_types", "memo", "migration", "gunicorn_settings", "_version", "broadcast.redis_url"},
    1: {"config", "clock", "http11.known", "broadcast.codec", "broadcast.delivery", "broadcast.directory"}
    | {"broadcast.forks", "broadcast.membership", "broadcast.resp"},
    2: {"development", "http11.framing", "http11.wire", "interfaces.detect", "proxy", "websocket.frames"}
    | {"broadcast.engine_url", "broadcast.groups", "broadcast.mesh", "broadcast.subscriptions", "websocket.wire"},
    3: {"access_log", "groups", "inherited", "leaving", "options", "proxied", "service", "tls"}
    | {"broadcast.mailboxes", "broadcast.once", "broadcast.peers", "broadcast.redis_wire", "interfaces.messages"}
    | {"websocket.handshake", "websocket.reader"},
    4: {"access_writer", "http11.body", "flow", "views"}
    | {"broadcast.local", "broadcast.middleware", "broadcast.redis_link", "broadcast.routes"},
    5: {"broadcast.redis_publisher", "broadcast.redis_subscriber", "http11.response"},
    6: {"http11.exchange"},
    7: {"http11.head", "http11.upgrade", "interfaces.scope", "interfaces.reply", "websocket.session"}
    | {"broadcast.redis_cluster", "broadcast.redis_engine"},
    8: {"http11.reader", "websocket.protocol", "broadcast.redis"}
    | {"interfaces.asgi_reply", "interfaces.asgi_websocket", "interfaces.channels", "interfaces.lifespan"},
    9: {"http11.usual", "interfaces.asgi", "broadcast.engines"},
    10: {"http11.protocol", "broadcast.outside"},
    11: {"accept", "observe"},
    12: {"loading", "observation", "server"},
    13: {"worker", "run", "channel_layer", "__init__", "__main__", "broadcast.__init__"},
}

#: Packages that hold modules and nothing else.
EMPTY = {"http11.__init__", "interfaces.__init__", "websocket.__init__"}

#: The highest of the floors that know no loop and no socket.
HIGHEST_PURE_FLOOR = 2

#: Imports upwards or sideways that are meant, with the reason.
MEANT = {
    ("__init__", "worker"): "looked up when it is asked for, so that run() needs no Gunicorn",
    ("__init__", "run"): "the package's own front",
    ("__main__", "__init__"): "reads the version from the package, as anybody does",
}

#: Who may import what from outside.
ONLY_IN = {
    "gunicorn": {"worker", "loading", "observation", "__main__"},
    "uvloop": {"worker", "run"},
    "httptools": {"http11.reader"},
    "websockets": {"websocket.frames", "websocket.handshake", "websocket.reader", "websocket.protocol"},
    "channels": {"channel_layer"},
    "redis": {"broadcast.redis_wire"},
    "hiredis": {"broadcast.redis_wire"},
    "ssl": {"tls", "server", "accept", "http11.exchange", "interfaces.asgi", "interfaces.scope"},
}

FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}


@cache
def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in ROOT.rglob("*.py")
        if "__pycache__" not in path.parts
    )


@cache
def imported_names(module: str) -> list[str]:
    """The full name of everything that a module imports, wherever in it, for type checking included."""
    return list(names_in((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"), module))


def names_in(source: str, module: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides where it leads"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str, known: set[str]) -> str | None:
    """The module of this package that an imported name leads to."""
    if name != PACKAGE and not name.startswith(f"{PACKAGE}."):
        return None
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module in known:
            return module
        if f"{module}.__init__" in known:
            return f"{module}.__init__"
    return "__init__"


def test_every_module_has_a_floor() -> None:
    missing = set(modules()) - set(FLOOR_OF) - EMPTY
    assert not missing, f"give {', '.join(sorted(missing))} a floor in FLOORS, and in the architecture's table"
    gone = (set(FLOOR_OF) | EMPTY) - set(modules())
    assert not gone, f"FLOORS names {', '.join(sorted(gone))}, which is no module"


def test_the_table_is_the_one_that_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.rst").read_text(encoding="utf-8")
    documented: dict[int, set[str]] = {}
    floor = None
    for line in text.split("===== ===")[2].splitlines()[1:]:
        if line[:1].isdigit():
            floor = int(line.split()[0])
        if floor is not None:
            names = re.findall(r"``([a-z0-9_/]+)\.py``", line)
            documented.setdefault(floor, set()).update(name.replace("/", ".") for name in names)
    assert documented == {floor: rooms - {"_version"} for floor, rooms in FLOORS.items()}


@pytest.mark.parametrize("module", sorted(FLOOR_OF))
def test_a_module_imports_only_from_lower_floors(module: str) -> None:
    known = set(modules())
    for name in imported_names(module):
        other = own_module(name, known)
        if other is not None and (module, other) not in MEANT:
            assert other not in EMPTY, f"{module} imports {name}, a package without content"
            assert other in FLOOR_OF, f"{module} imports {name} from {other}, which has no floor"
            assert FLOOR_OF[other] < FLOOR_OF[module], (
                f"{module} on floor {FLOOR_OF[module]} imports {name} from floor {FLOOR_OF[other]}"
            )


@pytest.mark.parametrize("module", [name for name in sorted(FLOOR_OF) if FLOOR_OF[name] <= HIGHEST_PURE_FLOOR])
def test_pure_floors_know_no_loop_and_no_socket(module: str) -> None:
    outside = {name.partition(".")[0] for name in imported_names(module)}
    assert not outside & {"asyncio", "socket", "ssl", "selectors", "threading", "uvloop", "time"}


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_foreign_package_is_imported_in_its_room_only(package: str) -> None:
    importers = {
        module for module in modules() if any(name.partition(".")[0] == package for name in imported_names(module))
    }
    assert importers <= ONLY_IN[package]


def test_packages_within_are_empty() -> None:
    for module in EMPTY:
        assert not imported_names(module)


def test_the_checks_see_every_kind_of_import() -> None:
    source = """
import asyncio, uvicorn_worker.server
from uvicorn_worker import errors, UvicornWorker
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.body import ABSENT
if TYPE_CHECKING:
    from uvicorn_worker.service import Service
def later():
    from uvicorn_worker.worker import UvicornWorker
"""
    known = set(modules())
    assert {own_module(name, known) for name in names_in(source, "sample")} == {
        None,
        "server",
        "errors",
        "__init__",
        "http11.wire",
        "http11.body",
        "service",
        "worker",
    }
