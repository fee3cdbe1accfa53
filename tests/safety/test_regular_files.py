"""What stands in a checkpoint folder beside plain files: links out of it, FIFOs, devices, sockets."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solar_repro.checkpoint.copying import CopyRange, copy_chunks
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.model_source import fingerprint_model
from solar_repro.contract import BaseModelInputs, BaseModelSettings
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import (
    copy_file,
    open_own_file,
    open_regular,
    opener_within,
    regular_descriptor,
)
from solar_repro.stages import base
from solar_repro.store.hashing import sha256
from solar_repro.store.model_files import CARRIED_FILES

NAMES = (*CARRIED_FILES, "config.json", "model.safetensors", "notes/readme.md", "another.safetensors")
SECRET = "the content of a file elsewhere"


def _link(file: Path) -> None:
    model = next(parent for parent in file.parents if parent.name == "model")
    secret = model.parent / "secret"
    secret.write_text(SECRET)
    file.symlink_to(secret)


def _relative_link(file: Path) -> None:
    _link(file)
    target = os.path.relpath(file.resolve(), file.parent)
    file.unlink()
    file.symlink_to(target)


def _socket(file: Path) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short}/s")  # the path of a socket must be short
        shutil.move(f"{short}/s", file)


STRANGERS: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "relative link": _relative_link,
    "link to a folder": lambda file: file.symlink_to("/etc"),
    "link to a device": lambda file: file.symlink_to("/dev/zero"),
    "link to a file of the kernel": lambda file: file.symlink_to("/proc/self/environ"),
    "dangling link": lambda file: file.symlink_to("/nowhere/at/all"),
    "FIFO": os.mkfifo,
    "socket": _socket,
}


@given(name=st.sampled_from(NAMES), kind=st.sampled_from(sorted(STRANGERS)))
def test_a_stranger_in_a_checkpoint_is_refused_before_anything_is_read(
    saved: Callable[..., Path], name: str, kind: str
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(saved("llama"), Path(scratch, "model")))
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        STRANGERS[kind](file)
        out = Path(scratch, "out")
        out.mkdir()
        for use in (open_checkpoint, lambda found: fingerprint_model(found, "model")):
            with pytest.raises(UserError, match=r"is a link out of its folder|must be a file") as refused:
                use(folder)
            assert str(file) in str(refused.value)
        with pytest.raises(UserError, match=r"is a link out of its folder|must be a file"):
            base.run(out, print, BaseModelSettings(), BaseModelInputs(model=folder))
        assert not [path for path in out.rglob("*") if SECRET.encode() in path.read_bytes()]


def test_what_lies_in_the_folder_may_be_linked(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "model"))
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "a")
    (folder / "model.safetensors").symlink_to("weights/a")
    (folder / ".git").mkdir()
    (folder / ".git" / "hooks").symlink_to("/etc")  # hidden: nothing reads it
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert open_checkpoint(linked).layers == open_checkpoint(folder).layers


def cached(root: Path, model: Path) -> Path:
    """A model as the hub's cache holds it: a snapshot of links to blobs."""
    snapshot = root / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copyfile(file, snapshot.parents[1] / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs", str(number)))
    return snapshot


def test_the_hubs_cache_links_to_its_own_blobs_alone(saved: Callable[..., Path], tmp_path: Path) -> None:
    snapshot = cached(tmp_path, saved("llama"))
    assert open_checkpoint(snapshot).layers == 4
    copy_file(snapshot / "config.json", tmp_path / "copied")
    (tmp_path / "models--org--name" / "token").write_text(SECRET)
    (snapshot / "chat_template.jinja").symlink_to("../../token")
    with pytest.raises(UserError, match=r"chat_template\.jinja: is a link out of its folder"):
        open_checkpoint(snapshot)


def test_blobs_that_lie_elsewhere_are_none_of_the_caches(saved: Callable[..., Path], tmp_path: Path) -> None:
    snapshot = cached(tmp_path, saved("llama"))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link out of its folder"):
        open_checkpoint(snapshot)


def test_what_was_opened_counts_and_not_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link put in a file's place after the folder was looked through."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "model" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="a link out of its folder"):
        copy_file(tmp_path / "model" / "tokenizer.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()

    readlink = os.readlink

    def no_proc(path: str, **settings: Any) -> str:
        if str(path).startswith("/proc"):
            raise OSError
        return readlink(path, **settings)

    monkeypatch.setattr(os, "readlink", no_proc)
    with pytest.raises(UserError, match="a link out of its folder"):
        copy_file(tmp_path / "model" / "tokenizer.json", tmp_path / "out")


@pytest.mark.parametrize("kind", ["FIFO", "link to a device", "socket"])
def test_no_open_waits_or_reads_without_end(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "model.safetensors"
    STRANGERS[kind](file)
    (tmp_path / "target").touch()
    for use in (
        sha256,
        lambda path: open_regular(path, os.O_RDONLY),
        lambda path: opener_within(path.parent)(str(path), os.O_RDONLY),
        lambda path: copy_chunks([CopyRange(path, 0, tmp_path / "target", 0, 8)], print),
    ):
        with pytest.raises((UserError, OSError)):
            use(file)


def test_what_is_written_here_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text(SECRET)
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link, but a file is written here"):
        open_own_file(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with open(tmp_path / "new", "ab+", opener=open_own_file) as file:
        file.write(b"x")
    assert (tmp_path / "victim").read_text() == SECRET


def test_a_file_is_closed_behind_the_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with regular_descriptor(tmp_path / "file") as descriptor:
        assert os.read(descriptor, 9) == b"text"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
