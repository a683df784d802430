"""The directory in which the workers of one master find each other: who makes, shares and removes it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from uvicorn_worker.broadcast.directory import Directory, _marker_of, keep, own_directory

PID, UID, GID = os.getpid(), os.geteuid(), os.getegid()


@pytest.fixture
def base() -> Iterator[str]:
    """A directory whose path is short."""
    with tempfile.TemporaryDirectory() as path:
        yield path


def make(base: str, former: int | None = None) -> Directory:
    return Directory.of_master(base, UID, GID, former)


def marker(directory: Directory, master: int = PID) -> str:
    """The file by which it is known as a master's."""
    return os.path.join(directory.path, _marker_of(master))


def die(directory: Directory) -> None:
    """What becomes of it when its master and all workers are killed."""
    os.close(directory._lock)


def end(directory: Directory, master: int = PID) -> None:
    """What becomes of it when a master ends, or a worker, which has everything from it."""
    directory._remove(master)


def test_a_directory_is_private_and_short(base: str) -> None:
    directory = make(base)
    status = os.stat(directory.path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, os.path.dirname(directory.path)) == (0o700, UID, base)
    assert len(directory.path) + len("/12345678.0123456789abcdef.tmp") <= 103
    end(directory)
    assert os.listdir(base) == []


def test_a_directory_is_left_alone_while_its_master_lives_and_swept_when_that_was_killed(base: str) -> None:
    living, killed = make(base), make(base)
    Path(killed.path, "123.abc").touch()
    die(killed)
    new = make(base)
    assert {living.path, new.path} == {str(path) for path in Path(base).iterdir()}
    end(living)
    end(new)


def test_a_worker_removes_nothing_when_it_ends(base: str) -> None:
    directory = make(base)
    end(directory, master=PID + 1)
    assert os.path.exists(directory.path)
    end(directory)


@pytest.mark.parametrize("old_ends_first", [True, False])
def test_a_master_that_takes_over_shares_the_directory_and_the_last_removes_it(base: str, old_ends_first: bool) -> None:
    other, old = make(base), make(base)
    # As if it had been made by another process.
    os.rename(marker(old), marker(old, PID + 1))
    os.unlink(marker(other))
    new = make(base, former=PID + 1)
    assert new.path == old.path
    os.rename(marker(new), marker(new, PID + 2))
    for directory, master in ((old, PID + 1), (new, PID + 2)) if old_ends_first else ((new, PID + 2), (old, PID + 1)):
        assert os.path.exists(directory.path)
        os.rename(marker(directory, master), marker(directory))
        end(directory)
        die(directory)
    assert not os.path.exists(old.path)
    assert os.path.exists(other.path)


def test_a_directory_that_was_removed_is_made_again_and_left_alone_by_others(base: str) -> None:
    directory = make(base)
    assert directory.is_there
    shutil.rmtree(directory.path)
    assert not directory.is_there
    directory.renew()
    assert directory.is_there
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    other = make(base)
    assert directory.is_there
    end(other)
    end(directory)
    assert os.listdir(base) == []


def test_of_masters_that_share_a_directory_each_makes_it_again_and_the_last_removes_it(base: str) -> None:
    old = make(base)
    new = make(base, former=PID)
    assert new.path == old.path
    shutil.rmtree(old.path)
    for directory in (old, new):
        assert not directory.is_there
        directory.renew()
    assert old.is_there
    assert new.is_there
    die(old)
    end(new)
    assert os.listdir(base) == []


def test_what_somebody_else_has_put_in_the_place_of_a_directory_is_not_used(base: str) -> None:
    directory = make(base)
    shutil.rmtree(directory.path)
    os.mkdir(directory.path)
    os.chmod(directory.path, 0o755)
    with pytest.raises(FileExistsError):
        directory.renew()
    assert not directory.is_there


def test_what_is_linked_to_in_a_directory_that_workers_have_made_again_is_not_given_to_them(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda file, uid, gid: given.append(os.fstat(file).st_ino))
    directory = Directory.of_master(base, UID + 1, GID, None)
    shutil.rmtree(directory.path)
    os.mkdir(directory.path, 0o700)
    linked = Path(base, "linked")
    linked.touch()
    os.link(linked, marker(directory))
    given.clear()
    directory.renew()
    assert given == [os.stat(directory.path).st_ino]
    end(directory)
    assert os.listdir(base) == ["linked"]


