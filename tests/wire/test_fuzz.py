"""The command that looks for more of what the properties look for: it runs, and tells what it has found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FUZZ), *options], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("what", ["requests", "frames"])
def test_it_tries_for_as_long_as_it_is_told(what: str) -> None:
    run = fuzz(what, "--seconds", "0.5", "--seed", "7")
    assert run.returncode == 0, run.stderr
    tries, words = run.stdout.split(" ", 1)
    assert int(tries) > 0
    assert words == "tries, seed 7\n"


def test_one_try_can_be_repeated() -> None:
    run = fuzz("requests", "--again", "7.3")
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
