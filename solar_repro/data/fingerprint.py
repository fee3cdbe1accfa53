"""Fingerprints over the whole content of a data set, the same on every machine."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from solar_repro.checkpoint.regular import refuse_strangers
from solar_repro.data.digests import file_digests
from solar_repro.data.locate import Location
from solar_repro.errors import UserError


def fingerprint(location: Location, cache_dir: Path | None = None) -> str:
    """`sha256:…` over names and bytes of a mirror folder's files, or `revision:…`, the commit of a hub set.

    Hidden files are left out. A file's digest is remembered in `cache_dir`, so that a set is read once.
    """
    if location.revision is not None:
        return f"revision:{location.revision}"
    return folder_fingerprint(location.folder, cache_dir)


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
