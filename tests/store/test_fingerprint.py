import hashlib
import json
import os
import shutil

import pytest

from solar_repro.data.benchmark_sources import mirror_configs
from solar_repro.data.locate import Location, fingerprint
from solar_repro.data.split_files import data_files
from solar_repro.errors import UserError
from solar_repro.store import fingerprint as module
from solar_repro.store import hashing
from solar_repro.store.fingerprint import _MEMORY, file_digests, folder_fingerprint
from solar_repro.store.hashing import sha256


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "set"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text("about")
    (made / "data" / "a.parquet").write_bytes(b"\0" * (5 << 20))
    return made


def test_is_what_sha256sum_says_of_the_files(folder, cache):
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("README.md", "data/a.parquet")
    ]
    expected = "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
    assert folder_fingerprint(folder, cache) == expected


def test_place_and_hidden_files_do_not_count(folder, cache, tmp_path):
    first = folder_fingerprint(folder, cache)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert folder_fingerprint(tmp_path / "elsewhere", cache) == folder_fingerprint(folder, cache) == first


@pytest.mark.parametrize("place", [0, 3 << 20, (5 << 20) - 1])
def test_any_byte_counts(folder, cache, place):
    first = folder_fingerprint(folder, cache)
    content = bytearray((folder / "data" / "a.parquet").read_bytes())
    content[place] = 1
    (folder / "data" / "a.parquet").write_bytes(content)
    assert folder_fingerprint(folder, cache) != first


def test_names_count(folder, cache):
    first = folder_fingerprint(folder, cache)
    (folder / "data" / "a.parquet").rename(folder / "data" / "b.parquet")
    assert folder_fingerprint(folder, cache) != first


