"""docs/groups-tests.rst: the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "groups-tests.rst").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_in_the_file_that_it_names() -> None:
    named, files = [], {}
    for word in re.findall(r"``(\w+/test_\w+\.py|test_\w+)``", PAGE):
        if word.endswith(".py"):
            file = files[word] = (TESTS / word).read_text(encoding="utf-8")
        else:
            named.append(word)
            assert f"def {word}(" in file, word
    assert len(named) > 30
    assert len(files) > 5
