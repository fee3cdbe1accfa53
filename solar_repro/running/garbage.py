"""What a store holds that nothing refers to any more."""

import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from solar_repro.plan.provenance import made_in
from solar_repro.store.leftovers import final_place, original_of_damaged, process_of, remove, working_folders
from solar_repro.store.lock import LockHeld, locked
from solar_repro.store.manifest import MANIFEST_FILE
from solar_repro.store.owner import is_dead
from solar_repro.store.resume import result_of_job_file, result_of_resume_folder

_RESULT = re.compile(r".+-([0-9a-f]{8})")
ELSEWHERE = "registered elsewhere"
"""Why a result may go: the server that is asked knows no run of it, not even the one that made it."""
STRANGE = "perhaps still in use"
"""What a process of another machine, container or boot works on, or did: whether it lives is not known."""
DAMAGED = "set aside as damaged"


class Server(Protocol):
    """What is asked of a tracking server."""

    def knows(self, key: str) -> bool:
        """Whether a run that is not deleted has a key that begins so."""

    def has(self, run_id: str) -> bool:
        """Whether there is a run of that id, perhaps deleted."""


@dataclass(frozen=True)
class Unneeded:
    """A folder or file that may go, and why."""

    path: Path
    why: str
    bytes: int
    place: Path
    """The step's place in the store, whose lock is taken."""
    still: Callable[[], bool]
    """Whether it may go, asked again under the lock."""

    def remove(self) -> str | None:
        """Remove it; else why it was left: in use, needed since it was listed, or not to be removed."""
        try:
            with locked(self.place, None) as unlocked:
                if unlocked:
                    return f"its lock cannot be taken ({unlocked})"
                if not self.still():
                    return "needed again"
                if not _may_be_removed(self.path):
                    return "belongs to another user"
                remove(self.path)
        except LockHeld:
            return "in use"
        except OSError as error:
            return f"cannot be removed ({error.strerror})"
        return None


def _results(store: Path) -> dict[Path, str]:
    """Published results right in the store → first 8 digits of their key. Links are none of the store's."""
    return {
        path: match[1]
        for path in sorted(store.iterdir())
        if (match := _RESULT.fullmatch(path.name))
        and not path.is_symlink()
        and (path / MANIFEST_FILE).is_file()
    }


def unneeded(store: Path, planned: set[str], server: Server, beside: Iterable[Path] = ()) -> list[Unneeded]:
    """Results, and the state of unfinished ones, that the plan does not name and no run refers to.

    `planned`: folder names of the plan's results; `beside`: further folders where files are written. What is
    `ELSEWHERE` may be needed by another server's runs, what is `DAMAGED` is perhaps all that is left of weeks
    of work; what is `STRANGE` is never removed.
    """
    found = []
    for folder in filter(Path.is_dir, (store, *beside)):
        found += _left_by_others(folder)
    return (_in_store(store, planned, server) if store.is_dir() else []) + found


def _in_store(store: Path, planned: set[str], server: Server) -> list[Unneeded]:
    found = []
    for path, key in _results(store).items():
        if path.name not in planned and not server.knows(key):
            run_id = made_in(path)
            why = "no run" if run_id and server.has(run_id) else ELSEWHERE
            found.append(_unneeded(path, why, path, lambda key=key: not server.knows(key)))
    for path in sorted(store.iterdir()):
        result = result_of_resume_folder(path) or result_of_job_file(path)
        # A training goes on from its state as long as its run is there; a job alone is of no use.
        asked = server if result_of_resume_folder(path) else None
        if result and _is_unawaited(result, planned, asked):
            kept = any(original_of_damaged(state) for state in path.glob("*"))
            why = DAMAGED if kept else "unfinished work"
            still = partial(_is_unawaited, result, planned, asked)
            found.append(_unneeded(path, why, result, still))
        elif result_of_resume_folder(path):
            found += [
                _unneeded(state, DAMAGED, result, lambda: True)
                for state in sorted(path.glob("*"))
                if original_of_damaged(state)
            ]
        elif result := original_of_damaged(path):
            found.append(_unneeded(path, DAMAGED, result, lambda: True))
    return found


def _is_unawaited(result: Path, planned: set[str], server: Server | None) -> bool:
    """Whether unfinished work on a result is of no use: it is there, or neither planned nor known."""
    key = _RESULT.fullmatch(result.name)
    known = server is not None and key is not None and server.knows(key[1])
    return result.exists() or not (result.name in planned or known)


def _left_by_others(folder: Path) -> list[Unneeded]:
    """What is written beside its place in a folder, and not by a process that lives."""
    found = []
    for path in working_folders(folder):
        process = process_of(path)
        if is_dead(process) is False:
            continue
        why = "left by a dead process" if is_dead(process) else STRANGE
        found.append(_unneeded(path, why, final_place(path), lambda process=process: bool(is_dead(process))))
    return found


def _unneeded(path: Path, why: str, place: Path, still: Callable[[], bool]) -> Unneeded:
    return Unneeded(path, why, _bytes(path), place, still)


def _may_be_removed(folder: Path) -> bool:
    """Whether this user may remove all that lies in a folder: nothing is removed by half."""
    if not folder.is_dir():
        return True
    for parent, folders, files in os.walk(folder, onerror=_raise):
        if (folders or files) and not os.access(parent, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            return False
        found = os.stat(parent)
        if found.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid):
            return False
    return True


def _raise(error: OSError) -> NoReturn:
    raise error


def _bytes(folder: Path) -> int:
    """Of all files in a folder, or of a file; of what goes meanwhile none."""
    found = 0
    for path in (folder, *(folder.rglob("*") if not folder.is_symlink() else ())):
        with suppress(FileNotFoundError):
            if not path.is_dir() or path.is_symlink():
                found += path.lstat().st_size
    return found
