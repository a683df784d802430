import signal
import sys
from pathlib import Path

import pytest

# For the tests of benchmarks/. It comes last: the package under test is the installed one.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    # A run that a shell has put into the background ignores SIGINT, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "live: starts real Gunicorn masters (leave out with -m 'not live')")
