"""Names for processes and folders on a disk that several machines may share."""

import hashlib
import os
import re
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def process_name() -> str:
    """Return a name of this process, without slashes, that `is_dead` understands."""
    return f"{_host()}.{_kernel()}.{os.getpid()}.{_started(os.getpid())}"


def is_dead(process: str) -> bool | None:
    """Whether the process of that name is gone; None if it is unknown.

    It is unknown for a process on another machine, in another container or from before the last boot, because
    process numbers and even host names may be the same there.
    """
    match = re.fullmatch(r"(.+)\.([0-9a-f]+)\.([0-9]{1,9})\.([0-9]+)", process)
    if match is None or (match[1], match[2]) != (_host(), _kernel()):
        return None
    try:
        os.kill(int(match[3]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's and runs
        return False
    return _started(int(match[3])) != match[4]  # another process may have its number


def folder_identity(folder: Path) -> str | None:
    """Return what identifies a folder among all machines until the next boot; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return _digest(_boot(), str(found.st_dev), str(found.st_ino))


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot; "0" if the system has no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _kernel() -> str:
    """Return a digest of the running kernel and its process namespace, which each container has."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return _digest(_boot(), namespace)


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
