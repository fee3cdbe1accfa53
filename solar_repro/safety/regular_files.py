"""Opens files that others may have put there: regular files only, and only those inside their folder."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

BLOCK = 1 << 20
_REPOSITORY = re.compile(r"(models|datasets)--.+")  # a folder of the hub's cache
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path | str, flags: int) -> int:
    """Serve as `opener` of `open` for regular files; raises UserError at once for anything else.

    Opening a FIFO would wait without end, and reading a device might not end.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, but must be a file; remove it or put the file there") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise UserError(f"{path}: is {_kind(mode)}, but must be a file; remove it or put the file there")


@contextmanager
def regular_descriptor(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor of a regular file that is open only inside the block.

    A checkpoint may have more files than a process may keep open.
    """
    descriptor = open_regular(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_own_file(path: Path | str, flags: int) -> int:
    """Serve as `opener` for files to be written in shared folders; raises UserError also for a link."""
    if os.path.islink(path):
        raise UserError(f"{path}: is a link, but a file is written here; remove the link")
    return open_regular(path, flags | os.O_NOFOLLOW)


def opener_within(folder: Path) -> Callable[[str, int], int]:
    """Return an `opener` for regular files inside `folder`; it refuses those outside that a link leads to.

    It checks the opened file and not the name, because the name may have been given to another file
    meanwhile.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = open_regular(path, flags)
        try:
            opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # no /proc on this system
            opened = Path(path).resolve()
        if not _belongs(opened, folder.resolve()):
            os.close(descriptor)
            raise _leaves(Path(path), opened)
        return descriptor

    return opener


def refuse_foreign_links(folder: Path) -> None:
    """Raise UserError if a folder holds a link that leaves it, or anything but files and folders.

    Links of the hub's cache to its own blobs are allowed. Hidden files are not checked, as nothing reads
    them.
    """
    root = folder.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.is_symlink() and not _belongs(path.resolve(), root):
                raise _leaves(path, path.resolve())
            mode = path.stat().st_mode if path.exists() else path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise UserError(
                    f"{path}: is {_kind(mode)}, but must be a file; remove it or put the file there"
                )


def refuse_hidden(file: Path, folder: Path) -> None:
    """Raise UserError for a hidden file of a folder: neither fingerprints nor checks of links see it."""
    between = Path(os.path.relpath(file.parent.resolve(), folder.resolve())).parts
    if any(part.startswith(".") for part in (*between, file.name)):
        raise UserError(f"{file}: is hidden, so that nobody would see that it changed; rename it")


def copy_file(source: Path, target: Path, folder: Path | None = None) -> str:
    """Copy a file to a new one, and return the SHA-256 of what was written.

    Raises UserError if `source` is a link that leads out of `folder`, which is its own unless given.
    """
    digest = hashlib.sha256()
    with open(source, "rb", opener=opener_within(folder or source.parent)) as file, target.open("xb") as out:
        while block := file.read(BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _belongs(file: Path, root: Path) -> bool:
    if file.is_relative_to(root):
        return True
    # <cache>/models--org--name/snapshots/<commit>/file → <cache>/models--org--name/blobs/<digest>
    cached = root.parent.name == "snapshots" and _REPOSITORY.fullmatch(root.parents[1].name)
    return bool(cached) and file.parent == root.parents[1] / "blobs"


def _leaves(link: Path, target: Path) -> UserError:
    return UserError(
        f"{link}: is a link out of its folder, to {target}; if you want that file, put a copy of it there"
    )


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def is_plain_file_name(name: Any) -> bool:
    """Whether `name` is a text that names a file directly inside a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")
