"""SHA-256 of files, also while they are still being written (read from the page cache by other threads)."""

import hashlib
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from solar_repro.safety.regular_files import open_regular
from solar_repro.terminal.progress import Progress

WINDOW_BYTES = 8 << 20
HASHERS = 2
LONG_BYTES = 4 << 30  # hashing these takes a few seconds


def sha256(file: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal; an OSError has the name of the file."""
    try:
        with open(file, "rb", opener=open_regular) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        error.filename = error.filename or str(file)  # an error of reading has none
        raise


def sha256_all(files: Iterable[Path]) -> dict[Path, str]:
    """Hash several files, one on each core; more than `LONG_BYTES` get a progress bar."""
    sizes = {file: file.stat().st_size for file in files}
    total = sum(sizes.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = zip(sizes, pool.map(sha256, sizes), strict=True)
        if total < LONG_BYTES:
            return dict(digests)
        found: dict[Path, str] = {}
        with Progress("hashing", total, "B") as progress:
            for file, digest in digests:
                found[file] = digest
                progress.advance(sizes[file])
        return found


class FollowingHasher:
    """Hash files of known size while other threads write them in any order, following the completed bytes.

    Call `written(file, start, length)` once the bytes of a part are in the file; a file without a size is
    ignored. `digests()` waits for the rest. Use it as a context manager. It is thread-safe.
    """

    def __init__(self, sizes: Mapping[Path, int]) -> None:
        self._files = {file: _File(file, size) for file, size in sizes.items()}
        self._pool = ThreadPoolExecutor(HASHERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def written(self, file: Path, start: int, length: int) -> None:
        """Report that `length` bytes from `start` are in the file."""
        state = self._files.get(file)
        if state is None or length == 0:
            return
        with state.lock:
            state.parts[start] = length
            while (part := state.parts.pop(state.complete, 0)) > 0:
                state.complete += part
            if state.task is None and state.complete > state.hashed:
                state.task = self._pool.submit(self._follow, state)

    def digests(self) -> dict[str, str]:
        """Return the digest of every file by its name; raises ValueError if a part was not reported."""
        for state in self._files.values():
            if state.complete != state.size:
                raise ValueError(
                    f"{state.file}: only {state.complete} of {state.size} bytes were reported written"
                )
            while (task := state.task) is not None:
                task.result()
        return {state.file.name: state.digest.hexdigest() for state in self._files.values()}

    def _follow(self, state: "_File") -> None:
        with state.file.open("rb") as stream:
            while True:
                with state.lock:
                    window = min(WINDOW_BYTES, state.complete - state.hashed)
                    if window == 0:
                        state.task = None
                        return
                start = state.hashed - state.hashed % mmap.ALLOCATIONGRANULARITY
                # A small window, so that the mapped pages don't count as much resident memory.
                with (
                    mmap.mmap(
                        stream.fileno(), state.hashed + window - start, access=mmap.ACCESS_READ, offset=start
                    ) as pages,
                    memoryview(pages)[state.hashed - start :] as view,
                ):
                    state.digest.update(view)
                state.hashed += window


class _File:
    def __init__(self, file: Path, size: int) -> None:
        self.file, self.size = file, size
        self.lock = Lock()
        self.parts: dict[int, int] = {}  # start → length of what is written beyond `complete`
        self.complete = self.hashed = 0  # bytes from the start of the file
        self.digest = hashlib.sha256()
        self.task: Future[None] | None = None
