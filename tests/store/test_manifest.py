"""Manifests: written for every file, and any change is named."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from solar_repro.errors import UserError
from solar_repro.store.fingerprint import remembered_digests
from solar_repro.store.hashing import sha256_all
from solar_repro.store.manifest import (
    ManifestError,
    only_listed_files,
    unlisted_files,
    verify_manifest,
    write_manifest,
)


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
        (
            lambda folder: (folder / "b.bin").write_text("longer than it was"),
            r"b\.bin: has 18 bytes, but .* says 16",
        ),
        (lambda folder: (folder / "sub/a.txt").unlink(), r"sub/a\.txt: missing"),
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


STRAYS: dict[str, Callable[[Path], None]] = {
    ".DS_Store": Path.touch,
    "sub/.nfs000000000123": Path.touch,
    "note.txt": lambda path: path.write_text("mine"),
    "sub/deep/scores of mine.json": lambda path: path.write_text("{}"),
    "linked": lambda path: path.symlink_to(path.parent.parent),
    "FIFO": os.mkfifo,
    "dangling": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_others_left_in_a_folder_damages_nothing_and_is_not_handed_out(folder: Path, name: str) -> None:
    write_manifest(folder)
    own = {path.relative_to(folder) for path in folder.rglob("*")}
    STRAYS[name](folder / name)
    verify_manifest(folder)
    assert unlisted_files(folder) == [name]
    with only_listed_files(folder) as listed:
        assert {path.relative_to(listed) for path in listed.rglob("*")} == own
        verify_manifest(folder)
        assert (listed / "a.txt").read_text() == "content of a.txt"
    assert (folder / name).is_symlink() or (folder / name).exists()


def test_a_folder_without_strays_is_handed_out_as_it_is(folder: Path) -> None:
    write_manifest(folder)
    with only_listed_files(folder) as listed:
        assert listed == folder


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "chat_template.jinja", "sub/tokenizer.json", "sub/rows.parquet", "x.jsonl"],
)
def test_a_stray_that_would_be_read_with_the_result_is_refused_and_damages_nothing(
    folder: Path, name: str
) -> None:
    write_manifest(folder)
    (folder / name).write_text("{}")
    with pytest.raises(UserError, match="would be read with them; move it elsewhere") as refused:
        verify_manifest(folder)
    assert str(folder / name) in str(refused.value)
    assert not isinstance(refused.value, ManifestError)


@pytest.mark.parametrize("name", ["manifest.json", "a.txt", "sub/deep/ü x.json"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("digests", [sha256_all, remembered_digests])
def test_what_cannot_be_read_is_not_damaged(
    folder: Path, name: str, number: int, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(folder)
    opened = os.open

    def refusing(path: str, *arguments: Any, **settings: Any) -> int:
        if str(path) == str(folder / name):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match="cannot be read") as refused:
        verify_manifest(folder, digests)
    assert str(folder / name) in str(refused.value)
    assert not isinstance(refused.value, ManifestError)


def test_a_fifo_in_a_files_place_is_damage_and_is_not_waited_for(folder: Path) -> None:
    write_manifest(folder)
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    with pytest.raises(ManifestError, match=r"a\.txt: missing"):
        verify_manifest(folder)
