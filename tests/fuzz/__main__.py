"""Looks for bytes that break what tests/wire/survival.py asserts, for longer than a test may take.

``python tests/fuzz requests`` tries requests, grown from the corpus, for a minute, and ``python tests/fuzz frames``
those of WebSockets. Each try prints nothing; one that fails is named, to be tried again by ``--again``.
With ``--atheris``, which has to be installed, coverage guides the search; what is behind it is for libFuzzer.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# Last: where the package is installed, that is what is tried.
sys.path.append(str(Path(__file__).parents[2]))

Choose = Callable[[int], int]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("what", choices=("requests", "frames"))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to try (default: 60)")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="what the tries begin with")
    parser.add_argument("--again", metavar="SEED.NUMBER", help="the one try to repeat")
    parser.add_argument("--atheris", nargs=argparse.REMAINDER, help="options and folders of libFuzzer")
    return parser.parse_args()


def find_target(what: str) -> Callable[[Choose], None]:
    from wire import survival

    return survival.try_requests if what == "requests" else survival.try_frames


def try_at_random(target: Callable[[Choose], None], seed: str, seconds: float) -> int:
    """The number of tries in so many seconds; an error of one is raised, with a note that names it."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        try_once(target, f"{seed}.{number}")
        number += 1
    return number


def try_once(target: Callable[[Choose], None], name: str) -> None:
    try:
        target(random.Random(name).randrange)
    except Exception as error:
        error.add_note(f"again: --again {name}")
        raise


def try_by_coverage(what: str, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["uvicorn_worker"]):
        target = find_target(what)

    def try_bytes(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        target(lambda number: provider.ConsumeIntInRange(0, number - 1))

    atheris.Setup([sys.argv[0], *options], try_bytes)
    atheris.Fuzz()


def main() -> None:
    given = arguments()
    if given.atheris is not None:
        try_by_coverage(given.what, given.atheris)
    elif given.again:
        try_once(find_target(given.what), given.again)
    else:
        print(try_at_random(find_target(given.what), given.seed, given.seconds), "tries, seed", given.seed)


if __name__ == "__main__":
    main()
