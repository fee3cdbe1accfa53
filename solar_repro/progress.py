"""Progress of long work: told to the live display of a terminal, or plain lines where there is none."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Literal, NamedTuple, Self

from solar_repro.redact import printable
from solar_repro.remaining import Work

State = Literal["waiting", "begun", "made", "found", "failed"]
SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_EVENTS = 0.1


class Planned(NamedTuple):
    """What shall be made: the steps by key, and how many of them side by side."""

    works: Mapping[str, Work]
    labels: tuple[str, ...]
    jobs: int
    whole: bool = False
    """Whether every step is asked for; otherwise those behind a step that is finished are not needed."""


class Turn(NamedTuple):
    """What has become of a step."""

    key: str
    label: str
    stage: str
    position: tuple[int, int]
    """Number of the step, and of how many; (0, 0) where steps are not counted."""
    state: State
    text: str
    """What a plain line says of it."""
    seconds: float = 0.0
    """That it took, once it is made."""
    note: str = ""
    """What came of it, such as a score."""


class Told(NamedTuple):
    """How far one piece of work is."""

    work: str
    """Tells it from others."""
    key: str
    """Of the step that it belongs to; empty where there is none."""
    label: str
    done: int
    total: int
    unit: str
    seconds: float
    note: str
    most: bool
    """Whether it takes most of its step's time."""
    ended: bool = False

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that it still takes at this rate; None where nothing is done yet."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


class Doing(NamedTuple):
    """What goes on beside the steps; empty once it is over."""

    text: str


Event = Planned | Turn | Told | Doing

listener: Callable[[Event], None] | None = None
"""Who hears of all progress: the live display, or in another process a connection to it."""
at_work = ""
"""Key of the step that this process makes."""
told_of = ""
"""What this process works on, in front of its lines where several processes write to one terminal."""
silent = False
"""Set where another process tells the same."""
_numbers = count()


@contextmanager
def doing(text: str) -> Iterator[None]:
    """Have the live display say what goes on inside the block."""
    if listener is None:
        yield
        return
    listener(Doing(text))
    try:
        yield
    finally:
        listener(Doing(""))


class Progress:
    """Report `total` units of work, with rate and remaining time: in the display, or by lines on stderr.

    Use as a context manager; call `advance(n, note)` as units finish. `note` is a short text shown behind
    the figures, such as the current loss. `most` says that this is what takes most of a step's time.
    """

    def __init__(self, label: str, total: int, unit: str, *, most: bool = False) -> None:
        self._label, self._total, self._unit, self._most = printable(label), total, unit, most
        self._done = 0
        self._printed = -1
        self._note = ""
        self._start = self._last = time.monotonic()
        self._work = f"{os.getpid()}.{next(_numbers)}"
        self._display = ExitStack()
        if listener is None and not told_of and not silent:
            from solar_repro.terminal import live

            self._display.enter_context(live(""))  # of its own, for work that belongs to no plan
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(ended=True)
        self._display.close()
        if listener is None and kind is None and self._printed < self._done:
            self._print_line("")

    def advance(self, units: int, note: str = "") -> None:
        self._done += units
        self._note = note = printable(note)
        between = SECONDS_BETWEEN_EVENTS if listener is not None else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._last < between:
            return
        self._last = time.monotonic()
        if listener is not None:
            self._tell()
        else:
            self._print_line(note)

    def _tell(self, ended: bool = False) -> None:
        if listener is not None:
            seconds = time.monotonic() - self._start
            what = (self._label, self._done, self._total, self._unit, seconds, self._note)
            listener(Told(self._work, at_work, *what, self._most, ended))

    def _print_line(self, note: str) -> None:
        if silent:
            return
        self._printed = self._done
        elapsed = time.monotonic() - self._start
        rate = self._done / elapsed if elapsed else 0.0
        figures = f"{self._done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {elapsed:.0f} s"
        if self._done < self._total and rate:
            figures += f", {(self._total - self._done) / rate:.0f} s left"
        told = f"{told_of}: {self._label}" if told_of else self._label
        print(f"{told}: {figures}{', ' + note if note else ''}", file=sys.stderr, flush=True)
