"""Commands measured from outside: time until the output is on the disk, peak memory, cold page cache."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# Settings of threads that a caller may have exported for itself; contenders run with their own defaults.
_NOT_INHERITED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """Seconds until the process ended, seconds until its output was on the disk too, peak resident bytes."""

    seconds: float
    seconds_on_disk: float
    peak_resident_bytes: int


@dataclass(frozen=True)
class Contender:
    """A command that reads some paths and writes `out`, or writes nothing where `out` is None."""

    task: str
    name: str
    command: list[str]
    reads: tuple[Path, ...]
    out: Path | None
    bytes: int
    """The bytes that its speed is computed from: those it writes, or those it reads where it writes none."""
    check: Callable[[], dict[str, Any]] | None = None
    """Checks `out` after the first round. None where there is nothing to check."""


def files_below(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def bytes_below(path: Path) -> int:
    return sum(file.stat().st_size for file in files_below(path))


def measure(command: Sequence[str | Path], log: Path, output: Path | None) -> Run:
    """Run a command to its end, its prints going to `log`; UserError with the last of them where it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by subprocess
    if process.returncode:
        last = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
        raise UserError(f"{' '.join(map(str, command[:4]))} … failed ({process.returncode}): {last}")
    if output is not None:
        for file in files_below(output):
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return Run(seconds, time.perf_counter() - start, usage.ru_maxrss * 1024)


def drop_from_page_cache(paths: Iterable[Path]) -> str:
    """Make the next reads of these files come from the disk; returns how it was done."""
    os.sync()
    for path in paths:
        for file in files_below(path):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    try:
        _DROP_CACHES.write_text("3\n")
    except OSError:
        return "fadvise"
    return "drop_caches"
