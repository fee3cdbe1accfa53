"""A finished result is read once: later starts read what has changed, or all of it when asked to."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from entry_points.command import parse
from solar_repro.errors import UserError
from solar_repro.plan.provenance import FILE, verify_result
from solar_repro.running.runner import _is_here
from solar_repro.store import fingerprint, hashing
from solar_repro.store.fingerprint import _MEMORY, default_cache_folder
from solar_repro.store.hashing import sha256
from solar_repro.store.manifest import ManifestError, unlisted_files, write_manifest
from tests.steps import bare_step

STEP = bare_step("sft", "sft_v1")
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "SETTLED_NS", -(10**18))  # every file is taken for an old one


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / STEP.folder
    (folder / "solar").mkdir(parents=True)
    for name in (WEIGHTS, "model-00002-of-00002.safetensors", "config.json"):
        (folder / name).write_text(f"content of {name}")
    (folder / FILE).write_text(json.dumps({"key": STEP.key}))
    write_manifest(folder)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed, in their order."""
    names: list[str] = []
    monkeypatch.setattr(hashing, "sha256", lambda file: names.append(Path(file).name) or sha256(file))
    return names


def test_the_second_start_reads_no_file_of_a_result(result: Path, read: list[str]) -> None:
    assert _is_here(result, STEP)
    assert sorted(read) == ["config.json", WEIGHTS, "model-00002-of-00002.safetensors", FILE.name]
    read.clear()
    assert _is_here(result, STEP)
    assert read == []
    assert unlisted_files(result) == []


def other_byte(file: Path) -> None:
    content = file.read_bytes()
    with file.open("r+b") as stream:
        stream.write(bytes([content[0] ^ 1]))


def truncated(file: Path) -> None:
    os.truncate(file, 3)


def another_file(file: Path) -> None:
    (file.parent / "new").write_bytes(file.read_bytes()[::-1])
    (file.parent / "new").rename(file)


def with_its_old_time(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def changed(file: Path) -> None:
        before = file.stat()
        while file.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock goes on in steps
            change(file)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            if change is other_byte and file.stat().st_ctime_ns == before.st_ctime_ns:
                change(file)  # back to what it was
        assert file.stat().st_mtime_ns == before.st_mtime_ns

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_byte, "its content is not what manifest.json says; make or download it again"),
        (another_file, "its content is not what manifest.json says; make or download it again"),
        (with_its_old_time(other_byte), "its content is not what manifest.json says"),
        (with_its_old_time(another_file), "its content is not what manifest.json says"),
        (truncated, "has 3 bytes, but manifest.json says"),
        (os.unlink, "missing, though manifest.json names it"),
    ],
)
def test_what_changed_since_it_was_read_is_found(
    change: Callable[[Path], None], message: str, result: Path, read: list[str]
) -> None:
    assert _is_here(result, STEP)
    read.clear()
    at = (result / WEIGHTS).stat().st_mtime_ns
    change(result / WEIGHTS)
    while change is other_byte and (result / WEIGHTS).stat().st_mtime_ns == at:
        os.utime(result / WEIGHTS)
    with pytest.raises(ManifestError, match=message) as told:
        verify_result(result, STEP, remembered=True)
    assert str(told.value).startswith(f"{result / WEIGHTS}: ")
    assert set(read) <= {WEIGHTS}
    assert not _is_here(result, STEP)
    assert result.with_name(f"{result.name}.damaged-1").is_dir()


@pytest.mark.parametrize("content", ["{ not json", "[]", '{"a": {"stamp": 1, "sha256": "0"}}'])
def test_of_a_broken_memory_nothing_is_believed(content: str, result: Path, read: list[str]) -> None:
    assert _is_here(result, STEP)
    for file in (default_cache_folder() / _MEMORY).iterdir():
        file.write_text(content)
    read.clear()
    assert _is_here(result, STEP)
    assert WEIGHTS in read


def lose_a_bit_silently(file: Path) -> None:
    """Change a file as a failing disk does: what is remembered fits its size, times and inode still."""
    other_byte(file)
    for note in (default_cache_folder() / _MEMORY).iterdir():
        entries = json.loads(note.read_text())
        if str(file) in entries:
            entries[str(file)]["stamp"] = fingerprint._stamp(str(file))
            note.write_text(json.dumps(entries))


def test_damage_that_leaves_no_trace_is_found_when_all_is_to_be_read(result: Path, read: list[str]) -> None:
    assert _is_here(result, STEP)
    lose_a_bit_silently(result / WEIGHTS)
    parse("", ["--scale", "check"])
    assert _is_here(result, STEP)
    read.clear()
    parse("", ["--scale", "check", "--verify", "full"])
    assert not _is_here(result, STEP)
    assert WEIGHTS in read


def test_a_full_check_that_could_not_be_one_is_refused(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _is_here(result, STEP)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match=r"cannot be removed .*set HF_DATASETS_CACHE"):
        fingerprint.forget_digests()
