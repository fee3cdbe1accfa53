"""SHA-256 of data files, remembered under path, size, times and inode, so that each is read once."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from solar_repro.checkpoint.publish import write_whole
from solar_repro.checkpoint.regular import regular
from solar_repro.errors import UserError
from solar_repro.places import expanded

BLOCK = 1 << 22
MEMORY = "digests"
"""Folder of what is remembered: a file for each folder of data, so that none grows with the others."""
SETTLED_NS = 100_000_000
"""A file changed less than this ago is read again the next time: another change may bear the same stamp."""


def default_folder() -> Path:
    """Where prepared rows lie unless a caller says otherwise: beside the Arrow files of `datasets`."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(expanded(os.environ.get("HF_DATASETS_CACHE") or str(home / "datasets")), "solar_repro")


def file_digests(files: Sequence[Path], cache_dir: Path | None = None) -> dict[Path, str]:
    """SHA-256 of each file, from `cache_dir` where it was read before; one that cannot be read: UserError."""
    paths = {file: str(file.resolve()) for file in files}
    by_folder: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths.values()):
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    digests: dict[str, str] = {}
    for folder, members in by_folder.items():
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        memory = (cache_dir or default_folder()) / MEMORY / f"{name}.json"
        digests |= _remembered_digests(memory, members)
    return {file: digests[path] for file, path in paths.items()}


def _remembered_digests(memory: Path, paths: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files of one folder, by path; `memory` is the file that remembers those of this folder."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8")).items()
        known = {path: {"stamp": entry["stamp"], "sha256": entry["sha256"]} for path, entry in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or damaged
        known = {}
    remembered = dict(known)
    found = {path: _stamp(path) for path in paths}
    stale = [path for path, stamp in found.items() if not stamp or known.get(path, {}).get("stamp") != stamp]
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(stale, pool.map(_digest, stale), strict=True):
            # The stamp is older than the digest: a file that changed in between is read again.
            known[path] = {"stamp": found[path], "sha256": digest}
    if known != remembered:
        there = {path: entry for path, entry in known.items() if os.path.exists(path)}
        with suppress(OSError, UserError):  # what is not remembered is read again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(memory, json.dumps(there))
    return {path: known[path]["sha256"] for path in paths}


def _stamp(path: str) -> list[int] | None:
    """What is another one after every change; None for a file of which that cannot be told yet.

    Copies keep size and time of modification (rsync -t, tar, cp -p); the time of change nobody can set.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if time.time_ns() - found.st_ctime_ns < SETTLED_NS:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", opener=regular) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions or fetch it again")
