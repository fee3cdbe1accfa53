"""The terminal that a command is watched in: whether there is one, and what is written beside its display."""

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from solar_repro.terminal import progress


def is_watched() -> bool:
    """Whether somebody watches stderr in a terminal that can move its cursor; not in CI, files and pipes."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


@contextmanager
def live(title: str) -> Iterator[None]:
    """Inside the block a watched terminal has the live display; elsewhere nothing changes."""
    if progress.listener is not None or not is_watched():
        yield
        return
    from solar_repro.terminal.display import Display

    with _captured() as (terminal, written):
        display = Display(title, terminal, written)
        progress.listener = display.hear
        display.start()
        try:
            yield
        finally:
            progress.listener = None
            _flush()
            display.stop()


@contextmanager
def _captured() -> Iterator[tuple[int, int]]:
    """Have all that this process and its children write to the terminal go into a pipe instead.

    Gives a descriptor of the terminal, and the pipe's reading end. Libraries written in C, and processes that
    this one starts, know descriptors alone. What such a library says when it ends the process on the spot is
    lost in the pipe; Python's own account of it goes to the terminal.
    """
    outputs = [number for number in (1, 2) if os.isatty(number)]
    kept = {number: os.dup(number) for number in outputs}
    reading, writing = os.pipe()
    traced = faulthandler.is_enabled()
    try:
        _flush()
        for number in outputs:
            os.dup2(writing, number)
        os.close(writing)
        if not traced:
            faulthandler.enable(kept[2])
        yield kept[2], reading
    finally:
        if not traced:
            faulthandler.disable()
        _flush()
        for number, terminal in kept.items():
            os.dup2(terminal, number)
            os.close(terminal)
        os.close(reading)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or its reader is gone
            stream.flush()
