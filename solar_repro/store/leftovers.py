"""Folders beside results that are not results: being written, left by dead processes, or damaged."""

import os
import re
import shutil
from itertools import count
from pathlib import Path

from solar_repro.errors import UserError
from solar_repro.store.owner import is_dead, process_name

_WORKING = re.compile(r"\.(.+)\.working\.(.+)\.[^.]+")
"""Name of a working folder or file: the name of its final place, then the process."""
_DAMAGED = re.compile(r"(.+)\.damaged-[1-9][0-9]*")


def working_prefix(final: Path) -> str:
    """Return how the names of this process's working folders for `final` begin."""
    return f"{_prefix(final)}{process_name()}."


def remove(final: Path) -> None:
    """Remove a folder or file; it is renamed first, so that a killed removal leaves no half of a result.

    Of a link only the link itself is removed.
    """
    removed = final.with_name(f"{working_prefix(final)}removed")
    final.rename(removed)
    delete(removed)


def delete(path: Path) -> None:
    """Delete a folder with all that is in it, or a file; of a link only the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def set_aside_damaged(final: Path) -> Path:
    """Rename a damaged result's folder to `<name>.damaged-<n>` and return the new path; nothing is deleted.

    Raises UserError if it cannot be renamed, for example because it belongs to another user.
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


def original_of_damaged(path: Path) -> Path | None:
    """Return the path that `set_aside_damaged` renamed a folder from; None for any other folder."""
    match = _DAMAGED.fullmatch(path.name)
    return path.with_name(match[1]) if match else None


def remove_leftovers(final: Path) -> list[Path]:
    """Remove and return the working folders for `final` whose processes are surely dead."""
    removed = [folder for folder in leftovers(final.parent) if folder.name.startswith(_prefix(final))]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def leftovers(parent: Path) -> list[Path]:
    """Return the working folders and files in `parent` whose processes are surely dead."""
    return [folder for folder in working_folders(parent) if is_dead(process_of(folder))]


def working_folders(parent: Path) -> list[Path]:
    """Return all working folders and files in `parent`, of any process on any machine."""
    return [folder for folder in sorted(parent.iterdir()) if _WORKING.fullmatch(folder.name)]


def process_of(working: Path) -> str:
    """Return the name (`owner.process_name`) of the process that a working folder belongs to."""
    return _WORKING.fullmatch(working.name)[2]


def final_place(working: Path) -> Path:
    """Return the path that a working folder is renamed to when it is published."""
    return working.with_name(_WORKING.fullmatch(working.name)[1])


def _prefix(final: Path) -> str:
    return f".{final.name}.working."


def is_empty(folder: Path) -> bool:
    """Whether a folder is empty; False if it cannot be read."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return False
