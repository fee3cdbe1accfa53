"""Places as people write them, and folders that are written to, tried before any work."""

import os
import shutil
import tempfile
from pathlib import Path

from solar_repro.errors import UserError


def expanded(place: str) -> str:
    """A place with `~` as the home folder it stands for; UserError where that is not known."""
    found = os.path.expanduser(place)
    if found.startswith("~"):
        home = place.partition("/")[0]
        raise UserError(f"{place}: the home folder {home} is not known here; write the whole path, from /")
    return found


def require_writable(folder: Path, what: str, setting: str) -> None:
    """Make the folder and try to write in it; UserError names `what` it is for, and the `setting`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {folder}: cannot be written ({error.strerror}); set {setting} to a folder that can be "
            "written"
        ) from None


def require_space(out: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold (UserError)."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"{out}: {needed:,} bytes are needed, {free:,} are free; free some space or choose another folder"
        )
