"""docs/security.rst: each test that it names is there, and limits and requirements are those of the package."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from uvicorn_worker import config
from uvicorn_worker.config import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.rst").read_text(encoding="utf-8")

NAMED = sorted(set(re.findall(r"(?m)^ +(?:- )?\| ``(tests/.*)``$", PAGE)))


def test_each_row_names_a_test() -> None:
    assert len(NAMED) > 50
    rows = re.findall(r"(?m)^   \* - (?!attack or fault)", PAGE)
    assert len(rows) == len(re.findall(r"(?m)^     - \| ``tests/", PAGE)) > 30


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    files = list(ROOT.glob(path))
    assert files, f"no file is {path}"
    if function:
        assert re.search(rf"(?m)^(async )?def {function}\(", files[0].read_text(encoding="utf-8"))


def requirements() -> list[str]:
    package = ConfigParser()
    package.read(ROOT / "setup.cfg")
    return package["options"]["install_requires"].split("\n")[1:]


@pytest.mark.parametrize("requirement", requirements())
def test_the_oldest_release_that_can_be_installed_is_told(requirement: str) -> None:
    name, bound = requirement.split(" >= ")
    assert re.search(rf"{name}\s+{re.escape(bound)}\b", PAGE)


DEFAULTS = Settings()

KIB, MIB = 1024, 1024 * 1024

LIMITS = {
    "a whole head": (DEFAULTS.head_limit, 64 * KIB),
    "fields of a request": (DEFAULTS.field_count_limit, 1000),
    "chunk extensions and trailers of a request": (config.UNSEEN_BYTES, 16 * KIB),
    "empty lines before a request": (config.BLANK_BYTES, 32),
    "time for a head": (DEFAULTS.head_timeout, 10),
    "an idle connection": (DEFAULTS.keepalive, 2),
    "a stalled body, a reply that is not read": (DEFAULTS.timeout, 30),
    "a connection that is closed, and still read": (DEFAULTS.linger_timeout, 2),
    "a TLS handshake": (config.TLS_HANDSHAKE_TIMEOUT, 10),
    "requests that are parsed ahead": (DEFAULTS.pipelined_requests, 20),
    "body that waits to be received": (DEFAULTS.request_body_buffer, 64 * KIB),
    "body that is dropped to keep a connection": (DEFAULTS.unread_body_limit, 64 * KIB),
    "a PROXY header": (config.PROXY_HEADER_BYTES, 4 * KIB),
    "a WebSocket message, unpacked": (DEFAULTS.ws_max_size, 16 * MIB),
    "unfinished calls of a WebSocket": (DEFAULTS.ws_max_queue, 32),
    "between two pings of a WebSocket": (DEFAULTS.ws_ping_interval, 20),
    "the answer to a ping": (DEFAULTS.ws_ping_timeout, 20),
    "the client's part in closing a WebSocket": (DEFAULTS.ws_close_timeout, 10),
    "a message to a group": (DEFAULTS.groups_max_size, 16 * MIB),
    "messages to groups that wait for a member": (DEFAULTS.groups_max_backlog, MIB),
}

UNITS = {"KiB": KIB, "MiB": MIB}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_the_one_of_the_code(name: str) -> None:
    value, meant = LIMITS[name]
    row = re.search(rf"(?m)^{re.escape(name)} +\S+ +([\d,]+) ?(KiB|MiB)?", PAGE)
    assert row
    assert int(row[1].replace(",", "")) * UNITS.get(row[2], 1) == meant == value
