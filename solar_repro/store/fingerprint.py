"""Digests of data files and folders by content, the same on every machine.

The SHA-256 of each file is remembered under its path, size, times and inode, so that each is read once.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from solar_repro.errors import UserError
from solar_repro.safety.paths import expand_home
from solar_repro.safety.regular_files import refuse_foreign_links
from solar_repro.store.hashing import sha256
from solar_repro.store.publish import write_atomically

_MEMORY = "digests"
"""Subfolder of the cache that holds a file of known digests for each folder of data."""
_SETTLED_NS = 100_000_000
"""A file that changed less than this ago is read again next time: its next change may have the same times."""


def folder_fingerprint(
    folder: Path, cache_dir: Path | None = None, copied: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return `sha256:…` over relative names and bytes of all files below `folder` that are not hidden.

    Arguments and errors are those of `folder_digests`.
    """
    return fingerprint_of(folder_digests(folder, cache_dir, copied))


def folder_digests(
    folder: Path, cache_dir: Path | None = None, copied: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the SHA-256 of each file below `folder` that is not hidden, by its relative name.

    `copied` gives the digests, by relative name, of files that were hashed while they were copied; these are
    not read. Raises UserError for a link that leaves the folder, for anything but files and folders, and if
    there is no file.
    """
    refuse_foreign_links(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not files:
        raise UserError(f"data folder {folder} holds no files; give the folder of a data set")
    read = file_digests([path for name, path in files.items() if name not in copied], cache_dir)
    return {name: copied[name] if name in copied else read[path] for name, path in files.items()}


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """Return `sha256:…` over the digests of files and their names."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{digests[name]}  {name}\n".encode())
    return f"sha256:{total.hexdigest()}"


def default_cache_folder() -> Path:
    """Return the folder for prepared rows and known digests, beside the Arrow files of `datasets`."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(expand_home(os.environ.get("HF_DATASETS_CACHE") or str(home / "datasets")), "solar_repro")


def file_digests(files: Sequence[Path], cache_dir: Path | None = None) -> dict[Path, str]:
    """Return the SHA-256 of each file, from `cache_dir` if the file was read before and has not changed.

    `cache_dir` None means `default_cache_folder()`. Raises UserError for a file that cannot be read.
    """
    paths = {file: str(file.resolve()) for file in files}
    by_folder: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths.values()):
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    digests: dict[str, str] = {}
    for folder, members in by_folder.items():
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        memory = (cache_dir or default_cache_folder()) / _MEMORY / f"{name}.json"
        digests |= _digests_in_folder(memory, members)
    return {file: digests[path] for file, path in paths.items()}


def _digests_in_folder(memory: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of files of one folder, by path; the file `memory` holds those that are known."""
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
        present = {path: entry for path, entry in known.items() if os.path.exists(path)}
        with suppress(OSError, UserError):  # a digest that could not be remembered is computed again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(memory, json.dumps(present))
    return {path: known[path]["sha256"] for path in paths}


def _stamp(path: str) -> list[int] | None:
    """Return numbers that differ after every change, or None if the file changed only just now.

    Copies can keep size and time of modification (rsync -t, tar, cp -p), but nobody can set the time of
    change (ctime).
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if time.time_ns() - found.st_ctime_ns < _SETTLED_NS:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _digest(path: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions or fetch it again")
