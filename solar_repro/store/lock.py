"""One maker at a time: a lock beside a result's place, held by the process that makes it."""

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

_LONGEST_OWNER = 200  # characters


class LockHeld(Exception):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked(final: Path, waiting: Callable[[str], None] | None) -> Iterator[str | None]:
    """Hold the lock of the place `final`; yields `None`, or why no lock can be had.

    Where another process holds it, `waiting` is told which and it is waited for; without `waiting`: Held.
    The kernel lets go of a lock when its process dies, however that comes, on NFS between machines too. Where
    none can be had (a store that is only read, a file system without locks) nothing is held: publishing
    refuses the second of two that make the same. Anything but a file in the lock's place: UserError.
    """
    path = final.with_name(f".{final.name}.lock")
    file = _acquire(path, waiting)
    if isinstance(file, str):
        yield file
        return
    try:
        yield None
    finally:
        with suppress(OSError):  # another user's in a folder like /tmp: it stays, for the next one
            path.unlink(missing_ok=True)  # while it is held: who waits for it finds it gone, makes its own
        file.close()


def _open(path: Path) -> TextIO:
    """The lock's file, made where there is none. Another user's may perhaps be read alone: that will do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.fdopen(open_own_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+", errors="replace")
    except PermissionError:
        if not path.exists() and not os.access(path.parent, os.W_OK, effective_ids=True):
            raise
        return os.fdopen(open_own_file(path, os.O_RDONLY), errors="replace")
    if _is_ours(file):
        # Who may write to the folder may lock in it, whatever this user's umask is.
        os.fchmod(file.fileno(), stat.S_IMODE(path.parent.stat().st_mode) & 0o666 | 0o600)
    return file


def _acquire(path: Path, waiting: Callable[[str], None] | None) -> TextIO | str:
    while True:
        try:
            file = _open(path)
        except FileNotFoundError:
            continue  # its holder has removed it since
        except OSError as error:
            return error.strerror
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = printable(_told_by(file)) or "another process"
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
    with suppress(OSError):  # a full disk: the lock holds without its owner's name
        if not _is_ours(file):
            return file
        os.ftruncate(file.fileno(), 0)
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        os.write(file.fileno(), f"{owner}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC".encode())
    return file


def _told_by(file: TextIO) -> str:
    file.seek(0)
    return file.read(_LONGEST_OWNER).strip()


def _is_ours(file: TextIO) -> bool:
    """Whether it may be written into: not one with a second name, or of another user."""
    found = os.fstat(file.fileno())
    return found.st_nlink == 1 and found.st_uid == os.geteuid()


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False
