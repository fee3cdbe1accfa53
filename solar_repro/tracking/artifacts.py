"""Fetches files of runs from artifact stores: by name, within size limits, verified before use.

Anyone who may write to a tracking server may put anything there, so no listing of a store is followed.
"""

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from solar_repro.checkpoint.model_source import DOWNLOAD_PATTERNS
from solar_repro.errors import UserError
from solar_repro.plan.provenance import FILE, recorded_key, result_digest, verify_key
from solar_repro.plan.step import MODEL_STAGES
from solar_repro.safety.bounded_http import limit_file_size
from solar_repro.safety.redact import short_reason
from solar_repro.safety.regular_files import BLOCK, open_regular
from solar_repro.store.hashing import sha256
from solar_repro.store.manifest import MANIFEST_FILE, ManifestError, read_manifest, verify_manifest
from solar_repro.store.result import NOTES
from solar_repro.tracking.server import artifact_errors, checked_answers, is_temporary

MAX_MANIFEST_BYTES = 4 << 20
MAX_NOTE_BYTES = 16 << 20
"""Largest JSON file that is read directly from the artifacts."""
_AT_ONCE = 4
_DATA = {".json", ".jsonl", ".md", ".parquet", ".safetensors"}
_PACKED = {".arrow", ".json"}
_NOTES = {".json", ".jsonl", ".md", ".png"}


class ArtifactMissing(UserError):
    """An artifact that is missing or larger than allowed."""


def fetch(uri: str, name: str, target: Path, most: int) -> None:
    """Fetch the file `name` of at most `most` bytes from the artifacts at `uri` to `target`.

    Raises ArtifactMissing, but lets errors of a lost connection or a missing library pass.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with limit_file_size(most), checked_answers():
            repository = get_artifact_repository(uri)
            if (folder := getattr(repository, "artifact_dir", None)) is not None:
                _copy(Path(folder, name), target, most)
            else:
                repository._download_file(name, str(target))
        if target.stat().st_size > most:
            raise UserError(f"is larger than {most:,} bytes")
    except Exception as error:  # each kind of artifact store raises its own client's errors
        target.unlink(missing_ok=True)
        if is_temporary(error) or isinstance(error, ImportError):
            raise
        raise ArtifactMissing(f"artifact {name}: cannot be had ({short_reason(error)})") from error


def read_artifact(uri: str, name: str) -> Any:
    """Return the content of a JSON file among the artifacts at `uri`; raises ArtifactMissing."""
    with tempfile.TemporaryDirectory() as scratch:
        fetch(uri, name, Path(scratch, "file"), MAX_NOTE_BYTES)
        try:
            return json.loads(Path(scratch, "file").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ArtifactMissing(f"artifact {name}: is no JSON ({short_reason(error)})") from error


def fetch_result(uri: str, folder: Path, stage: str) -> None:
    """Fetch a result's manifest and the files it names to `folder`; the caller verifies them.

    Raises ManifestError if it names a file that results of the stage do not have, or if the disk is too
    small, and ArtifactMissing if a file is missing.
    """
    fetch(uri, MANIFEST_FILE, folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    entries = read_manifest(folder)
    if unknown := [name for name in entries if not is_file_of_stage(stage, name)]:
        raise ManifestError(f"{MANIFEST_FILE} names {unknown[0]!r}, which no result of stage {stage} has")
    total = sum(size for size, _ in entries.values())
    if total > (free := shutil.disk_usage(folder).free):
        raise ManifestError(f"{MANIFEST_FILE} names {total:,} bytes, and {free:,} are free")
    first, *others = sorted(entries, key=lambda name: entries[name][0]) or [FILE.as_posix()]
    # If only the manifest was logged, the first file is missing.
    fetch(uri, first, folder / first, entries.get(first, (0, ""))[0])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(fetch, uri, name, folder / name, entries[name][0]) for name in others]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def offered_digest(uri: str, key: str) -> str | None:
    """Return the `result_digest` of the result at `uri`; None if it is incomplete or has another key."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            fetch(uri, MANIFEST_FILE, folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
            fetch(uri, FILE.as_posix(), folder / FILE, MAX_NOTE_BYTES)
            entries = read_manifest(folder)
            listed = entries.get(FILE.as_posix(), (0, None))[1]
            return (
                result_digest(folder)
                if (sha256(folder / FILE), recorded_key(folder)) == (listed, key)
                else None
            )
        except (ArtifactMissing, ManifestError):
            return None


def lies_here(folder: Path) -> bool:
    """Whether a published result lies in a folder that a run names; not where it cannot be looked into."""
    try:
        return (folder / MANIFEST_FILE).is_file()
    except OSError:  # another user's folder, or no name of a file
        return False


def result_of(run: Run, scratch: Path) -> Path:
    """Return the verified folder of a finished run's result: in its store, else fetched below `scratch`.

    Raises ArtifactMissing or ManifestError if it is incomplete or was made with another key.
    """
    key = run.data.tags.get("solar.key", "")
    folder = Path(run.data.tags.get("solar.output", ""))
    if not lies_here(folder):
        folder = scratch / run.info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        with artifact_errors(run.info.artifact_uri, "read"):
            fetch_result(f"{run.info.artifact_uri}/output", folder, run.data.tags.get("solar.stage", ""))
    verify_manifest(folder)
    verify_key(folder, key)
    return folder


def note_of(run: Run, name: str) -> Any:
    """Return the content of a JSON file among the notes of a run; raises ArtifactMissing."""
    folder = Path(run.data.tags.get("solar.output", ""))
    if lies_here(folder):
        verify_key(folder, run.data.tags.get("solar.key", ""))
        listed = read_manifest(folder).get(f"{NOTES}/{name}")
        if listed is None or sha256(folder / NOTES / name) != listed[1]:
            raise ArtifactMissing(f"{folder / NOTES / name}: missing or damaged")
        return read_artifact(str(folder / NOTES), name)
    with artifact_errors(run.info.artifact_uri, "read"):
        return read_artifact(f"{run.info.artifact_uri}/{NOTES}", name)


def is_file_of_stage(stage: str, name: str) -> bool:
    """Whether results of a stage have files with such a name; other files might be read instead of theirs."""
    path = PurePosixPath(name)
    if path.parts[0] == NOTES:
        return path.suffix in _NOTES
    if stage not in MODEL_STAGES:
        return path.suffix in (_PACKED if stage == "packed" else _DATA)
    wanted = [one for one in DOWNLOAD_PATTERNS if len(PurePosixPath(one).parts) == len(path.parts)]
    return any(fnmatchcase(name, one) for one in wanted)


def _copy(source: Path, target: Path, most: int) -> None:
    with open(source, "rb", opener=open_regular) as file, target.open("wb") as out:
        while block := file.read(min(BLOCK, most + 1 - out.tell())):
            out.write(block)
