import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: starts real Gunicorn masters (leave out with -m 'not live')")
