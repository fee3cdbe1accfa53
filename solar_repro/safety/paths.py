"""Paths as people write them, and checks before any work that folders can be written."""

import os
import shutil
import tempfile
from pathlib import Path

from solar_repro.errors import UserError


def expand_home(place: str) -> str:
    """Return a path with `~` replaced by the home folder; raises UserError if that is unknown."""
    found = os.path.expanduser(place)
    if found.startswith("~"):
        home = place.partition("/")[0]
        raise UserError(f"{place}: the home folder {home} is not known here; write the whole path, from /")
    return found


def require_writable(folder: Path, what: str, setting: str) -> None:
    """Make a folder and try to write in it.

    Raises UserError, which names `what` the folder is for and the `setting` to change.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {folder}: cannot be written ({error.strerror}); set {setting} to a folder that can be "
            "written"
        ) from None


def require_memory(free: int, needed: int, what: str) -> None:
    """Raise UserError if a step that needs `needed` bytes of memory has only `free` ones."""
    if free < needed:
        raise UserError(
            f"{what}: its models take {needed / 1e9:,.1f} GB of memory at least, and {free / 1e9:,.1f} GB "
            "are free; take a smaller model, or a machine or GPUs with more memory"
        )


def require_space(out: Path, needed: int) -> None:
    """Raise UserError if fewer than `needed` bytes are free on the disk of `out`."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"{out}: {needed:,} bytes are needed, {free:,} are free; free some space or choose another folder"
        )
