"""What makes written files last, and lets a group share them: flushes and permissions."""

import os
import stat
from pathlib import Path


def umask() -> int:
    """Return the process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def share_with_group(folder: Path, around: Path | None = None) -> None:
    """Let the group that may write to the folder around this one write to all in it, despite the umask.

    `around` is the folder around it; None means its parent.
    """
    place = (around or folder.parent).stat()
    group = place.st_mode & stat.S_IRWXG
    if not group & stat.S_IWGRP:
        return
    for parent, _, files in os.walk(folder):
        for path, bits in (
            (Path(parent), group),
            *((Path(parent, name), group & ~stat.S_IXGRP) for name in files),
        ):
            found = path.lstat()
            if found.st_gid == place.st_gid and not stat.S_ISLNK(found.st_mode):
                path.chmod(stat.S_IMODE(found.st_mode) | bits)


def make_shared_folder(folder: Path) -> None:
    """Make a folder unless it exists, and let a group that may write to its parent write to it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    share_with_group(folder)


def share_file_with_group(file: int, folder: Path) -> None:
    """Let the group write to this user's open file if it may write to the `folder` that holds the file."""
    found, around = os.fstat(file), folder.stat()
    ours = (found.st_uid, found.st_gid) == (os.geteuid(), around.st_gid)
    if ours and around.st_mode & stat.S_IWGRP:
        os.fchmod(file, stat.S_IMODE(found.st_mode) | (around.st_mode & stat.S_IRWXG & ~stat.S_IXGRP))


def flush_folder(folder: Path) -> None:
    """Write all files of a folder, and their names, to the disk (fsync)."""
    for parent, _, files in os.walk(folder):
        for name in files:
            flush_path(Path(parent, name))
        flush_path(Path(parent))


def flush_path(path: Path) -> None:
    """Write a file's content, or the names in a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
