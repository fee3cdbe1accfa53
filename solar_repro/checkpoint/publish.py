"""Publishing a folder whole or not at all: written beside its final place, flushed, then renamed."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from solar_repro.checkpoint.manifest import write_manifest
from solar_repro.checkpoint.owner import is_dead, this_process
from solar_repro.errors import UserError

_WORKING = re.compile(r"\.(.+)\.working\.(.+)\.[^.]+")
"""Name of a working folder: the place's name, the process."""


class Occupied(UserError):
    """Another result lies in the place already."""


@contextmanager
def publish(final: Path, digests: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a fresh working folder beside `final`; on success it becomes `final`, else it is removed.

    Its files are flushed to disk, `manifest.json` is written last (with `digests`, a mapping that may be
    filled inside the block; other files are hashed), then one rename. What killed processes left for the same
    place is removed. A full disk raises UserError.
    """
    final = Path(final).absolute()
    _refuse_occupied(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        working = Path(tempfile.mkdtemp(prefix=f"{_prefix(final)}{this_process()}.", dir=final.parent))
    except OSError as error:
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    try:
        working.chmod(0o777 & ~_umask())
        yield working
        write_manifest(working, digests)
        share(working)
        flush(working)
        _refuse_occupied(final)
        try:
            working.rename(final)
        except OSError as error:
            _refuse_occupied(final)  # since we looked
            raise error
        flush_entry(final.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(final.parent).free
            raise UserError(
                f"{final}: the disk is full, {free:,} bytes were free when writing failed; "
                "free some space or choose another folder"
            ) from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def remove(final: Path) -> None:
    """Remove a published folder, renamed first: a killed removal leaves nothing that passes for a result.

    Of a link the link alone goes.
    """
    doomed = final.with_name(f"{_prefix(final)}{this_process()}.removed")
    final.rename(doomed)
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed)


def set_aside(final: Path) -> Path:
    """Give a damaged result's folder a name that says so, and return it: nothing of it is lost.

    UserError where it cannot be renamed, as where it is another user's.
    """
    for number in count(1):
        aside = final.with_name(f"{final.name}.damaged-{number}")
        if not os.path.lexists(aside):
            break
    try:
        final.rename(aside)
    except OSError as error:
        raise UserError(
            f"{final}: is damaged and cannot be renamed ({error.strerror}); ask its owner, or choose "
            "another store"
        ) from error
    return aside


def remove_leftovers(final: Path) -> list[Path]:
    """Remove and return working folders for `final` whose processes are surely dead."""
    removed = [folder for folder in leftovers(final.parent) if folder.name.startswith(_prefix(final))]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def leftovers(parent: Path) -> list[Path]:
    """Working folders in `parent`, for any place, whose processes are surely dead."""
    return [folder for folder in working_folders(parent) if is_dead(worker(folder))]


def working_folders(parent: Path) -> list[Path]:
    """All working folders in `parent`, of whatever process on whatever machine."""
    return [folder for folder in sorted(parent.iterdir()) if _WORKING.fullmatch(folder.name)]


def worker(working: Path) -> str:
    """Name of the process (`owner.this_process`) that a working folder belongs to."""
    return _WORKING.fullmatch(working.name)[2]


def published_as(working: Path) -> Path:
    """The place that a working folder is to have."""
    return working.with_name(_WORKING.fullmatch(working.name)[1])


def _prefix(final: Path) -> str:
    return f".{final.name}.working."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_occupied(final: Path) -> None:
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise Occupied(f"{final}: already exists; remove it or choose another folder")


def share(folder: Path, around: Path | None = None) -> None:
    """Let the group that may write to the folder around it write to all that is in it, whatever the umask.

    `around` is that folder where it does not lie in it yet.
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


def shared_folder(folder: Path) -> None:
    """Make a folder where there is none; a group that may write around it may write to it too."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    share(folder)


def share_file(file: int, folder: Path) -> None:
    """Let the group write to an open file of this user's, if it may write to the folder around it."""
    found, around = os.fstat(file), folder.stat()
    ours = (found.st_uid, found.st_gid) == (os.geteuid(), around.st_gid)
    if ours and around.st_mode & stat.S_IWGRP:
        os.fchmod(file, stat.S_IMODE(found.st_mode) | (around.st_mode & stat.S_IRWXG & ~stat.S_IXGRP))


def flush(folder: Path) -> None:
    """Have all files of a folder, and their names, written to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            flush_entry(Path(parent, name))
        flush_entry(Path(parent))


def flush_entry(path: Path) -> None:
    """Have a file's content, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
