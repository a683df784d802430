import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# For the tests of benchmarks/. It comes last: the package under test is the installed one.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    # A run that a shell has put into the background ignores SIGINT, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "live: starts real Gunicorn masters (leave out with -m 'not live')")
    config.addinivalue_line("markers", "unmeasured: runs what others run, too; coverage leaves it out")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Trace no test that is unmeasured, and no process that it starts: it would take twice or three times as long; and
    the handler of a signal that comes amid coverage's work would wait for ever for a lock that coverage holds.

    pytest-cov's mark for that does nothing in a process of xdist, where coverage was started twice.
    """
    if item.get_closest_marker("unmeasured") is None:
        yield
    else:
        tracer = sys.gettrace()
        sys.settrace(None)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            yield
        sys.settrace(tracer)
