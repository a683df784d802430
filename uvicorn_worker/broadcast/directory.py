"""The directory in which the workers of one master find each other.

It is the master's own, made before it forks, and locked as long as it or one of its workers lives: a directory whose
lock can be had is of a master that was killed, and is swept by the next one. A master that takes over from another
(Gunicorn's USR2) shares the other's directory, which has a file that is named after each master.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress

#: The number says what workers speak to each other: those of another version have another directory.
_PREFIX = "uvicorn-worker-1-"

#: What the names of files end with that are named after masters.
_MASTER = ".master"

#: Bytes of the path of a directory: that of a Unix socket in it may have 103 on every system.
_LONGEST_PATH = 103 - 30


class Directory:
    """A directory of this master's, or one that it shares."""

    def __init__(self, path: str, lock: int, owner: tuple[int, int]) -> None:
        self.path = path
        #: The user and the group that the workers run as.
        self._owner = owner
        #: A descriptor that holds the lock, and that workers inherit.
        self._lock = lock

    @classmethod
    def of_master(cls, base: str | None, uid: int, gid: int, former: int | None) -> Directory:
        """The directory for workers that run as ``uid`` and ``gid``: that of the master ``former``, if there is one
        that this takes over from, or a new one in ``base``. What dead masters have left there is removed.

        Raises ``OSError``, also where the file system has no locks.
        """
        base = _short_base(base)
        owner = uid, gid
        _sweep(base, uid)
        directory = None if former is None else cls._shared(base, former, owner)
        while directory is None:
            directory = cls._new(base, owner)
        directory._mark()
        atexit.register(directory._remove, os.getpid())
        return directory

    @classmethod
    def _shared(cls, base: str, former: int, owner: tuple[int, int]) -> Directory | None:
        """The directory that the master ``former`` uses."""
        for path in _directories(base, owner[0]):
            if os.path.exists(os.path.join(path, _marker_of(former))):
                lock = _lock(path, fcntl.LOCK_SH)
                if lock is not None:
                    return cls(path, lock, owner)
        return None

    @classmethod
    def _new(cls, base: str, owner: tuple[int, int]) -> Directory | None:
        path = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)
        try:
            lock = _lock(path, fcntl.LOCK_SH)
        except OSError as error:
            os.rmdir(path)
            reason = f"directories in {base} can't be locked ({error.strerror}): name another, as /dev/shm"
            raise OSError(error.errno, reason) from None
        if lock is None or not os.path.exists(path):
            return None  # Another master has swept it in this moment.
        _give(lock, owner)
        return cls(path, lock, owner)

    @property
    def is_there(self) -> bool:
        """Whether workers that begin now find the others there."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._lock))
        except OSError:
            return False

    def renew(self) -> None:
        """Make it again where somebody has removed it, as what cleans up temporary files may: its workers look for it
        there. Raises ``OSError``, also where there is what is not private by now."""
        with suppress(FileExistsError):  # Another master has been faster, or somebody who is none.
            os.mkdir(self.path, 0o700)
        lock = _lock(self.path, fcntl.LOCK_SH)
        if lock is None:
            raise FileNotFoundError("it was removed once more")
        if not _is_private(os.fstat(lock), self._owner[0]):
            os.close(lock)
            raise FileExistsError("another user's is in its place, or one where others can write")
        os.close(self._lock)
        self._lock = lock
        _give(lock, self._owner)
        self._mark()

    def _mark(self) -> None:
        """Have it known as this master's."""
        # It may be the workers' user's, who is not to have a master that is root make files elsewhere, nor give away
        # what is linked to under this name.
        try:
            marker = os.open(_marker_of(os.getpid()), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._lock)
        except FileExistsError:  # Another master has had this pid.
            return
        try:
            _give(marker, self._owner)
        finally:
            os.close(marker)

    def _remove(self, master: int) -> None:
        """Remove it if it is the last master that does so; its workers, which have this from it, don't."""
        if os.getpid() != master:
            return
        try:
            # Of the directory that is locked: by now, another's may have its path.
            os.unlink(_marker_of(master), dir_fd=self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(self.path, ignore_errors=True)


def _give(file: int, owner: tuple[int, int]) -> None:
    """Make what is open in this process the workers'."""
    if owner != (os.geteuid(), os.getegid()):
        os.fchown(file, *owner)


def keep(path: str, name: str) -> bool:
    """Have a directory, and the file ``name`` in it, look used, so that what removes old files leaves them alone;
    whether they are there."""
    markers = [entry for entry in _names_in(path) if entry.endswith(_MASTER)]
    for file in (path, *(os.path.join(path, each) for each in (name, *markers))):
        try:
            os.utime(file, follow_symlinks=False)
        except OSError:
            pass  # It is gone, or another user's.
    return os.path.exists(os.path.join(path, name))


def _names_in(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _marker_of(master: int) -> str:
    """The name of a master's file. Where containers share the base, pids alone would be those of several masters."""
    try:
        return f"{master}.{os.stat('/proc/self/ns/pid').st_ino}{_MASTER}"
    except OSError:  # No Linux.
        return f"{master}{_MASTER}"


def _lock(path: str, how: int) -> int | None:
    """A descriptor that holds the lock of a directory; none, where others hold it or the directory is gone.

    What cleans up directories for temporary files leaves one alone that is locked (systemd-tmpfiles). Raises
    ``OSError`` where there are no locks.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    return lock


def own_directory(path: str, uid: int, gid: int) -> str:
    """The directory that an option names, made where it doesn't exist; nobody removes it. Raises ``OSError``, also
    where other users than ``uid`` can write there."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(f"{path} is too long for a directory of Unix sockets: {_LONGEST_PATH} bytes are the most")
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o700)
        if (uid, gid) != (os.geteuid(), os.getegid()):
            os.chown(path, uid, gid)
    check_owner(path, uid)
    return path


def check_owner(path: str, uid: int) -> None:
    """Raise ``OSError`` where others than the user could have workers connect to what is none."""
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid(), uid) or status.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{path} is not private: it is another user's, or others can write there")


def _short_base(base: str | None) -> str:
    """The first of some directories for temporary files that is no longer than the path of a socket allows."""
    spare = _LONGEST_PATH - len(_PREFIX) - 20
    # Others are asked for only where none is named: a read-only file system may have no other, and that raises.
    for path in (base or tempfile.gettempdir(), "/dev/shm", "/tmp"):
        if os.path.isdir(path) and len(os.fsencode(os.path.abspath(path))) <= spare:
            return os.path.abspath(path)
    raise OSError(f"no directory for temporary files has a path of {spare} bytes at most")


def _directories(base: str, uid: int) -> Iterator[str]:
    """The directories of masters, as far as they are of this user or of the workers', and private."""
    with os.scandir(base) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if _is_private(status, uid):
                yield entry.path


def _is_private(status: os.stat_result, uid: int) -> bool:
    """Whether that is a directory of this user or of the workers', and nobody else has access to it."""
    is_own = status.st_uid in (os.geteuid(), uid)
    return stat.S_ISDIR(status.st_mode) and is_own and not status.st_mode & 0o077


def _sweep(base: str, uid: int) -> None:
    """Remove the directories of masters that are gone with all their workers."""
    for path in list(_directories(base, uid)):
        try:
            lock = _lock(path, fcntl.LOCK_EX)
        except OSError:
            continue  # It can't be told whether anybody uses it.
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
