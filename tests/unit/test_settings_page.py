"""The table of docs/settings.rst: every setting of the installed Gunicorn, and what is refused or warned of."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

import gunicorn
import pytest
from gunicorn.config import Config, make_settings

from uvicorn_worker.gunicorn_settings import OF_TLS, REFUSED, WARNED, judge
from uvicorn_worker.worker import UvicornWorker

PAGE = (Path(__file__).parents[2] / "docs" / "settings.rst").read_text(encoding="utf-8")

VERDICTS = {"honoured", "master's", "not applicable", "refused", "warned"}


class Row(NamedTuple):
    section: str
    verdict: str
    meaning: str


def rows_of(page: str) -> dict[str, Row]:
    """The rows of all tables by the names of the settings; a setting that stands twice is an error."""
    rows: dict[str, Row] = {}
    section = ""
    for part in re.split(r"(?m)^(?=   \* - |\S.*\n-{3,}$)", page):
        heading = re.match(r"(\S.*)\n-{3,}\n", part)
        row = re.match(r"   \* - ``(\w+)``\n     - (.+)\n     -((?: .*)?(?:\n       .*)*)", part)
        if heading:
            section = heading[1]
        elif row:
            assert row[1] not in rows, f"{row[1]} stands twice"
            rows[row[1]] = Row(section, row[2], " ".join(row[3].split()))
    return rows


ROWS = rows_of(PAGE)


def named(verdict: str) -> set[str]:
    return {name for name, row in ROWS.items() if row.verdict == verdict}


def test_every_setting_of_gunicorn_has_a_row_in_gunicorns_own_section() -> None:
    missing = make_settings().keys() - ROWS.keys()
    assert not missing, f"decide what becomes of {', '.join(sorted(missing))}, and give each a row in docs/settings.rst"
    for name, setting in make_settings().items():
        assert ROWS[name].section == setting.section, name


@pytest.mark.skipif(gunicorn.version_info < (27, 0), reason="this Gunicorn has fewer settings than the page")
def test_every_row_is_a_setting_of_gunicorn() -> None:
    assert not ROWS.keys() - make_settings().keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_one_of_the_verdicts_that_the_page_explains(name: str) -> None:
    verdict = ROWS[name].verdict
    assert verdict in VERDICTS
    assert re.search(rf"^{verdict}\n    \S", PAGE, re.MULTILINE)
    assert ROWS[name].meaning or verdict in ("honoured", "master's"), "say why"


def test_a_setting_exists_since_the_version_that_the_page_says() -> None:
    said = {name: re.match(r"Gunicorn ([\d.]+) and later", row.meaning) for name, row in ROWS.items()}
    since = {name: found[1] for name, found in said.items() if found and name in make_settings()}
    for name, version in since.items():
        added = re.search(r"versionadded:: (\d+\.\d+)\.", make_settings()[name].desc)
        assert added and added[1].removesuffix(".0") == version, name
    assert since or gunicorn.version_info < (24, 0)


def test_what_the_page_calls_refused_or_warned_is_what_the_code_does() -> None:
    assert named("refused") == REFUSED.keys()
    assert named("warned") == WARNED.keys()


def test_what_needs_a_certificate_is_named_by_the_page() -> None:
    sentence = re.search(r"(?s)\n\n((?:``\w+``[, and\n]+)+)don't turn TLS on", PAGE)
    assert sentence
    assert re.findall(r"``(\w+)``", sentence[1]) == list(OF_TLS)


def test_the_table_is_read_as_it_is_written() -> None:
    page = """
Logging
-------

.. list-table::

   * - setting
     - here
     - meaning
   * - ``accesslog``
     - honoured
     - one
       line
   * - ``errorlog``
     - master's
     -

SSL
---

   * - ``keyfile``
     - refused
     - why
"""
    assert rows_of(page) == {
        "accesslog": Row("Logging", "honoured", "one line"),
        "errorlog": Row("Logging", "master's", ""),
        "keyfile": Row("SSL", "refused", "why"),
    }


# -- the code's part


#: For each setting of the tables, a value that counts.
AWAY = {
    "protocol": "uwsgi",
    "http_protocols": "h2",
    "http2_cleartext": "both",
    "threads": 2,
    "http_parser": "fast",
    "permit_obsolete_folding": True,
    "strip_header_spaces": True,
    "permit_unconventional_http_method": True,
    "permit_unconventional_http_version": True,
    "casefold_http_method": True,
    "suppress_ragged_eofs": False,
}


LOG = logging.getLogger("settings")


def config(**values: object) -> Config:
    cfg = Config()
    for name, value in values.items():
        cfg.set(name, value)
    return cfg


def needed(name: str) -> object:
    return pytest.param(
        name, marks=pytest.mark.skipif(name not in make_settings(), reason=f"this Gunicorn has no {name}")
    )


def test_defaults_are_judged_by_nobody() -> None:
    assert list(judge(config())) == []


@pytest.mark.parametrize("name", [needed(name) for name in AWAY])
def test_a_default_that_is_set_is_still_a_default(name: str) -> None:
    assert list(judge(config(**{name: make_settings()[name].default}))) == []


@pytest.mark.parametrize("name", [needed(name) for name in REFUSED])
def test_a_refused_setting_is_named_with_its_value_and_the_way_out(name: str) -> None:
    cfg = config(**{name: AWAY[name]})
    with pytest.raises(RuntimeError) as refusal:
        UvicornWorker.check_config(cfg, LOG)
    assert str(refusal.value) == f"{name} = {getattr(cfg, name)!r} can't be had with this worker: {REFUSED[name]}"


@pytest.mark.parametrize("name", [needed(name) for name in WARNED])
def test_a_setting_without_a_meaning_is_told_of_in_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    UvicornWorker.check_config(config(**{name: AWAY[name]}), LOG)
    assert caplog.messages == [f"{name} = {AWAY[name]!r} means nothing to this worker: {WARNED[name]}"]
