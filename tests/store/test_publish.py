"""Publishing: a folder appears whole or not at all, even when its process is killed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.errors import UserError
from solar_repro.store.leftovers import set_aside_damaged
from solar_repro.store.manifest import verify_manifest
from solar_repro.store.publish import publish, replace_file, replace_folder, write_atomically
from tests.tiny_decoders import LAYERS


def test_a_folder_is_published_with_its_manifest(tmp_path: Path) -> None:
    final = tmp_path / "store" / "result"
    digests: dict[str, str] = {}
    with publish(final, digests) as working:
        assert working.parent == final.parent
        assert not final.exists()
        (working / "sub").mkdir()
        (working / "sub" / "a.txt").write_text("a")
        (working / "b.txt").write_text("b")
        digests["b.txt"] = "not computed again"
    assert [path.name for path in final.parent.iterdir()] == ["result"]
    listed = json.loads((final / "manifest.json").read_text())["files"]
    assert [entry["name"] for entry in listed] == ["b.txt", "sub/a.txt"]
    assert listed[0]["sha256"] == "not computed again"
    plain = tmp_path / "plain"
    plain.mkdir()
    assert final.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), publish(tmp_path / "result") as working:  # noqa: PT012
        (working / "a.txt").write_text("a")
        raise error
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "result"
    final.mkdir()
    (final / "a.txt").write_text("old")
    with pytest.raises(UserError, match="already exists"), publish(final):
        pytest.fail("the block must not run")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    with publish(tmp_path / "result") as working:
        (working / "a.txt").write_text("a")
    verify_manifest(tmp_path / "result")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"), publish(tmp_path / "file" / "result"):
        pytest.fail("the block must not run")


def test_of_two_that_publish_one_wins_whole(tmp_path: Path) -> None:
    final = tmp_path / "result"
    with pytest.raises(UserError, match="already exists"), publish(final) as slow:  # noqa: PT012
        (slow / "a.txt").write_text("slow")
        with publish(final) as fast:
            assert slow.is_dir()  # its process lives
            (fast / "a.txt").write_text("fast")
    assert (final / "a.txt").read_text() == "fast"
    verify_manifest(final)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_user_error(code: int, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"result: the disk is full, [\d,]+ bytes"),
        publish(tmp_path / "result"),
    ):
        raise OSError(code, os.strerror(code))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, made and made larger by its size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def sized(size: str) -> Path:
        options = f"size={size}" if not disk.is_mount() else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if (
            shutil.which("mount") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("needs the right to mount a tmpfs")
        return disk

    yield sized
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_in_the_middle_leaves_nothing(
    small_disk: Callable[[str], Path], saved: Callable[..., Path]
) -> None:
    final = small_disk("128k") / "store" / "result"
    plan = plan_upscale(saved("llama"), dus(LAYERS, 1))

    def make(working: Path) -> None:
        write_upscale(plan, working)
        (working / "more.bin").write_bytes(bytes(1 << 17))

    with pytest.raises(UserError, match=r"result: the disk is full, [\d,]+ bytes"), publish(final) as working:
        make(working)
    assert not list(final.parent.iterdir())
    small_disk("16m")
    with publish(final) as working:
        make(working)
    verify_manifest(final)


def test_kill_in_the_middle_of_a_copy(saved: Callable[..., Path], tmp_path: Path) -> None:
    final = tmp_path / "new"
    script = f"""
import threading
from pathlib import Path
from solar_repro.checkpoint import copying, upscale
from solar_repro.checkpoint.layer_map import dus
from solar_repro.store.publish import publish

upscale.CHUNK_BYTES, copy = 4096, copying.copy_range
def copy_once(*arguments):
    copy(*arguments)
    print("copied", flush=True)
    threading.Event().wait()
