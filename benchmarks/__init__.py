"""What this worker and its peers cost: ``python -m benchmarks --help``, or ``tox -e bench``."""
