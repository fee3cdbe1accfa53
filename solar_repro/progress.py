"""Progress of long work: a bar where it is watched, plain lines where it is not (CI, log files)."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
told_of = ""
"""What this process works on, in front of its lines where several processes write to one terminal."""
silent = False
"""Set where another process tells the same."""


class Progress:
    """Report `total` units of work on stderr, with rate and remaining time.

    Use as a context manager; call `advance(n, note)` as units finish. `note` is a short text shown behind
    the figures, such as the current loss.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._printed = -1
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not told_of and not silent:
            self._bar = tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._printed < self._done:
            self._print_line("")

    def advance(self, units: int, note: str = "") -> None:
        self._done += units
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._print_line(note)

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
