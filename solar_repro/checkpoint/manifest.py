"""The manifest of a result: name, bytes and SHA-256 of every file, so that a folder can be verified."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from solar_repro.checkpoint.folder import is_plain_file_name, read_json, write_json
from solar_repro.checkpoint.hashing import sha256_all
from solar_repro.errors import UserError

MANIFEST_FILE = "manifest.json"


class ManifestError(UserError):
    """A folder that is not what its manifest says."""


def write_manifest(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Write `manifest.json` for all files of a folder and its subfolders.

    `digests` (name relative to the folder → SHA-256) are taken as they are; all other files are hashed here.
    """
    known = dict(digests or {})
    names = _files(folder)
    if unknown := sorted(set(known) - set(names)):
        raise ValueError(f"{folder}: digests were given for files that are not there: {unknown}")
    hashed = sha256_all(folder / name for name in names if name not in known)
    entries = [
        {
            "name": name,
            "bytes": (folder / name).stat().st_size,
            "sha256": known[name] if name in known else hashed[folder / name],
        }
        for name in names
    ]
    write_json(folder / MANIFEST_FILE, {"files": entries})


def verify_manifest(folder: Path) -> None:
    """Check that a folder holds the files of its manifest and no others; ManifestError names the file."""
    entries = _read_manifest(folder)
    for name in _files(folder):
        if name not in entries:
            raise ManifestError(
                f"{folder / name}: not in {MANIFEST_FILE}; remove the file or make the folder again"
            )
    for name, (size, _) in entries.items():
        file = folder / name
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(
                f"{file}: missing, though {MANIFEST_FILE} names it; make or download the folder again"
            )
        if file.stat().st_size != size:
            raise ManifestError(
                f"{file}: {file.stat().st_size} bytes, {MANIFEST_FILE} says {size}; make or download it again"
            )
    hashed = sha256_all(folder / name for name in entries)
    for name, (_, digest) in entries.items():
        if hashed[folder / name] != digest:
            raise ManifestError(
                f"{folder / name}: its content is not what {MANIFEST_FILE} says; make or download it again"
            )


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    file = folder / MANIFEST_FILE
    try:
        files = read_json(file).get("files")
    except UserError as error:
        raise ManifestError(str(error)) from error
    entries: dict[str, tuple[int, str]] = {}
    for entry in files if isinstance(files, list) else [None]:
        if not _is_entry(entry) or entry["name"] in entries:
            raise ManifestError(f"{file}: damaged at {entry!r}; make or download the folder again")
        entries[entry["name"]] = entry["bytes"], entry["sha256"]
    return entries


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"name", "bytes", "sha256"}
        and isinstance(entry["name"], str)
        and all(is_plain_file_name(part) for part in entry["name"].split("/"))
        and type(entry["bytes"]) is int
        and isinstance(entry["sha256"], str)
    )


def _files(folder: Path) -> list[str]:
    """Names of all files (and linked folders) but the manifest itself, with forward slashes, sorted."""
    names = [
        PurePosixPath(Path(parent).relative_to(folder), name).as_posix()
        for parent, folders, files in os.walk(folder)
        for name in (*files, *(name for name in folders if Path(parent, name).is_symlink()))
    ]
    return sorted(name for name in names if name != MANIFEST_FILE)