copying.copy_range = copy_once
with publish(Path({str(final)!r})) as working:
    upscale.write_upscale(upscale.plan_upscale(Path({str(saved("llama"))!r}), dus({LAYERS}, 1)), working)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("copied")
    (leftover,) = tmp_path.iterdir()
    with publish(
        tmp_path / "other"
    ) as working:  # neither another place nor a living process's folder is touched
        (working / "a.txt").write_text("a")
    assert leftover.is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()

    assert not final.exists()
    assert leftover.is_dir()
    assert leftover.name.startswith(".new.working.")
    assert not (leftover / "manifest.json").exists()
    with publish(final) as working:
        digests = write_upscale(plan_upscale(saved("llama"), dus(LAYERS, 1)), working)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "other"]
    verify_manifest(final)
    listed = {
        entry["name"]: entry["sha256"] for entry in json.loads((final / "manifest.json").read_text())["files"]
    }
    assert digests.items() <= listed.items()


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    with publish(tmp_path / "a") as working:
        host, kernel, pid, started = working.name.removeprefix(".a.working.").split(".")[:4]
        (working / "x").write_text("x")
    assert int(pid) == os.getpid()
    stale = tmp_path / f".a2.working.{host}.{kernel}.{pid}.{int(started) - 1}.abc"
    elsewhere = tmp_path / f".a2.working.other-{host}.{kernel}.{pid}.{started}.abc"
    stale.mkdir()
    elsewhere.mkdir()
    with publish(tmp_path / "a2") as working:
        (working / "x").write_text("x")
    assert not stale.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize(("folder", "result", "file"), [(0o2775, 0o770, 0o660), (0o2755, 0o700, 0o600)])
def test_a_group_that_may_write_to_the_folder_may_go_on_with_results(tmp_path, folder, result, file):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(folder)
    before = os.umask(0o077)
    try:
        with publish(tmp_path / "store" / "result") as working:
            (working / "sub").mkdir()
            (working / "sub" / "a.txt").write_text("a")
    finally:
        os.umask(before)
    made = tmp_path / "store" / "result"
    assert {path.stat().st_mode & 0o777 for path in (made, made / "sub")} == {result}
    assert {(made / name).stat().st_mode & 0o777 for name in ("sub/a.txt", "manifest.json")} == {file}


def test_what_is_damaged_is_set_aside_under_a_name_that_says_so(tmp_path):
    for number in (1, 2):
        (tmp_path / "base-12345678").mkdir()
        (tmp_path / "base-12345678" / "weights").write_text(f"{number}")
        assert set_aside_damaged(tmp_path / "base-12345678") == tmp_path / f"base-12345678.damaged-{number}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base-12345678.damaged-1",
        "base-12345678.damaged-2",
    ]
    assert (tmp_path / "base-12345678.damaged-1" / "weights").read_text() == "1"


def test_what_cannot_be_set_aside_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "result").mkdir()

    def refusing(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(UserError, match=r"result: is damaged and cannot be renamed \(Permission denied\)"):
        set_aside_damaged(tmp_path / "result")


def test_a_file_is_swapped_only_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, flushed = tmp_path / "new" / "baseline.json", os.fsync
    write_atomically(place, "old")
    events: list[str] = []

    def fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        events.append(f"{'file' if name.startswith('.') else name} while {place.read_text()}")
        flushed(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(place, "new")
    assert events == ["file while old", "new while new"]
    assert list(place.parent.iterdir()) == [place]
    beside = tmp_path / "plain"
    beside.write_text("")
    assert place.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("how", [replace_file, replace_folder])
def test_an_error_leaves_the_old_one_alone(how: Callable, tmp_path: Path) -> None:
    old = tmp_path / "place"
    if how is replace_file:
        old.write_text("old")
    else:
        old.mkdir()
        (old / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), how(old):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [old]
    assert (old if how is replace_file else old / "a").read_text() == "old"


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with replace_folder(tmp_path / "report") as work:
            (work / name).write_text("")
    assert list(tmp_path.rglob("*")) == [tmp_path / "report", tmp_path / "report" / "b"]


@pytest.mark.parametrize("how", [replace_file, replace_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_place_that_cannot_be_written_is_one_line(how: Callable, number: int, tmp_path: Path) -> None:
    message = f"^{tmp_path}: cannot be written .*; choose another"
    with pytest.raises(UserError, match=message) as refused, how(tmp_path / "place"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [replace_file, replace_folder])
def test_a_place_in_no_folder_is_one_line_before_anything_is_made(how: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"), how(tmp_path / "file" / "place"):
        pytest.fail("the block must not run")


def test_what_cannot_be_read_meanwhile_is_not_laid_at_the_places_door(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replace_file(tmp_path / "place"):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/rows.parquet")
