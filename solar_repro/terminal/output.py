"""Whether a person watches the terminal, and what others write to it while the live display is shown."""

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from solar_repro.terminal import events


def is_watched() -> bool:
    """Whether stderr is a terminal that can move its cursor; False in CI, for files and for pipes."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


@contextmanager
def live_display(title: str) -> Iterator[None]:
    """Show the live display while the block runs, if a person watches the terminal; else change nothing."""
    if events.listener is not None or not is_watched():
        yield
        return
    from solar_repro.terminal.display import Display

    with _captured() as (terminal, written):
        display = Display(title, terminal, written)
        events.listener = display.handle
        display.start()
        try:
            yield
        finally:
            events.listener = None
            _flush()
            display.stop()


@contextmanager
def _captured() -> Iterator[tuple[int, int]]:
    """Redirect all that this process and its children write to the terminal into a pipe.

    Yields a descriptor of the terminal and the pipe's reading end. Descriptors are redirected and not
    sys.stdout, because C libraries and child processes write to descriptors. What a C library writes just
    before it aborts the process is lost in the pipe, but Python's own traceback of the abort goes to the
    terminal.
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
