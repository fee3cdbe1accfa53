"""Fingerprints over the whole content of a data set, the same on every machine."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from solar_repro.checkpoint.regular import regular
from solar_repro.data.cache import default_folder, write_json
from solar_repro.data.locate import Location
from solar_repro.errors import UserError

BLOCK = 1 << 22
SETTLED_NS = 100_000_000
"""A file changed less than this ago is read again the next time: another change may bear the same stamp."""


def fingerprint(location: Location, cache_dir: Path | None = None) -> str:
    """`sha256:…` over names and bytes of a mirror folder's files, or `revision:…`, the commit of a hub set.

    Hidden files are left out. A file's digest is remembered in `cache_dir` under path, size, times and inode,
    so that a set is read once; that of a file that is gone is forgotten.
    """
    if location.revision is not None:
        return f"revision:{location.revision}"
    return folder_fingerprint(location.folder, cache_dir)


def folder_fingerprint(
    folder: Path, cache_dir: Path | None = None, copied: Mapping[str, str] = MappingProxyType({})
) -> str:
    """`sha256:…` over relative names and bytes of all files below `folder`, hidden ones left out.

    `copied` gives the digests of some by their relative names, as they were copied: those are not read.
    """
    files = sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise UserError(f"data folder {folder} holds no files; give the folder of a data set")
    memory = (cache_dir or default_folder()) / "fingerprints.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    remembered = dict(known)
    found = {str(path.resolve()): _stamp(path) for name, path in files if name not in copied}
    stale = [path for path, stamp in found.items() if not stamp or known.get(path, {}).get("stamp") != stamp]
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(stale, pool.map(_digest, stale), strict=True):
            # The stamp is older than the digest: a file that changed in between is read again.
            known[path] = {"stamp": found[path], "sha256": digest}
    if known != remembered:
        memory.parent.mkdir(parents=True, exist_ok=True)
        # All of it is read for every folder: files that are gone, of stores that were removed, are forgotten.
        write_json(memory, {path: entry for path, entry in known.items() if os.path.exists(path)})
    total = hashlib.sha256()
    for name, path in files:
        digest = copied[name] if name in copied else known[str(path.resolve())]["sha256"]
        total.update(f"{digest}  {name}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _stamp(path: Path) -> list[int] | None:
    """What is another one after every change; None for a file of which that cannot be told yet.

    Copies keep size and time of modification (rsync -t, tar, cp -p); the time of change nobody can set.
    """
    found = path.stat()
    if time.time_ns() - found.st_ctime_ns < SETTLED_NS:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", opener=regular) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
