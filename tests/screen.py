"""A terminal for tests: a process on a pseudo-terminal, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.conftest import ROOT

_PIECE = re.compile(
    r"\x1b\[(?P<numbers>[?0-9;]*)(?P<command>[A-Za-z])|(?P<control>[\r\n])|(?P<text>[^\x1b\r\n])"
)


class Screen:
    """Lines as a terminal of this size shows them, those that have left it at the top included."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Obey what is written; a control sequence that is not known fails."""
        end = 0
        for piece in _PIECE.finditer(text):
            assert piece.start() == end, f"not understood: {text[end : piece.start() + 9]!r}"
            end = piece.end()
            if piece["command"]:
                self._obey(piece["command"], piece["numbers"])
            elif piece["control"] == "\r":
                self.column = 0
            elif piece["control"] == "\n":
                self._down()
            else:
                self._put(piece["text"])
        assert end == len(text)

    def _obey(self, command: str, numbers: str) -> None:
        if command == "A":
            self.row = max(self.row - int(numbers or 1), len(self.lines) - self.rows, 0)
        elif command == "K":
            assert numbers == "2"
            self.lines[self.row] = ""
        else:
            assert command == "m" or numbers == "?25", (command, numbers)

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def shown(self) -> list[str]:
        """All lines without the empty ones at the end."""
        lines = [line.rstrip() for line in self.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines


class Watched:
    """A process that is watched in a terminal."""

    def __init__(self, process: subprocess.Popen, terminal: int, screen: Screen) -> None:
        self.process, self.screen, self.raw = process, screen, ""
        self._terminal, self._rest = terminal, b""

    def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Read on until that holds for the screen's lines; these lines."""
        deadline = time.monotonic() + 900
        while not holds(lines := self.screen.shown()):
            assert time.monotonic() < deadline, "\n".join(lines)
            assert self._read(), "\n".join(lines)
        return lines

    def go_on(self) -> None:
        """Let the process read one line of its stdin."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> list[str]:
        """Wait for the end of the process; the screen's lines after it."""
        while self._read():
            pass
        self.process.wait(60)
        return self.screen.shown()

    def _read(self) -> bool:
        """Take what is written next; whether more may come."""
        if not select.select([self._terminal], [], [], 1)[0]:
            return self.process.poll() is None
        try:
            data = self._rest + os.read(self._terminal, 65536)
        except OSError:  # nobody has the other side open any more
            return False
        text = data.decode(errors="ignore")  # a character may be torn between two reads
        self._rest = data[len(text.encode()) :]
        torn = re.search(r"\x1b(\[[?0-9;]*)?$", text)
        if torn:
            self._rest = torn[0].encode() + self._rest
            text = text[: torn.start()]
        self.raw += text
        self.screen.feed(text)
        return True


@contextmanager
def watched(
    command: list[str], columns: int = 110, rows: int = 30, **variables: str | None
) -> Iterator[Watched]:
    """Run `python COMMAND…` in a terminal of this size, its stdin a pipe; None unsets a variable."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    changed = {"TERM": "xterm-256color", "CI": None, "NO_COLOR": None, **variables}
    environment = {name: value for name, value in {**os.environ, **changed}.items() if value is not None}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        yield Watched(process, ours, Screen(columns, rows))
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        os.close(ours)
