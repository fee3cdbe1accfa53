"""A lock beside a result's place, held by the process that makes the result."""

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from solar_repro.safety.redact import printable
from solar_repro.safety.regular_files import open_own_file

# Not filelock (4.3): it cannot lock another user's file that may only be read, and keeps no owner's name.
_MAX_OWNER = 200  # characters


class LockHeld(Exception):
    """Another process holds the lock; the message names it."""


@contextmanager
def locked(final: Path, waiting: Callable[[str], None] | None) -> Iterator[str | None]:
    """Hold the lock of the place `final`; yields None, or the reason why it cannot be locked.

    If another process holds the lock, `waiting` is called with that process's name and the lock is waited
    for; without `waiting`, LockHeld is raised. The kernel releases the lock when its process dies in any way,
    on NFS between machines too. In a read-only store or on a file system without locks nothing is locked; of
    two processes that make the same result, publishing then refuses the second. Raises UserError if the
    lock's path is not a regular file.
    """
    path = final.with_name(f".{final.name}.lock")
    file = _acquire(path, waiting)
    if isinstance(file, str):
        yield file
        return
    try:
        yield None
    finally:
        with suppress(OSError):  # another user's file in a folder like /tmp stays there
            path.unlink(
                missing_ok=True
            )  # while locked: a waiting process sees that it is gone and makes a new one
        file.close()


def _open(path: Path) -> TextIO:
    """Open the lock file, or make it; another user's file is opened for reading if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.fdopen(open_own_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+", errors="replace")
    except PermissionError:
        if not path.exists() and not os.access(path.parent, os.W_OK, effective_ids=True):
            raise
        return os.fdopen(open_own_file(path, os.O_RDONLY), errors="replace")
    if _is_ours(file):
        # Whoever may write to the folder may lock in it, whatever this user's umask is.
        os.fchmod(file.fileno(), stat.S_IMODE(path.parent.stat().st_mode) & 0o666 | 0o600)
    return file


def _acquire(path: Path, waiting: Callable[[str], None] | None) -> TextIO | str:
    while True:
        try:
            file = _open(path)
        except FileNotFoundError:
            continue  # its owner has removed it since
        except OSError as error:
            return error.strerror
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = printable(_read_owner(file)) or "another process"
            if waiting is None:
                file.close()
                raise LockHeld(owner) from None
            waiting(owner)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            file.close()
            return error.strerror
        if _is_at(file, path):
            break
        file.close()
    with suppress(OSError):  # on a full disk the lock holds without its owner's name
        if not _is_ours(file):
            return file
        os.ftruncate(file.fileno(), 0)
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        os.write(file.fileno(), f"{owner}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC".encode())
    return file


def _read_owner(file: TextIO) -> str:
    file.seek(0)
    return file.read(_MAX_OWNER).strip()


def _is_ours(file: TextIO) -> bool:
    """Whether the file may be written: it belongs to this user and has no second hard link."""
    found = os.fstat(file.fileno())
    return found.st_nlink == 1 and found.st_uid == os.geteuid()


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False
