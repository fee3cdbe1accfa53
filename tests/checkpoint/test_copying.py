"""Ranges copied in every way give the bytes of a plain Python copy."""

import errno
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from solar_repro.checkpoint.copying import CopyRange, coalesce, copy_chunks, split
from solar_repro.errors import UserError


def refuse(code: int) -> Any:
    def raises(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    return raises


@pytest.fixture(params=["copy_file_range", "sendfile", "read and write", "zero bytes moved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sendfile":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
        monkeypatch.setattr(os, "pread", refuse(errno.EIO))
    elif request.param == "read and write":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSYS))
        monkeypatch.setattr(os, "sendfile", refuse(errno.EINVAL))
    elif request.param == "zero bytes moved":  # what some virtual file systems answer
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    return request.param


def test_every_way_copies_the_same(way: str, tmp_path: Path) -> None:
    random.seed(0)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(random.randbytes(100_000))
    target.write_bytes(bytes(120_000))
    expected = bytearray(120_000)
    ranges = [CopyRange(source, 11, target, 100, 50_001), CopyRange(source, 90_000, target, 60_007, 10_000)]
    for r in ranges:
        content = source.read_bytes()[r.source_offset : r.source_offset + r.length]
        expected[r.target_offset : r.target_offset + r.length] = content
    chunks = [chunk for r in ranges for chunk in split(r, 4096)]
    done: list[CopyRange] = []
    copy_chunks(chunks, done.append)
    assert sorted(done, key=chunks.index) == chunks
    assert target.read_bytes() == expected


def test_whole_blocks_are_cloned_where_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks are shared, by the call as linux/fs.h describes it; the ends are copied."""
    content = random.Random(0).randbytes(20_000)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "target").write_bytes(bytes(20_000))
    cloned: list[tuple[int, int, int]] = []

    def ioctl(target: int, request: int, argument: bytes) -> None:
        source, source_offset, length, target_offset = struct.unpack("qQQQ", argument)
        assert request == 0x4020940D
        if source_offset % 4096 or length % 4096 or target_offset % 4096:
            raise OSError(errno.EINVAL, "not on blocks")
        cloned.append((source_offset, length, target_offset))
        os.pwrite(target, os.pread(source, length, source_offset), target_offset)

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    chunks = split(CopyRange(tmp_path / "source", 96, tmp_path / "target", 96, 19_000), 8192)
    copy_chunks(chunks, lambda _: None, workers=1)
    assert (tmp_path / "target").read_bytes()[96:19_096] == content[96:19_096]
    assert cloned == [(4096, 8192, 4096), (12_288, 4096, 12_288)]


def test_a_source_that_shrank_is_an_error(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(100))
    target.write_bytes(b"")
    with pytest.raises(UserError, match="source: ends in the middle"):
        copy_chunks([CopyRange(source, 50, target, 0, 51)], lambda _: None)


def test_a_full_disk_is_no_reason_to_try_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(bytes(10))
    (tmp_path / "target").write_bytes(b"")
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        copy_chunks([CopyRange(tmp_path / "source", 0, tmp_path / "target", 0, 10)], lambda _: None)


def test_touching_ranges_are_joined() -> None:
    a, b, out = Path("a"), Path("b"), Path("out")
    assert coalesce(
        [
            CopyRange(a, 0, out, 10, 5),
            CopyRange(a, 5, out, 15, 5),
            CopyRange(a, 11, out, 20, 1),  # a gap in the source
            CopyRange(a, 12, out, 22, 1),  # a gap in the target
            CopyRange(b, 13, out, 23, 1),  # another source
        ]
    ) == [
        CopyRange(a, 0, out, 10, 10),
        CopyRange(a, 11, out, 20, 1),
        CopyRange(a, 12, out, 22, 1),
        CopyRange(b, 13, out, 23, 1),
    ]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, 1), (4095, 2), (4096, 8192), (100, 50_000), (8190, 4)]
)
def test_chunks_cover_a_range_and_begin_on_disk_blocks(offset: int, length: int) -> None:
    chunks = split(CopyRange(Path("a"), offset, Path("b"), 7, length), 8192)
    covered = [byte for c in chunks for byte in range(c.source_offset, c.source_offset + c.length)]
    assert covered == list(range(offset, offset + length))
    assert all(c.target_offset - c.source_offset == 7 - offset for c in chunks)
    assert all(c.source_offset % 4096 == 0 for c in chunks[1:])
