"""Copies ranges of files inside the kernel, several at a time."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock

from solar_repro.checkpoint.headers import DISK_BLOCK
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import regular_descriptor

CHUNK_BYTES = 32 << 20
WORKERS = 4
_PLAIN_BYTES = 4 << 20
# Errors of a file system or kernel that does not support a way of copying.
_REFUSALS = frozenset(
    [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EBADF]
)
_FICLONERANGE = 0x4020940D  # linux/fs.h


@dataclass(frozen=True)
class CopyRange:
    """`length` bytes from `source_offset` of `source` to `target_offset` of `target`."""

    source: Path
    source_offset: int
    target: Path
    target_offset: int
    length: int


def coalesce(ranges: Iterable[CopyRange]) -> list[CopyRange]:
    """Join each range with the one before it if both their sources and their targets touch."""
    joined: list[CopyRange] = []
    for new in ranges:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.source, last.target) == (new.source, new.target)
            and last.source_offset + last.length == new.source_offset
            and last.target_offset + last.length == new.target_offset
        ):
            new = CopyRange(
                last.source, last.source_offset, last.target, last.target_offset, last.length + new.length
            )
            joined.pop()
        joined.append(new)
    return joined


def split(copy: CopyRange, chunk_bytes: int = CHUNK_BYTES) -> list[CopyRange]:
    """Cut a range into chunks at disk blocks of the source, so that all but its two ends can be cloned."""
    first = -copy.source_offset % DISK_BLOCK
    cuts = sorted({0, *range(first, copy.length, chunk_bytes), copy.length})
    return [
        CopyRange(
            copy.source, copy.source_offset + start, copy.target, copy.target_offset + start, end - start
        )
        for start, end in pairwise(cuts)
    ]


def copy_chunks(
    chunks: Sequence[CopyRange], done: Callable[[CopyRange], None], workers: int = WORKERS
) -> None:
    """Copy all chunks in order, `workers` at a time, and call `done` after each, one call at a time.

    The targets must exist. The first error ends the copy and is raised. Files are open only while they are
    used, because a checkpoint may have more shards than a process may keep open.
    """
    with ThreadPoolExecutor(workers) as pool:

        def copy(chunk: CopyRange) -> None:
            with (
                regular_descriptor(chunk.source) as source,
                regular_descriptor(chunk.target, os.O_WRONLY) as target,
            ):
                copy_range(source, target, chunk)
                # This starts writing the chunk to disk at once; the kernel would wait for more dirty pages.
                os.posix_fadvise(target, chunk.target_offset, chunk.length, os.POSIX_FADV_DONTNEED)
            with calling_done:
                done(chunk)

        calling_done = Lock()
        tasks = [pool.submit(copy, chunk) for chunk in chunks]
        try:
            finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in finished:
                task.result()
        finally:  # after an error or an interruption the rest is not begun
            for task in tasks:
                task.cancel()


def copy_range(source: int, target: int, chunk: CopyRange) -> None:
    """Copy one range between descriptors: by cloning, else in the kernel, else by reading and writing."""
    copied = 0
    for move in (_clone, _copy_file_range, _sendfile, _read_and_write):
        try:
            while copied < chunk.length:
                moved = move(
                    source,
                    target,
                    chunk.source_offset + copied,
                    chunk.target_offset + copied,
                    chunk.length - copied,
                )
                if moved == 0:
                    break
                copied += moved
        except OSError as error:
            if error.errno not in _REFUSALS or move is _read_and_write:
                raise
        if copied == chunk.length:
            return
    raise UserError(
        f"{chunk.source}: ends in the middle of a tensor, as it was changed during the copy; copy it again"
    )


def _clone(source: int, target: int, source_offset: int, target_offset: int, length: int) -> int:
    """Share whole blocks between the files, on file systems that can (btrfs, XFS)."""
    whole = length - length % DISK_BLOCK
    if whole:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("qQQQ", source, source_offset, whole, target_offset))
    return whole


def _copy_file_range(source: int, target: int, source_offset: int, target_offset: int, length: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range on this system")
    # The kernel then reads further ahead than it would by itself.
    os.posix_fadvise(source, source_offset, length, os.POSIX_FADV_WILLNEED)
    return os.copy_file_range(source, target, length, source_offset, target_offset)


def _sendfile(source: int, target: int, source_offset: int, target_offset: int, length: int) -> int:
    # sendfile writes at the descriptor's position, which the workers share, so the file is opened again.
    try:
        own = os.open(f"/proc/self/fd/{target}", os.O_WRONLY)
    except FileNotFoundError as error:
        raise OSError(errno.ENOSYS, "no /proc on this system") from error
    try:
        os.lseek(own, target_offset, os.SEEK_SET)
        return os.sendfile(own, source, source_offset, length)
    finally:
        os.close(own)


def _read_and_write(source: int, target: int, source_offset: int, target_offset: int, length: int) -> int:
    block = os.pread(source, min(length, _PLAIN_BYTES), source_offset)
    written = 0
    while written < len(block):
        written += os.pwrite(target, memoryview(block)[written:], target_offset + written)
    return len(block)
