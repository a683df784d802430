from __future__ import annotations

import inspect
from http import HTTPStatus

import pytest

import uvicorn_worker
from uvicorn_worker import errors

TREE = [error for _, error in inspect.getmembers(errors, inspect.isclass) if error.__module__ == errors.__name__]


def test_every_error_is_in_one_tree_but_the_exit_of_the_worker() -> None:
    outside = [error for error in TREE if not issubclass(error, errors.UvicornWorkerError)]
    assert outside == [errors.WorkerExit]
    assert issubclass(errors.WorkerExit, SystemExit)
    assert not issubclass(errors.WorkerExit, Exception)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InvalidOption, ValueError),
        (errors.InvalidApplication, TypeError),
        (errors.InvalidReply, ValueError),
        (errors.IllegalMove, RuntimeError),
        (errors.ClientDisconnected, OSError),
        (errors.BodyStalled, errors.ClientDisconnected),
    ],
)
def test_an_error_can_be_caught_by_the_builtin_that_it_is_like(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)
    with pytest.raises(builtin, match="why"):
        raise error("why")


def test_a_refusal_knows_its_answer() -> None:
    refusal = errors.RequestRefused(HTTPStatus.BAD_REQUEST, "Missing Host field")
    assert refusal.status is HTTPStatus.BAD_REQUEST
    assert refusal.reason == str(refusal) == "Missing Host field"


def test_each_error_says_what_it_means() -> None:
    assert all(error.__doc__ for error in TREE)


def test_what_applications_catch_is_in_the_package_root() -> None:
    for name in ("ClientDisconnected", "IllegalMove", "InvalidReply"):
        assert getattr(uvicorn_worker, name) is getattr(errors, name)


def test_the_package_root_says_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        uvicorn_worker.nothing  # noqa: B018


def test_the_worker_is_found_when_it_is_asked_for() -> None:
    from uvicorn_worker.worker import UvicornWorker

    assert uvicorn_worker.UvicornWorker is UvicornWorker
    assert "UvicornWorker" in uvicorn_worker.__all__
    assert all(hasattr(uvicorn_worker, name) for name in uvicorn_worker.__all__)