def test_a_master_that_ends_leaves_alone_what_has_its_path_by_now(base: str) -> None:
    directory = make(base)
    shutil.rmtree(directory.path)
    os.mkdir(directory.path, 0o700)
    Path(marker(directory)).touch()
    end(directory)
    assert os.listdir(directory.path) == [_marker_of(PID)]


def test_what_workers_are_found_by_is_kept_young_and_nothing_else(base: str) -> None:
    directory = make(base)
    names = ["1.a", "2.b", _marker_of(PID)]
    for name in names:
        Path(directory.path, name).touch()
    paths = [directory.path, *(os.path.join(directory.path, name) for name in names)]
    for path in reversed(paths):
        os.utime(path, (0, 0))
    assert keep(directory.path, "1.a")
    assert [os.stat(path).st_mtime > 0 for path in paths] == [True, True, False, True]
    end(directory)
    assert not keep(directory.path, "1.a")


def test_a_master_whose_former_one_has_no_directory_makes_one(base: str) -> None:
    other = make(base)
    new = make(base, former=PID + 1)
    assert new.path != other.path
    end(other)
    end(new)


def test_what_is_not_a_private_directory_of_this_user_is_neither_shared_nor_removed(base: str) -> None:
    public = Path(base, "uvicorn-worker-1-1-public")
    public.mkdir(mode=0o755)
    public.chmod(0o755)
    Path(public, _marker_of(PID)).touch()
    link = Path(base, "uvicorn-worker-1-1-link")
    link.symlink_to(public)
    Path(base, "uvicorn-worker-1-1-file").touch()
    Path(base, "another").mkdir(mode=0o700)
    before = set(os.listdir(base))
    directory = make(base, former=PID)
    assert os.path.basename(directory.path) not in before
    end(directory)
    assert set(os.listdir(base)) == before


def test_a_base_that_is_too_long_for_sockets_is_left_for_another(base: str) -> None:
    long = os.path.join(base, "x" * 60)
    os.mkdir(long)
    directory = make(long)
    assert not directory.path.startswith(base)
    end(directory)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No directory takes a temporary file, as in a container with a read-only file system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(tempfile, "tempdir", None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_base_that_is_named_is_enough_where_there_is_none_for_temporary_files(base: str, nowhere: None) -> None:
    with pytest.raises(OSError, match="No usable temporary directory"):
        tempfile.gettempdir()
    directory = make(base)
    assert os.path.dirname(directory.path) == base
    end(directory)


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_base_without_locks_is_one_error_that_says_what_to_do_and_leaves_nothing(
    base: str, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    os.mkdir(os.path.join(base, "uvicorn-worker-1-of-another"), mode=0o700)

    def refuse(file: int, how: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=rf"in {base} can't be locked \({os.strerror(reason)}\): name another"):
        make(base)
    assert os.listdir(base) == ["uvicorn-worker-1-of-another"]


def test_a_directory_that_is_named_is_made_once_and_stays(base: str) -> None:
    path = os.path.join(base, "run", "app")
    assert own_directory(path, UID, GID) == own_directory(path, UID, GID) == path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    os.chmod(path, 0o755)
    assert own_directory(path, UID, GID) == path
    with pytest.raises(OSError, match="too long"):
        own_directory(os.path.join(base, "x" * 80), UID, GID)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_directory_that_is_named_and_that_others_can_write_to_is_refused(base: str, mode: int) -> None:
    os.chmod(base, mode)
    with pytest.raises(OSError, match="is not private"):
        own_directory(base, UID, GID)


@pytest.mark.skipif(UID != 0, reason="only root has other users")
def test_a_directory_that_is_named_is_one_of_the_user_who_runs_workers_or_of_root(base: str) -> None:
    assert own_directory(base, UID + 1, GID) == base
    os.chown(base, UID + 1, GID)
    assert own_directory(base, UID + 1, GID) == base
    with pytest.raises(OSError, match="is not private"):
        own_directory(base, UID + 2, GID)


def test_a_master_with_the_pid_of_another_container_is_not_taken_for_the_former_one(base: str) -> None:
    other = make(base)
    os.rename(marker(other), os.path.join(other.path, f"{PID}.1.master"))
    new = make(base, former=PID)
    assert new.path != other.path
    end(other)
    end(new)


def test_no_file_is_made_where_a_link_in_the_directory_leads(base: str) -> None:
    old = make(base)
    os.rename(marker(old), marker(old, PID + 1))
    os.symlink(os.path.join(base, "planted"), marker(old))
    new = make(base, former=PID + 1)
    assert new.path == old.path
    assert not os.path.exists(os.path.join(base, "planted"))
    die(old)
    die(new)