@pytest.mark.parametrize("way", ["in place", "renamed"])
def test_a_change_that_keeps_size_and_time_of_modification_counts(folder, cache, monkeypatch, way):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))  # every file is taken for an old one
    file = folder / "README.md"
    os.utime(file, ns=(1, 1))
    first = folder_fingerprint(folder, cache)
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock goes on in steps
        other = file if way == "in place" else folder / "new"
        other.write_text("other")
        os.utime(other, ns=(1, 1))
        other.rename(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert folder_fingerprint(folder, cache) != first


def test_a_file_that_has_just_changed_is_read_again(folder, cache, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", 10**18)
    first = folder_fingerprint(folder, cache)
    stamp = (folder / "README.md").stat()
    (folder / "README.md").write_text("other")
    os.utime(folder / "README.md", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert folder_fingerprint(folder, cache) != first


def test_unchanged_files_are_read_once(folder, cache, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    read = []
    monkeypatch.setattr(hashing, "sha256", lambda file: read.append(file) or sha256(file))
    folder_fingerprint(folder, cache)
    folder_fingerprint(folder, cache)
    assert len(read) == 2
    (folder / "README.md").write_text("other")
    folder_fingerprint(folder, cache)
    assert len(read) == 3


@pytest.mark.parametrize("which", ["st_mtime_ns", "st_ctime_ns"])
def test_what_changed_within_a_step_of_the_file_systems_clock_is_not_remembered(
    folder, cache, monkeypatch, which
):
    """As git does: the next change could leave the same times."""
    file = folder / "README.md"
    now = file.stat().st_ctime_ns + 10**12
    os.utime(file, ns=(now, now - (0 if which == "st_mtime_ns" else 10**12)))
    changed = getattr(file.stat(), which)
    monkeypatch.setattr(module.time, "time_ns", lambda: changed + module.SETTLED_NS - 1)
    folder_fingerprint(folder / "data", cache)
    file_digests([file], cache)
    assert str(file) not in remembered(cache)
    monkeypatch.setattr(module.time, "time_ns", lambda: changed + module.SETTLED_NS)
    file_digests([file], cache)
    assert str(file) in remembered(cache)


def test_what_another_process_remembers_meanwhile_stays(folder, cache, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    (folder / "b.txt").write_text("b")
    (folder / "c.txt").write_text("c")

    def beside(file):
        monkeypatch.setattr(hashing, "sha256", sha256)
        file_digests([folder / "b.txt"], cache)
        return sha256(file)

    monkeypatch.setattr(hashing, "sha256", beside)
    file_digests([folder / "c.txt"], cache)
    assert remembered(cache) == {str(folder / "b.txt"), str(folder / "c.txt")}


def remembered(cache):
    return {path for file in (cache / _MEMORY).iterdir() for path in json.loads(file.read_text())}


def test_files_that_are_gone_are_forgotten(folder, cache, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    (folder / "data" / "b.parquet").write_bytes(b"b")
    folder_fingerprint(folder, cache)
    (folder / "data" / "a.parquet").unlink()
    (folder / "data" / "b.parquet").write_bytes(b"changed")
    folder_fingerprint(folder, cache)
    assert remembered(cache) == {str(folder / "README.md"), str(folder / "data" / "b.parquet")}


def test_what_is_remembered_of_a_folder_does_not_grow_with_other_folders(
    folder, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    folder_fingerprint(folder, cache)
    files = {file: file.read_bytes() for file in (cache / _MEMORY).iterdir()}
    folder_fingerprint(shutil.copytree(folder, tmp_path / "other"), cache)
    assert {file: file.read_bytes() for file in files} == files
    assert len(list((cache / _MEMORY).iterdir())) == 2 * len(files)


BROKEN = [
    "{ not json",
    "[]",
    "null",
    '{"a": 1}',
    '{"a": {"stamp": [1]}}',
    '{"a": {"stamp": [1], "sha256": 1}}',
    '{"a": {"stamp": [1], "sha256": "x"}}',
    '{"a":' * 100_000,
    '"\\ud800"',
    "\0",
]


@pytest.mark.parametrize("content", BROKEN)
def test_damaged_memory_is_made_anew(folder, cache, content, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    first = folder_fingerprint(folder, cache)
    good = {file: file.read_text() for file in (cache / _MEMORY).iterdir()}
    for file in good:
        file.write_text(content)
    assert folder_fingerprint(folder, cache) == first
    assert {file: file.read_text() for file in good} == good


def test_memory_that_is_no_file_is_not_waited_for(folder, cache, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    first = folder_fingerprint(folder, cache)
    for file in list((cache / _MEMORY).iterdir()):
        file.unlink()
        os.mkfifo(file)
    assert folder_fingerprint(folder, cache) == first


def test_hub_set_by_its_revision():
    assert fingerprint(Location("o/n", "o/n", None, "abc")) == "revision:abc"


def test_empty_folder(tmp_path, cache):
    with pytest.raises(UserError, match="holds no files"):
        folder_fingerprint(tmp_path, cache)


STRANGERS = {
    "link": lambda file: file.symlink_to("/etc/passwd"),
    "dangling link": lambda file: file.symlink_to("/nowhere"),
    "link to a folder": lambda file: file.symlink_to("/etc"),
    "FIFO": os.mkfifo,
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("name", ["data/train.jsonl", "README.md"])
def test_a_stranger_among_the_files_of_a_set_is_refused_and_not_read(folder, cache, kind, name):
    file = folder / name
    file.unlink(missing_ok=True)
    STRANGERS[kind](file)
    for read in (
        lambda: folder_fingerprint(folder, cache),
        lambda: data_files(folder, "train"),
        lambda: mirror_configs(folder),
    ):
        with pytest.raises(UserError, match=f"^{file}: ") as refused:
            read()
        assert "\n" not in str(refused.value)
    assert not cache.exists()


def test_links_within_a_set_and_to_the_set_are_none_that_leave_it(folder, cache, tmp_path):
    before = folder_fingerprint(folder, cache)
    (tmp_path / "link").symlink_to(folder)
    assert folder_fingerprint(tmp_path / "link", cache) == before
    (folder / "data" / "b.parquet").symlink_to("a.parquet")
    assert folder_fingerprint(folder, cache) != before
