"""Progress of long work: events for the live display of a terminal, or plain lines if there is none."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Literal, NamedTuple, Self

from solar_repro.safety.redact import printable
from solar_repro.terminal.remaining import StepCost

StepState = Literal["waiting", "begun", "made", "found", "failed"]
SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_EVENTS = 0.1


class PlanEvent(NamedTuple):
    """The plan: its steps by key, and how many of them run side by side (`jobs`)."""

    works: Mapping[str, StepCost]
    labels: tuple[str, ...]
    jobs: int


class StepEvent(NamedTuple):
    """A step has changed its state."""

    key: str
    label: str
    stage: str
    position: tuple[int, int]
    """The step's number and the number of steps; (0, 0) if steps are not counted."""
    state: StepState
    text: str
    """What a plain line says about it."""
    seconds: float = 0.0
    """How long it took, once it is made."""
    note: str = ""
    """Its result in a few words, such as a score."""


class WorkEvent(NamedTuple):
    """How far one piece of work has come."""

    id: str
    """Identifies the piece of work."""
    key: str
    """Key of the step that it belongs to; empty if there is none."""
    label: str
    done: int
    total: int
    unit: str
    seconds: float
    note: str
    is_main: bool
    """Whether this work takes most of its step's time."""
    ended: bool = False

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Remaining seconds at this rate; None before the first unit is done."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


class ActivityEvent(NamedTuple):
    """What goes on beside the steps; the text is empty once it is over."""

    text: str


Event = PlanEvent | StepEvent | WorkEvent | ActivityEvent

listener: Callable[[Event], None] | None = None
"""Receives all events: the live display, or in another process a connection to it; None prints lines."""
current_step = ""
"""Key of the step that this process makes."""
line_prefix = ""
"""Precedes each line of this process if several processes write to one terminal."""
silent = False
"""Whether this process prints nothing, because another one reports the same work."""
_numbers = count()


@contextmanager
def show_activity(text: str) -> Iterator[None]:
    """Show `text` in the live display while the block runs."""
    if listener is None:
        yield
        return
    listener(ActivityEvent(text))
    try:
        yield
    finally:
        listener(ActivityEvent(""))


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
        if listener is None and not line_prefix and not silent:
            from solar_repro.terminal.output import live_display

            self._display.enter_context(live_display(""))  # of its own, for work that belongs to no plan
        self._send()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._send(ended=True)
        self._display.close()
        if listener is None and kind is None and self._printed < self._done:
            self._print_line("")

    def advance(self, units: int, note: str = "") -> None:
        """Count `units` more as done, and report that now and then."""
        self._done += units
        self._note = note = printable(note)
        between = SECONDS_BETWEEN_EVENTS if listener is not None else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._last < between:
            return
        self._last = time.monotonic()
        if listener is not None:
            self._send()
        else:
            self._print_line(note)

    def _send(self, ended: bool = False) -> None:
        if listener is not None:
            seconds = time.monotonic() - self._start
            what = (self._label, self._done, self._total, self._unit, seconds, self._note)
            listener(WorkEvent(self._work, current_step, *what, self._is_main, ended))

    def _print_line(self, note: str) -> None:
        if silent:
            return
        self._printed = self._done
        elapsed = time.monotonic() - self._start
        rate = self._done / elapsed if elapsed else 0.0
        figures = f"{self._done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {elapsed:.0f} s"
        if self._done < self._total and rate:
            figures += f", {(self._total - self._done) / rate:.0f} s left"
        told = f"{line_prefix}: {self._label}" if line_prefix else self._label
        print(f"{told}: {figures}{', ' + note if note else ''}", file=sys.stderr, flush=True)
