"""Opening files that others may have put there: regular ones alone, and of a checkpoint its folder's own."""

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


def regular(path: Path | str, flags: int) -> int:
    """An `opener` for `open` that gives regular files alone, and of all others raises UserError at once.

    A FIFO would be waited for without end, and a device has none.
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
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of a regular file, for the block alone: a checkpoint may have more than may be open."""
    descriptor = regular(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def own(path: Path | str, flags: int) -> int:
    """The same for files that are written where others can write too: a link in their place is refused."""
    if os.path.islink(path):
        raise UserError(f"{path}: is a link, but a file is written here; remove the link")
    return regular(path, flags | os.O_NOFOLLOW)


def within(folder: Path) -> Callable[[str, int], int]:
    """The opener for files of a checkpoint's folder: regular, and none that a link leads out of it.

    What was opened is looked at, not the name, behind which another file may have been put meanwhile.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = regular(path, flags)
        try:
            opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # no /proc on this system
            opened = Path(path).resolve()
        if not _belongs(opened, folder.resolve()):
            os.close(descriptor)
            raise _leaves(Path(path), opened)
        return descriptor

    return opener


def refuse_strangers(folder: Path) -> None:
    """Refuse (UserError) a folder with a link that leaves it, or with anything but files and folders.

    Links of the hub's cache to its own blobs are no strangers. Hidden files, which nothing here reads, may
    be anything.
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


def copy(source: Path, target: Path) -> str:
    """Copy a file that lies in its own folder (`within`) to a new one; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with open(source, "rb", opener=within(source.parent)) as file, target.open("xb") as out:
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
    """Whether `name` is text that names a file inside a folder, without leaving it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")
