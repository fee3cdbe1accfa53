"""How a process stops on SIGTERM (sent by Slurm, spot machines and `kill`) or Ctrl-C.

On the first signal it saves its state and closes its runs. On the second it ends at once.
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
SAME_REQUEST_SECONDS = 2.0
"""Signals this close together count as one: `mlflow run` repeats a Ctrl-C as SIGTERM."""
SAVING_MESSAGE = b"asked to end: what is at work saves its state; asked once more, it ends at once\n"


@dataclass
class StopRequest:
    """Whether the process was asked to stop. A signal handler sets it, so it takes no lock."""

    ends_on_second: bool
    """Whether a second signal ends the process at once; otherwise only SIGKILL does."""
    raises: bool = False
    """Whether the first signal raises Stopped."""
    number: int = 0
    """The first signal's number; 0 before any came."""
    at: float = 0.0
    """When it came, in seconds of the monotonic clock."""

    def is_set(self) -> bool:
        return self.number != 0


_asked: StopRequest | None = None
"""The request of this process; None outside `handle_signals`."""


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not _asked.is_set():
        _asked.number, _asked.at = number, time.monotonic()
        if _asked.raises:
            raise Stopped("stopped")
        if _asked.ends_on_second:
            os.write(2, SAVING_MESSAGE)  # the signal may have interrupted a print, so print cannot be used
    elif _asked.ends_on_second and time.monotonic() - _asked.at > SAME_REQUEST_SECONDS:
        raise Stopped("ended at once")


def stop_requested() -> bool:
    """Whether this process was asked to stop. Any thread may call it."""
    return _asked is not None and _asked.is_set()


@contextmanager
def handle_signals(*, ends_on_second: bool) -> Iterator[StopRequest]:
    """Inside the block signals do not kill the process: they set the StopRequest that is yielded.

    A nested block yields the outer block's request. Only the main thread can handle signals, so in another
    thread the request is never set. A signal that was ignored before stays ignored.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(ends_on_second)
        return
    if _asked is not None:
        yield _asked
        return
    _asked = StopRequest(ends_on_second)
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal) for number in handled}
    try:
        yield _asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, within `handle_signals`, a stop request raises Stopped, even an earlier one."""
    with _raising(_asked, True):
        raise_if_stop_requested()
        yield


@contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Inside the block a stop request raises nothing: the work looks at it, saves its state and stops."""
    with handle_signals(ends_on_second=False) as asked, _raising(asked, False):
        yield asked


@contextmanager
def _raising(asked: StopRequest, whether: bool) -> Iterator[None]:
    before, asked.raises = asked.raises, whether
    try:
        yield
    finally:
        asked.raises = before


def raise_if_stop_requested() -> None:
    """Raise Stopped if a stop was requested during work that finished all the same."""
    if stop_requested() and _asked.raises:
        raise Stopped("stopped")


@contextmanager
def block_signals() -> Iterator[None]:
    """Start processes inside the block with SIGTERM blocked until `unblock_sigterm`, and Ctrl-C for good.

    A terminal sends Ctrl-C to all its processes; the parent passes it on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_sigterm() -> None:
    """From here on this process, which was started in `block_signals`, receives SIGTERM."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
