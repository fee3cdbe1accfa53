"""Files and folders that appear whole or not at all: written beside their place, flushed, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from solar_repro.errors import UserError
from solar_repro.store.disk import (
    flush_folder,
    flush_path,
    make_shared_folder,
    share_with_group,
    umask,
)
from solar_repro.store.leftovers import delete, is_empty, remove_leftovers, working_prefix
from solar_repro.store.manifest import write_manifest

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE_ERRORS = (*_FULL, errno.EFBIG)
"""Errors that only writing ends with, never reading."""


class PlaceOccupied(UserError):
    """Another result is already in this place."""


@contextmanager
def publish(final: Path, digests: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a fresh working folder beside `final`; it becomes `final`, or is removed if the block fails.

    `manifest.json` is written last, the files are flushed to disk, then one rename publishes the folder.
    `digests` gives the SHA-256 of files by name, and may be filled inside the block; other files are hashed.
    What killed processes left for the same place is removed. Raises PlaceOccupied if another result is there,
    and UserError if the disk is full.
    """
    final = Path(final).absolute()
    _refuse_occupied(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        working = Path(tempfile.mkdtemp(prefix=working_prefix(final), dir=final.parent))
    except OSError as error:
        raise _unwritable(final.parent, error) from error
    try:
        working.chmod(0o777 & ~umask())
        yield working
        write_manifest(working, digests)
        share_with_group(working)
        flush_folder(working)
        _refuse_occupied(final)
        try:
            working.rename(final)
        except OSError as error:
            _refuse_occupied(final)  # another process may have published since
            raise error
        flush_path(final.parent)
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
def replace_file(place: Path, advice: str = "choose another place") -> Iterator[Path]:
    """Yield a fresh file beside `place`; if the block succeeds it replaces `place`, else it is removed.

    Raises UserError, which ends in `advice`, if `place` cannot be written, for example on a full disk.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=working_prefix(place), dir=place.parent)
    except OSError as error:
        raise _unwritable(place.parent, error, advice) from error
    working = Path(name)
    try:
        os.fchmod(descriptor, 0o666 & ~umask())
        os.close(descriptor)
        yield working
        flush_path(working)
        working.replace(place)
        flush_path(place.parent)
    except OSError as error:
        if error.errno in _WRITE_ERRORS:
            raise _unwritable(place.parent, error, advice) from error
        raise
    finally:
        working.unlink(missing_ok=True)


@contextmanager
def replace_folder(place: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `place`; if the block succeeds it replaces `place`, else it is removed.

    The old folder stays until the new one is complete. Another process may replace it at the same time.
    Raises UserError if the old folder belongs to another user who does not share it.
    """
    removed: list[Path] = []
    try:
        make_shared_folder(place.parent)
        working = Path(tempfile.mkdtemp(prefix=working_prefix(place), dir=place.parent))
    except OSError as error:
        raise _unwritable(place.parent, error) from error
    try:
        working.chmod(0o777 & ~umask())
        yield working
        share_with_group(working)
        flush_folder(working)
        while working.exists():
            removed.append(working.with_name(f"{working.name}_removed_{len(removed)}"))
            try:
                with suppress(FileNotFoundError):
                    place.rename(removed[-1])
                working.rename(place)
            except PermissionError as error:
                raise UserError(
                    f"{place}: another user's, not to be replaced ({error.strerror}); ask who owns it, or "
                    "choose another store"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        flush_path(place.parent)
    except OSError as error:
        if error.errno in _WRITE_ERRORS:
            raise _unwritable(place.parent, error) from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    for old in filter(os.path.lexists, removed):
        delete(old)


def write_atomically(place: Path, text: str) -> None:
    """Write a text file (UTF-8); a kill at any moment leaves either the old content or the new."""
    with replace_file(place) as working:
        working.write_text(text, encoding="utf-8")


def _unwritable(folder: Path, error: OSError, advice: str = "choose another place") -> UserError:
    free = ""
    if error.errno in _FULL:
        free = f", {shutil.disk_usage(folder).free:,} bytes are free"
    return UserError(f"{folder}: cannot be written ({error.strerror}{free}); {advice}")


def _refuse_occupied(final: Path) -> None:
    if final.exists() and not (final.is_dir() and is_empty(final)):
        raise PlaceOccupied(f"{final}: already exists; remove it or choose another folder")
