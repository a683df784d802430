"""The table of docs/options.rst: every option, and what each is unless told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uvicorn_worker.config import Settings
from uvicorn_worker.options import OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "options.rst").read_text(encoding="utf-8")

#: The option and its default, of each row: what is in the second column, line by line.
ROWS = dict(re.findall(r"(?m)^``(\w+)`` +(\S.*?)(?:  .*)?$", PAGE))

SIZES = {"MiB": 1024 * 1024, "bytes": 1, "s": 1}


def test_every_option_has_a_row_and_every_row_is_an_option() -> None:
    assert ROWS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", [name for name, told in ROWS.items() if re.match(r"\d", told)])
def test_a_default_is_what_the_page_says(name: str) -> None:
    number, _, unit = ROWS[name].partition(" ")
    assert getattr(Settings(), name) == int(number) * SIZES.get(unit, 1)
