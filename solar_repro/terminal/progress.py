"""Progress of long work: events for the live display of a terminal, or plain lines if there is none."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Self

from solar_repro.safety.redact import printable
from solar_repro.terminal import events
from solar_repro.terminal.output import live_display

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_EVENTS = 0.1


_numbers = count()


@contextmanager
def show_activity(text: str) -> Iterator[None]:
    """Show `text` in the live display while the block runs."""
    if events.listener is None:
        yield
        return
    events.listener(events.ActivityEvent(text))
    try:
        yield
    finally:
        events.listener(events.ActivityEvent(""))


class Progress:
    """Report `total` units of work with rate and remaining time, in the display or as lines on stderr.

    Use it as a context manager and call `advance(n, note)` as units finish. `note` is a short text behind the
    figures, such as the current loss. `is_main` says that this work takes most of its step's time.
    """

    def __init__(self, label: str, total: int, unit: str, *, is_main: bool = False) -> None:
        self._label, self._total, self._unit, self._is_main = printable(label), total, unit, is_main
        self._done = 0
        self._printed = -1
        self._note = ""
        self._start = self._last = time.monotonic()
        self._work = f"{os.getpid()}.{next(_numbers)}"
        self._display = ExitStack()
        if events.listener is None and not events.line_prefix and not events.silent:
            self._display.enter_context(live_display(""))  # work outside a plan gets its own display
        self._send()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._send(ended=True)
        self._display.close()
        if events.listener is None and kind is None and self._printed < self._done:
            self._print_line("")

    def advance(self, units: int, note: str = "") -> None:
        """Count `units` more as done, and report that now and then."""
        self._done += units
        self._note = note = printable(note)
        between = SECONDS_BETWEEN_EVENTS if events.listener is not None else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._last < between:
            return
        self._last = time.monotonic()
        if events.listener is not None:
            self._send()
        else:
            self._print_line(note)

    def _send(self, ended: bool = False) -> None:
        if events.listener is not None:
            seconds = time.monotonic() - self._start
            what = (self._label, self._done, self._total, self._unit, seconds, self._note)
            events.listener(events.WorkEvent(self._work, events.current_step, *what, self._is_main, ended))

    def _print_line(self, note: str) -> None:
        if events.silent:
            return
        self._printed = self._done
        elapsed = time.monotonic() - self._start
        rate = self._done / elapsed if elapsed else 0.0
        figures = f"{self._done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {elapsed:.0f} s"
        if self._done < self._total and rate:
            figures += f", {(self._total - self._done) / rate:.0f} s left"
        name = f"{events.line_prefix}: {self._label}" if events.line_prefix else self._label
        print(f"{name}: {figures}{', ' + note if note else ''}", file=sys.stderr, flush=True)
