"""Fingerprints over the whole content of a folder, the same on every machine."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from solar_repro.errors import UserError
from solar_repro.safety.regular import refuse_strangers
from solar_repro.store.digests import file_digests


def folder_fingerprint(
    folder: Path, cache_dir: Path | None = None, copied: Mapping[str, str] = MappingProxyType({})
) -> str:
    """`sha256:…` over relative names and bytes of all files below `folder`, hidden ones left out.

    `copied` gives the digests of some by their relative names, as they were copied: those are not read. A
    link that leaves the folder, or anything that is no file: UserError.
    """
    return fingerprint_of(folder_digests(folder, cache_dir, copied))


def folder_digests(
    folder: Path, cache_dir: Path | None = None, copied: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """SHA-256 of each of these files by its relative name."""
    refuse_strangers(folder)
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
    """`sha256:…` over the digests of files, by their names."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{digests[name]}  {name}\n".encode())
    return f"sha256:{total.hexdigest()}"
