"""Digests of files and folders by content, the same on every machine.

The SHA-256 of each file of data, models and results is remembered under its path, size, times and inode, so
that each is read once.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from solar_repro.errors import UserError
from solar_repro.safety.json_files import read_json
from solar_repro.safety.paths import expand_home
from solar_repro.safety.regular_files import refuse_foreign_links, regular_descriptor
from solar_repro.store.hashing import sha256_all
from solar_repro.store.publish import write_atomically

_MEMORY = "digests"
"""Subfolder of the cache that holds a file of known digests for each folder of data."""
SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago is read again next time: its next change may have the same times.

No file system that we know of counts times in larger steps (FAT: two seconds).
"""
_DIGEST = re.compile(r"[0-9a-f]{64}")
CONTENT = "sha256:"
"""Precedes the digest of what a folder holds."""
Known = dict[str, tuple[list[int], str]]
"""Path → stamp and SHA-256."""


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
    return f"{CONTENT}{total.hexdigest()}"


def default_cache_folder() -> Path:
    """Return the folder for prepared rows and known digests, beside the Arrow files of `datasets`."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(expand_home(os.environ.get("HF_DATASETS_CACHE") or str(home / "datasets")), "solar_repro")


def file_digests(files: Iterable[Path], cache_dir: Path | None = None) -> dict[Path, str]:
    """Return what `remembered_digests` does. Raises UserError for a file that cannot be read."""
    try:
        return remembered_digests(files, cache_dir)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); mend its permissions or fetch it again"
        ) from None


def remembered_digests(files: Iterable[Path], cache_dir: Path | None = None) -> dict[Path, str]:
    """Return the SHA-256 of each file, from `cache_dir` if the file was read before and has not changed.

    `cache_dir` None means `default_cache_folder()`. Raises OSError, with the name of the file, for one that
    cannot be read.
    """
    paths = {file: str(file.resolve()) for file in files}
    memory = (cache_dir or default_cache_folder()) / _MEMORY
    notes = {path: _note(memory, os.path.dirname(path)) for path in paths.values()}
    known: Known = {}
    for note in set(notes.values()):
        known |= _known(note)
    stamps = {path: _stamp(path) for path in notes}
    unchanged = {path for path, stamp in stamps.items() if path in known and known[path][0] == stamp}
    read = sha256_all(Path(path) for path in stamps if path not in unchanged)
    fresh: dict[Path, Known] = {}
    for path, digest in read.items():
        # The stamp is older than the digest: a file that changed in between is read again.
        if (stamp := stamps[str(path)]) is not None:
            fresh.setdefault(notes[str(path)], {})[str(path)] = stamp, digest
    for note, found in fresh.items():
        _remember(note, found)
    return {file: known[path][1] if path in unchanged else read[Path(path)] for file, path in paths.items()}


def forget_digests(cache_dir: Path | None = None) -> None:
    """Have every file read in full once more. Raises UserError if what is remembered cannot be removed."""
    memory = (cache_dir or default_cache_folder()) / _MEMORY
    for note in memory.glob("*.json"):
        try:
            note.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{note}: cannot be removed ({error.strerror}), so files that it names would not be read; "
                "mend its permissions, or set HF_DATASETS_CACHE to a folder of yours"
            ) from None


def _note(memory: Path, folder: str) -> Path:
    """Return the file that holds what is known of the files of a folder."""
    return memory / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _known(note: Path) -> Known:
    """Return what a note says, nothing where there is none or it is damaged."""
    try:
        entries = read_json(note)
        known = {path: (entry["stamp"], entry["sha256"]) for path, entry in entries.items()}
        return known if all(_DIGEST.fullmatch(digest) for _, digest in known.values()) else {}
    except (UserError, TypeError, KeyError):
        return {}


def _remember(note: Path, found: Known) -> None:
    """Add to a note what was found. Another process may have written to it since it was read."""
    present = {path: entry for path, entry in (_known(note) | found).items() if os.path.exists(path)}
    text = json.dumps({path: {"stamp": stamp, "sha256": digest} for path, (stamp, digest) in present.items()})
    with suppress(OSError, UserError):  # a digest that could not be remembered is computed again
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, text)


def _stamp(path: str) -> list[int] | None:
    """Return numbers that differ after every change, or None if the file changed only just now.

    Copies can keep size and time of modification (rsync -t, tar, cp -p), but nobody can set the time of
    change (ctime). The device is left out, since it has another number each time a network's disk is mounted.
    The file is opened, because NFS asks its server then, and otherwise answers from a cache of seconds.
    """
    with regular_descriptor(Path(path)) as descriptor:
        found = os.fstat(descriptor)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED_NS:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
