"""Figures in sentences of docs/: each is the code's, or of the last run that docs/performance.rst shows."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path

import pytest

from uvicorn_worker import config
from uvicorn_worker.broadcast.engines import engine_of
from uvicorn_worker.broadcast.groups import Groups
from uvicorn_worker.broadcast.redis_url import Target
from uvicorn_worker.clock import TICK
from uvicorn_worker.config import Settings

ROOT = Path(__file__).parents[2]
KIB, MIB = 1024, 1024 * 1024
DEFAULTS = Settings()


def text_of(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


WORDS = {0.25: "a quarter of a second", 0.5: "half a second", 1.0: "a second", 2.0: "two seconds", 60.0: "a minute"}

HEAD = f"a head may have {DEFAULTS.head_limit // KIB} KiB and {DEFAULTS.field_count_limit:,} fields"

WINDOWS = f"windows of {2**config.DEFLATE_WINDOW_BITS // KIB} KiB"

SENTENCES = {
    "architecture": [
        f"waits for the end of that turn, or for {config.COPY_BOUND // KIB} KiB",
        f"close what stays idle for {WORDS[config.IDLE_GRACE]}",
        f"threads get {WORDS[config.THREAD_GRACE]}",
        f"{WINDOWS}, and messages below {config.DEFLATE_FROM // KIB} KiB are not compressed",
        f"slices of at most {config.SLICE // KIB} KiB",
    ],
    "deviations": [HEAD, f"They may have {config.PROXY_HEADER_BYTES // KIB} KiB."],
    "groups": [
        f"a group's name of more than {config.GROUP_NAME_BYTES} bytes",
        f"{DEFAULTS.groups_max_backlog // MIB} MiB of earlier messages (option",
        f"{config.SLOW_CLOSE_TIME:g} s; logged once",
        f"{config.PEER_BACKLOG // MIB} MiB waits for a worker that does",
        f"each ``send`` waits for it, {config.PEER_PATIENCE:g} s in all",
        f"{config.PEER_BOUND // MIB} MiB waits for it",
        f"{config.PEER_FLUSH_TIME:g} s after another worker stopped",
        f"another within {config.GROUPS_JOIN_TIME:g} s",
        f"waits {config.PEER_FLUSH_TIME:g} s for others to read",
        f"found there within {WORDS[config.MESH_LOOK]}",
        f"``ping`` ({Target.ping:g} s)",
        f"``dead`` ({Target.dead:g} s)",
        f"``send_timeout`` ({Target.send_timeout:g} s)",
        f"is given up {WORDS[config.GROUP_LINGER]} later",
        f"after {config.REDIS_JOIN_TIME:g} s without",
        f"with pauses of up to {WORDS[config.REDIS_LONGEST_PAUSE]}",
    ],
    "interface": [f"if they have {config.DEFLATE_FROM:,} bytes or more: each by itself, in {WINDOWS}"],
    "options": [f"up to {WORDS[2 * TICK]} late"],
    "running": [
        HEAD,
        f"requests under way have {config.RELOAD_GRACE:g} seconds to end",
        f"when its receive calls have ended, or after {WORDS[config.RECEIVE_GRACE]}",
        f"the one for the handshake is cancelled {WORDS[config.RECEIVE_GRACE]} after the last",
        f"is heeded within {WORDS[TICK]}",
    ],
    "settings": [
        f"but within {config.RELOAD_GRACE:g} seconds",
        f"the handshake always comes first, and has {config.TLS_HANDSHAKE_TIMEOUT:g} seconds",
    ],
}


@pytest.mark.parametrize(("page", "sentence"), [(page, each) for page, some in SENTENCES.items() for each in some])
def test_a_sentence_has_the_figure_of_the_code(page: str, sentence: str) -> None:
    # Tables may have the words of other cells between those of a sentence, but not within a line.
    assert sentence in text_of(f"docs/{page}.rst")


def test_the_defaults_of_the_channel_layer_are_those_of_the_page() -> None:
    layer = pytest.importorskip("uvicorn_worker.channel_layer").GroupsChannelLayer
    of = {name: parameter.default for name, parameter in inspect.signature(layer).parameters.items()}
    told = (
        f"``expiry`` ({of['expiry']} s), ``capacity`` ({of['capacity']} messages), ``channel_capacity`` (by glob or "
        f"compiled pattern), ``group_expiry`` ({of['group_expiry']:,} s), ``prefix`` (``'{of['prefix']}'``)"
    )
    assert told in text_of("docs/groups.rst")


def test_all_numbers_of_groups_are_told_of() -> None:
    section = text_of("docs/groups.rst").partition("Numbers -------")[2]
    told = set(re.findall(r"``(\w+)``", section))
    groups = Groups(DEFAULTS, logging.getLogger("groups"), lambda end: None)
    engines = [engine_of(url, None, groups.log) for url in ("local://", "redis+cluster://localhost")]
    # What the connections to Redis have to do is known when there are some.
    assert told == groups.stats().keys() | {*engines[0].stats(), *engines[1].stats()} | {"subscriptions", "waiting"}


# What was measured.


def rows_of(workload: str, column: str) -> dict[str, float]:
    """The column of a table of docs/performance.rst, by contender; none where that has no such table."""
    page = (ROOT / "docs" / "performance.rst").read_text(encoding="utf-8")
    block = re.search(rf"(?m)^    {workload}: .+\n +(.+)\n((?:      .+\n)+)", page)
    if block is None:
        return {}
    at = 2 * [name for name in re.split(r"  +", block[1]) if name != "ratio"].index(column)
    cells = [re.split(r"  +", line.strip()) for line in block[2].splitlines()]
    return {cell[0]: float(cell[1 + at].replace(",", "")) for cell in cells if cell[1 + at] != "-"}


def test_an_idle_websocket_has_the_memory_that_was_measured() -> None:
    found = re.search(r"costs some (\d+) KiB of memory \((\d+) with ASGI 3\)", text_of("docs/interface.rst"))
    measured = rows_of("websocket-idle", "KiB/conn.")
    assert found
    assert abs(int(found[1]) - measured["this worker, channels"]) < 1
    assert abs(int(found[2]) - measured["this worker, ASGI 3"]) < 1


def test_less_cpu_time_than_other_servers_in_python_for_nearly_all_that_was_measured() -> None:
    workloads = re.findall(r"(?m)^    ([\w-]+): ", (ROOT / "docs" / "performance.rst").read_text(encoding="utf-8"))
    tables = [rows_of(workload, "CPU us") for workload in workloads if "idle" not in workload]
    peers = ("uvicorn-worker", "Gunicorn's asgi worker", "hypercorn", "daphne")
    ahead = [table["this worker, ASGI 3"] < table[peer] for table in tables for peer in peers if peer in table]
    assert len(ahead) > 20
    assert sum(ahead) >= 0.9 * len(ahead)
    assert "less CPU time than other servers written in Python for nearly all" in text_of("README.rst")
