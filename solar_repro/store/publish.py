"""Files and folders that appear whole or not at all: written beside their place, flushed, then renamed."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from solar_repro.errors import UserError
from solar_repro.store.manifest import write_manifest
from solar_repro.store.owner import is_dead, this_process

_WORKING = re.compile(r"\.(.+)\.working\.(.+)\.[^.]+")
"""Name of a working folder or file: the place's name, the process."""
_ASIDE = re.compile(r"(.+)\.damaged-[1-9][0-9]*")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITTEN = (*_FULL, errno.EFBIG)
"""What no reading ends with."""


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
        raise _unwritable(final.parent, error) from error
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
        if error.errno == errno.EFBIG:
            raise _unwritable(final.parent, error) from error
        if error.errno in _FULL:
            free = shutil.disk_usage(final.parent).free
            raise UserError(
                f"{final}: the disk is full, {free:,} bytes were free when writing failed; "
                "free some space or choose another folder"
            ) from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


@contextmanager
def replacing(place: Path, advice: str = "choose another place") -> Iterator[Path]:
    """Yield a fresh file beside `place`; on success it is flushed and takes that place, else it is removed.

    A place that cannot be written, as on a full disk: UserError that ends in `advice`.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{_prefix(place)}{this_process()}.", dir=place.parent)
    except OSError as error:
        raise _unwritable(place.parent, error, advice) from error
    working = Path(name)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        os.close(descriptor)
        yield working
        flush_entry(working)
        working.replace(place)
        flush_entry(place.parent)
    except OSError as error:
        if error.errno in _UNWRITTEN:
            raise _unwritable(place.parent, error, advice) from error
        raise
    finally:
        working.unlink(missing_ok=True)


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """The same for a folder: the old one stands until the new one is whole, and goes then.

    Another process may put its own there at the same time; another user's, who does not share it: UserError.
    """
    doomed: list[Path] = []
    try:
        shared_folder(place.parent)
        working = Path(tempfile.mkdtemp(prefix=f"{_prefix(place)}{this_process()}.", dir=place.parent))
    except OSError as error:
        raise _unwritable(place.parent, error) from error
    try:
        working.chmod(0o777 & ~_umask())
        yield working
        share(working)
        flush(working)
        while working.exists():
            doomed.append(working.with_name(f"{working.name}_removed_{len(doomed)}"))
            try:
                with suppress(FileNotFoundError):
                    place.rename(doomed[-1])
                working.rename(place)
            except PermissionError as error:
                raise UserError(
                    f"{place}: another user's, not to be replaced ({error.strerror}); ask who owns it, or "
                    "choose another store"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        flush_entry(place.parent)
    except OSError as error:
        if error.errno in _UNWRITTEN:
            raise _unwritable(place.parent, error) from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    for old in filter(os.path.lexists, doomed):
        discard(old)


def write_whole(place: Path, text: str) -> None:
    """Write a text file so that it is the old one or the new one whenever the process is killed."""
    with replacing(place) as working:
        working.write_text(text, encoding="utf-8")


def remove(final: Path) -> None:
    """Remove a folder or file, renamed first: a killed removal leaves nothing that passes for a result.

    Of a link the link alone goes.
    """
    doomed = final.with_name(f"{_prefix(final)}{this_process()}.removed")
    final.rename(doomed)
    discard(doomed)


def discard(path: Path) -> None:
    """Remove a folder with all that is in it, or a file; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


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


def set_aside_from(path: Path) -> Path | None:
    """The place that `set_aside` has moved a folder from; None for any other name."""
    match = _ASIDE.fullmatch(path.name)
    return path.with_name(match[1]) if match else None


def remove_leftovers(final: Path) -> list[Path]:
    """Remove and return working folders for `final` whose processes are surely dead."""
    removed = [folder for folder in leftovers(final.parent) if folder.name.startswith(_prefix(final))]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def leftovers(parent: Path) -> list[Path]:
    """Working folders and files in `parent`, for any place, whose processes are surely dead."""
    return [folder for folder in working_folders(parent) if is_dead(worker(folder))]


def working_folders(parent: Path) -> list[Path]:
    """All working folders and files in `parent`, of whatever process on whatever machine."""
    return [folder for folder in sorted(parent.iterdir()) if _WORKING.fullmatch(folder.name)]


def worker(working: Path) -> str:
    """Name of the process (`owner.this_process`) that a working folder belongs to."""
    return _WORKING.fullmatch(working.name)[2]


def published_as(working: Path) -> Path:
    """The place that a working folder is to have."""
    return working.with_name(_WORKING.fullmatch(working.name)[1])


def _prefix(final: Path) -> str:
    return f".{final.name}.working."


def _unwritable(folder: Path, error: OSError, advice: str = "choose another place") -> UserError:
    free = ""
    if error.errno in _FULL:
        free = f", {shutil.disk_usage(folder).free:,} bytes are free"
    return UserError(f"{folder}: cannot be written ({error.strerror}{free}); {advice}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_empty(folder: Path) -> bool:
    """Whether nothing lies in a folder; of one that may not be read that is not known, and so false."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return False


def _refuse_occupied(final: Path) -> None:
    if final.exists() and not (final.is_dir() and is_empty(final)):
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
