"""Publishing a folder whole or not at all: written beside its final place, flushed, then renamed."""

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from solar_repro.checkpoint.manifest import write_manifest
from solar_repro.errors import UserError


@contextmanager
def publish(final: Path, digests: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a fresh working folder beside `final`; on success it becomes `final`, else it is removed.

    Its files are flushed to disk, `manifest.json` is written last (with `digests`, a mapping that may be
    filled inside the block; other files are hashed), then one rename. What killed processes left for the same
    place is removed. A full disk raises UserError.
    """
    final = Path(final).absolute()
    _refuse_occupied(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        working = Path(tempfile.mkdtemp(prefix=f"{_prefix(final)}{_owner()}.", dir=final.parent))
    except OSError as error:
        raise UserError(
            f"{final.parent}: cannot be written ({error.strerror}); choose another place"
        ) from error
    try:
        working.chmod(0o777 & ~_umask())
        yield working
        write_manifest(working, digests)
        _flush(working)
        _refuse_occupied(final)
        working.rename(final)
        _flush_entry(final.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(final.parent).free
            raise UserError(
                f"{final}: the disk is full, {free:,} bytes were free when writing failed; "
                "free some or choose another place"
            ) from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


def remove(final: Path) -> None:
    """Remove a published folder, renamed first: a killed removal leaves nothing that passes for a result.

    Of a link the link alone goes.
    """
    doomed = final.with_name(f"{_prefix(final)}{_owner()}.removed")
    final.rename(doomed)
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed)


def set_aside(final: Path) -> Path:
    """Give a damaged result's folder a name that says so, and return it: nothing of it is lost.

    UserError where it cannot be renamed, as where it is another user's.
    """
    for number in count(1):
        aside = final.with_name(f"{final.name}.damaged-{number}")
        if not os.path.lexists(aside):
            break
    try:
        final.rename(aside)
    except OSError as error:
        raise UserError(
            f"{final}: damaged, and cannot be set aside ({error.strerror}); ask who owns it, or choose "
            "another store"
        ) from error
    return aside


def remove_leftovers(final: Path) -> list[Path]:
    """Remove and return working folders for `final` whose processes, of this machine, are dead."""
    removed = [folder for folder in leftovers(final.parent) if folder.name.startswith(_prefix(final))]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def leftovers(parent: Path) -> list[Path]:
    """Working folders in `parent`, for any place, whose processes, of this machine, are dead."""
    pattern = re.compile(r"\..+\.working\." + re.escape(_host()) + r"\.([0-9]{1,9})\.([0-9]+)\.[^.]+")
    return [
        folder
        for folder in sorted(parent.iterdir())
        if (match := pattern.fullmatch(folder.name)) and _is_dead(int(match[1]), match[2])
    ]


def _owner() -> str:
    return f"{_host()}.{os.getpid()}.{_started(os.getpid())}"


def _prefix(final: Path) -> str:
    return f".{final.name}.working."


def _is_dead(pid: int, started: str) -> bool:
    """Whether the process of this number that started then is gone; another may have its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's: it cannot be told
        return False
    return _started(pid) != started


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "0" where the system has no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_occupied(final: Path) -> None:
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise UserError(f"{final}: already there; remove it or choose another place")


def _flush(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _flush_entry(Path(parent, name))
        _flush_entry(Path(parent))


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
