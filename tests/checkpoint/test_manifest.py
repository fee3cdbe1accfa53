"""Manifests: written for every file, and any change is named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from solar_repro.checkpoint.manifest import ManifestError, verify_manifest, write_manifest
from solar_repro.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "result" / "sub" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.bin", "sub/a.txt", "sub/deep/ü x.json", "sub/manifest.json"):
        (tmp_path / "result" / name).write_text(f"content of {name}")
    return tmp_path / "result"


def test_every_file_is_listed(folder: Path) -> None:
    write_manifest(folder)
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    del files["manifest.json"]
    assert [entry["name"] for entry in listed] == sorted(files)
    for entry in listed:
        content = files[entry["name"]].read_bytes()
        assert entry == {
            "name": entry["name"],
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    verify_manifest(folder)


def test_given_digests_are_taken_as_they_are(folder: Path) -> None:
    write_manifest(folder, {"a.txt": "0" * 64})
    with pytest.raises(ManifestError, match=r"a\.txt: its content"):
        verify_manifest(folder)
    with pytest.raises(ValueError, match=r"c\.txt"):
        write_manifest(folder, {"c.txt": "0" * 64})


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "sub/deep/ü x.json"), r"sub/deep/ü x\.json: its content"),
        (lambda folder: (folder / "b.bin").write_text("longer than it was"), r"b\.bin: 18 bytes.* says 16"),
        (lambda folder: (folder / "sub/a.txt").unlink(), r"sub/a\.txt: missing"),
        (lambda folder: (folder / "sub/new.txt").write_text(""), r"sub/new\.txt: not in manifest\.json"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json: cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"files":'), r"manifest\.json: not a valid"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), r"manifest\.json: damaged"),
    ],
)
def test_what_changed_is_named(damage: Callable[[Path], None], message: str, folder: Path) -> None:
    write_manifest(folder)
    damage(folder)
    with pytest.raises(ManifestError, match=message) as refused:
        verify_manifest(folder)
    assert isinstance(refused.value, UserError)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/../../secret", "", "sub//a.txt", "./a.txt", 3]
)
def test_names_stay_in_the_folder(name: object, folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    entry = {"name": name, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    with pytest.raises(ManifestError, match="damaged at"):
        verify_manifest(folder)


def test_links_stay_in_the_folder(folder: Path) -> None:
    write_manifest(folder)
    (folder / "a.txt").rename(folder.parent / "a.txt")
    (folder / "a.txt").symlink_to(folder.parent / "a.txt")
    with pytest.raises(ManifestError, match=r"a\.txt"):
        verify_manifest(folder)


def test_a_linked_folder_is_noticed(folder: Path) -> None:
    write_manifest(folder)
    (folder / "linked").symlink_to(folder.parent)
    with pytest.raises(ManifestError, match="linked: not in"):
        verify_manifest(folder)
