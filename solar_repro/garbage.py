"""What a store holds that nothing refers to any more."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from solar_repro.checkpoint.lock import Held, locked
from solar_repro.checkpoint.manifest import MANIFEST_FILE
from solar_repro.checkpoint.publish import leftovers, remove
from solar_repro.errors import UserError
from solar_repro.saving import saved_for

_RESULT = re.compile(r".+-([0-9a-f]{8})")


@dataclass(frozen=True)
class Unneeded:
    """A folder that may go, and why."""

    path: Path
    why: str
    bytes: int

    def remove(self) -> bool:
        """Remove it; False where a process works on it."""
        try:
            with locked(saved_for(self.path) or self.path, None):
                remove(self.path)
        except Held:
            return False
        return True


def _results(store: Path) -> dict[Path, str]:
    """Published results right in the store → first 8 digits of their key. Links are none of the store's."""
    if not store.is_dir():
        return {}
    return {
        path: match[1]
        for path in sorted(store.iterdir())
        if (match := _RESULT.fullmatch(path.name))
        and not path.is_symlink()
        and (path / MANIFEST_FILE).is_file()
    }


def unneeded(store: Path, planned: set[str], known: Callable[[str], bool]) -> list[Unneeded]:
    """Results that the plan does not name and no run refers to, and what dead processes left.

    `planned`: folder names of the plan's results; `known` says whether a run has a key that begins so. Where
    that leaves no result at all, UserError: it is the wrong server.
    """
    all_results = _results(store)
    found = [
        Unneeded(path, "no run", _bytes(path))
        for path, key in all_results.items()
        if path.name not in planned and not known(key)
    ]
    if found and len(found) == len(all_results):
        raise UserError(
            f"{store}: no result is known to the tracking server or the scale's plan; "
            "set MLFLOW_TRACKING_URI and the scale that made them"
        )
    if store.is_dir():
        found += [Unneeded(path, "left by a dead process", _bytes(path)) for path in leftovers(store)]
        found += [
            Unneeded(path, "unfinished work", _bytes(path))
            for path in sorted(store.iterdir())
            if (result := saved_for(path)) and (result.name not in planned or result.exists())
        ]
    return found


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
