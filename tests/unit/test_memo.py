from __future__ import annotations

import pytest

from uvicorn_worker.memo import Memo


class Maker:
    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, key: int) -> str:
        self.made.append(key)
        if key < 0:
            raise ValueError(key)
        return str(key)


def small(key: int) -> bool:
    return key < 100_000


def test_a_value_is_made_once() -> None:
    make = Maker()
    memo = Memo(make, small)
    assert [memo[1], memo[2], memo[1]] == ["1", "2", "1"]
    assert make.made == [1, 2]


def test_what_is_raised_is_raised_again() -> None:
    make = Maker()
    memo = Memo(make, small)
    for _ in range(2):
        with pytest.raises(ValueError):
            memo[-1]
    assert make.made == [-1, -1]
    assert len(memo) == 0


def test_what_is_not_small_is_not_remembered() -> None:
    make = Maker()
    memo = Memo(make, small)
    assert memo[100_000] == memo[100_000] == "100000"
    assert make.made == [100_000] * 2
    assert len(memo) == 0


def test_it_stays_bounded_and_right() -> None:
    memo = Memo(Maker(), small)
    for key in range(10_000):
        assert memo[key] == str(key)
        assert len(memo) <= 1024
    assert memo[9_999] == "9999"


def test_a_key_that_can_not_be_one_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Memo(Maker(), small)[[1]]  # type: ignore[index]
