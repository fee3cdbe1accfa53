"""The manifest of a result: name, size and SHA-256 of every file, by which a folder can be verified."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from solar_repro.errors import UserError
from solar_repro.safety.json_files import read_json, write_json
from solar_repro.safety.regular_files import is_plain_file_name
from solar_repro.store.hashing import sha256_all
from solar_repro.store.model_files import CARRIED_FILES, INDEX_FILE, SINGLE_FILE

MANIFEST_FILE = "manifest.json"
_READ_BY_NAME = {
    "adapter_config.json",
    "additional_chat_templates",
    "config.json",
    SINGLE_FILE,
    INDEX_FILE,
    *CARRIED_FILES,
}
_READ_BY_SUFFIX = {".arrow", ".jinja", ".jsonl", ".parquet", ".safetensors"}


class ManifestError(UserError):
    """A folder differs from its manifest: it is damaged and must be made again.

    A folder that cannot be read now, for example another user's, raises a plain UserError instead.
    """


def write_manifest(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Write `manifest.json` for all files of a folder and its subfolders.

    `digests` maps relative names to known SHA-256; all other files are hashed.
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


def verify_manifest(folder: Path, digests: Callable[[Iterable[Path]], dict[Path, str]] = sha256_all) -> None:
    """Check that a folder holds the files of its manifest; raises ManifestError naming the damaged one.

    `digests` gives the SHA-256 of files; `remembered_digests` does not read again what has not changed.
    Additional files (`.DS_Store`, a note) are ignored, unless they would be read together with the result's
    own. Those, and a file that cannot be read now, raise a plain UserError.
    """
    entries = read_manifest(folder)
    try:
        for name in unlisted_files(folder, entries):
            _refuse_harmful(folder, name)
        for name, (size, _) in entries.items():
            file = folder / name
            if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
                raise ManifestError(
                    f"{file}: missing, though {MANIFEST_FILE} names it; make or download the folder again"
                )
            if file.stat().st_size != size:
                raise ManifestError(
                    f"{file}: has {file.stat().st_size} bytes, but {MANIFEST_FILE} says {size}; make or "
                    "download it again"
                )
        hashed = digests(folder / name for name in entries)
    except OSError as error:
        raise _unreadable(error.filename or folder, error) from error
    for name, (_, digest) in entries.items():
        if hashed[folder / name] != digest:
            raise ManifestError(
                f"{folder / name}: its content is not what {MANIFEST_FILE} says; make or download it again"
            )


def refuse_damaged(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise UserError if a file of a published folder differs from the folder's manifest.

    `digests` gives the SHA-256 of the files by name. A folder without a manifest, or with another project's
    file of that name, is accepted.
    """
    if not os.path.lexists(folder / MANIFEST_FILE):
        return
    try:
        entries = read_manifest(folder)
    except ManifestError:
        if digests.get("solar/provenance.json") is None:
            return
        raise
    for name, (_, digest) in entries.items():
        if digests.get(name) != digest and not name.startswith("."):
            what = "its content is not what" if name in digests else "missing, though"
            says = "says" if name in digests else "names it"
            raise UserError(
                f"{folder / name}: {what} {MANIFEST_FILE} beside it {says}; make or download the folder "
                f"again, or remove {MANIFEST_FILE} if you have changed it yourself"
            )


def unlisted_files(folder: Path, entries: Collection[str] | None = None) -> list[str]:
    """Return the names of files in a folder that are not in `entries`; None means its manifest's entries."""
    known = read_manifest(folder) if entries is None else entries
    return [name for name in _files(folder) if name not in known]


@contextmanager
def only_listed_files(folder: Path) -> Iterator[Path]:
    """Yield a folder that holds only the files of the manifest.

    It is `folder` itself, or a temporary folder of links if there are unlisted files.
    """
    entries = read_manifest(folder)
    if not unlisted_files(folder, entries):
        yield folder
        return
    with tempfile.TemporaryDirectory() as passing:
        for name in (*entries, MANIFEST_FILE):
            link = Path(passing, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / name).absolute())
        yield Path(passing)


def read_result_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a result; raises ManifestError if it is damaged, UserError if it cannot be read."""
    try:
        return read_json(file)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | NotADirectoryError):
            raise _unreadable(file, cause) from error
        raise ManifestError(str(error)) from error


def _unreadable(file: Path | str, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be read ({error.strerror}), so it is not known whether the result is complete; "
        "ask its owner, or choose another store"
    )


def _refuse_harmful(folder: Path, name: str) -> None:
    """Raise UserError for an unlisted file that would be read instead of, or beside, the result's own."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)
    if not hidden and (_READ_BY_NAME & set(parts) or PurePosixPath(name).suffix in _READ_BY_SUFFIX):
        raise UserError(
            f"{folder / name}: is not a file of the result ({MANIFEST_FILE}), but would be read with them; "
            "move it elsewhere"
        )


def read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size in bytes and SHA-256 of each file by name from `manifest.json`; raises ManifestError."""
    file = folder / MANIFEST_FILE
    files = read_result_json(file).get("files")
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
        and entry["bytes"] >= 0
        and isinstance(entry["sha256"], str)
    )


def _files(folder: Path) -> list[str]:
    """Return the sorted names, with forward slashes, of all files and linked folders except the manifest."""
    names = [
        PurePosixPath(Path(parent).relative_to(folder), name).as_posix()
        for parent, folders, files in os.walk(folder)
        for name in (*files, *(name for name in folders if Path(parent, name).is_symlink()))
    ]
    return sorted(name for name in names if name != MANIFEST_FILE)
