import sys
from pathlib import Path

import pytest

# For the tests of benchmarks/. It comes last: the package under test is the installed one.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    # Of pytest-cov. Such a test covers what others do, too, and takes three times as long where it is measured.
    config.addinivalue_line("markers", "no_cover: repeats thousands of times what other tests do once; not measured")
    config.addinivalue_line("markers", "live: starts real Gunicorn masters (leave out with -m 'not live')")
