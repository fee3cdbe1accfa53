"""How a process ends when it is asked to: by SIGTERM (Slurm, spot machines, `kill`) or Ctrl-C.

Asked once, it closes its runs, and what can be saved is saved. Asked again, it ends at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from solar_repro.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS_OF_ONE_WISH = 2.0
"""`mlflow run` passes on as SIGTERM the Ctrl-C that the terminal sends to all: two signals, one wish."""
SAVING = b"asked to end: what is at work saves its state; asked once more, it ends at once\n"


@dataclass
class Asked:
    """Whether the process was asked to end. A signal's handler sets it, so it takes no lock."""

    hasty: bool
    """Whether to end at once when asked again; else whoever insists kills the process."""
    raises: bool = False
    number: int = 0
    """The signal that asked first."""
    at: float = 0.0

    def is_set(self) -> bool:
        return self.number != 0


_asked: Asked | None = None
"""The process's own, while it heeds signals."""


def _note(number: int, frame: FrameType | None) -> None:
    if not _asked.is_set():
        _asked.number, _asked.at = number, time.monotonic()
        if _asked.raises:
            raise Stopped("stopped")
        if _asked.hasty:
            os.write(2, SAVING)  # a print may be what the signal has interrupted
    elif _asked.hasty and time.monotonic() - _asked.at > SECONDS_OF_ONE_WISH:
        raise Stopped("ended at once")


def was_asked() -> bool:
    """Whether this process was asked to end; any thread may look."""
    return _asked is not None and _asked.is_set()


@contextmanager
def heeding(*, hasty: bool) -> Iterator[Asked]:
    """Inside the block the signals no longer kill: they set what is yielded, or what a block around it has.

    Only the main thread may handle signals; in others nothing is ever set. Ctrl-C stays ignored where it was.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield Asked(hasty)
        return
    if _asked is not None:
        yield _asked
        return
    _asked = Asked(hasty)
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _note) for number in heard}
    try:
        yield _asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, within `heeding`, being asked to end raises Stopped, also if that came before."""
    with _raising(_asked, True):
        end_if_asked()
        yield


@contextmanager
def asked_to_end() -> Iterator[Asked]:
    """Inside the block being asked to end raises nothing: who works there looks, saves and stops."""
    with heeding(hasty=False) as asked, _raising(asked, False):
        yield asked


@contextmanager
def _raising(asked: Asked, whether: bool) -> Iterator[None]:
    before, asked.raises = asked.raises, whether
    try:
        yield
    finally:
        asked.raises = before


def end_if_asked() -> None:
    """Raise Stopped where the process was asked to end and what worked then came to its end all the same."""
    if was_asked() and _asked.raises:
        raise Stopped("stopped")


@contextmanager
def starting_unheard() -> Iterator[None]:
    """Processes started inside the block hear neither signal until they are `ready_to_hear`.

    Ctrl-C, which a terminal sends to all its processes, they never hear: their parent tells them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ready_to_hear() -> None:
    """From here on a process that was started unheard hears SIGTERM."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
