import sys
from pathlib import Path

import pytest

# For the tests of benchmarks/. It comes last: the package under test is the installed one.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: starts real Gunicorn masters (leave out with -m 'not live')")
