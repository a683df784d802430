"""What README.rst says of speed: the figures are those of docs/performance.rst."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "performance.rst").read_text(encoding="utf-8")

WORKLOADS = {
    "hello, 20 bytes": "hello",
    "hello with 14 headers": "hello-14",
    "WebSocket echo, 64 bytes": "websocket-64",
    "download, 1 MiB": "download-1m",
    "upload, 64 KiB": "upload-64k",
    "100 chunks of a response": "stream-100",
    "FastAPI endpoint, JSON": "fastapi",
    "broadcast to 1,000 WebSockets": "broadcast",
    "idle connection, KiB of memory": "idle",
}

CELL = r"\n     - ([\d.,–]+)"

#: Here, with uvicorn-worker, and the ratio, by what is measured.
ROWS = {name: cells for name, *cells in re.findall(rf"(?m)^   \* - (.+){CELL * 3}$", README)}


def measured(workload: str, contender: str) -> str | None:
    """The CPU time or, for idle connections, the memory that the page has for one of its contenders."""
    block = re.search(rf"(?m)^    {workload}: .+\n +(.+)\n((?:      .+\n)+)", PAGE)
    if block is None:
        return None
    columns = [name for name in re.split(r"  +", block[1]) if name != "ratio"]
    row = re.search(rf"(?m)^      {contender} +(\S.*)$", block[2])
    assert row
    return row[1].split()[2 * columns.index("KiB/conn." if workload == "idle" else "CPU us")]


def test_the_table_has_the_workloads() -> None:
    assert ROWS.keys() == WORKLOADS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_figure_is_the_one_of_the_last_run(name: str) -> None:
    here, peer, ratio = ROWS[name]
    figures = measured(WORKLOADS[name], "this worker, ASGI 3"), measured(WORKLOADS[name], "uvicorn-worker")
    if figures != (None, None):
        assert (here, peer) == figures
    elif here != "–":  # of a run that the page tells of in a sentence
        words = re.split(r"[ \n]", PAGE)
        assert {here, peer} <= {word.strip(",;()") for word in words}
    if here == "–":
        assert (peer, ratio) == ("–", "–")
    else:
        assert float(ratio) == pytest.approx(float(peer.replace(",", "")) / float(here.replace(",", "")), abs=0.02)
