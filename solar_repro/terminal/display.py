"""The live display of a terminal: finished steps above, steps at work and the whole plan below."""

import os
import select
import sys
import threading
import traceback
from contextlib import suppress

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from solar_repro.terminal.board import Board
from solar_repro.terminal.events import Event
from solar_repro.terminal.stopping import stop_requested

SECONDS_BETWEEN_DRAWINGS = 0.25


class _Console(Console):
    """Write to the terminal that stderr was before it was redirected."""

    def show_cursor(self, show: bool = True) -> bool:
        return False  # the cursor stays visible: a killed process could not show it again

    @property
    def size(self) -> ConsoleDimensions:
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except OSError:
            columns = lines = 0
        return ConsoleDimensions(columns or 80, lines or 24)


class Display:
    """Receive progress events from any thread and draw them from a thread of its own.

    `terminal` is the descriptor to draw to. `written` is the descriptor from which to read what others write
    meanwhile; their lines are shown above the display. Once a stop is requested nothing is drawn over any
    more, because others then write to the terminal too, such as the shell and `mlflow run`.
    """

    def __init__(self, title: str, terminal: int, written: int) -> None:
        encoding = sys.stderr.encoding or "utf-8"
        file = open(os.dup(terminal), "w", encoding=encoding, errors="replace")  # noqa: SIM115
        self._console = _Console(file=file, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._board = Board(title, self._console.options.ascii_only)
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._region,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._written, self._rest = written, b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ending = threading.Event()
        self._frozen = False

    def start(self) -> None:
        self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Remove the display. The lines of finished steps stay, and each running step gets one."""
        self._ending.set()
        self._thread.join()

    def handle(self, event: Event) -> None:
        with self._lock:
            self._board.handle(event)

    def _run(self) -> None:
        try:
            self._show_all()
        except Exception:  # the terminal is gone, or this code has a fault: the work and its lines go on
            self._pass_all(traceback.format_exc().encode() + self._rest)

    def _pass_all(self, text: bytes) -> None:
        """Copy what others write to the terminal, as long as there is one."""
        while True:
            with suppress(OSError):
                self._console.file.buffer.write(text)
                self._console.file.flush()
            while not select.select([self._written], [], [], SECONDS_BETWEEN_DRAWINGS)[0]:
                if self._ending.is_set():
                    return
            text = os.read(self._written, 65536)

    def _show_all(self) -> None:
        while not self._ending.is_set():
            if select.select([self._written], [], [], SECONDS_BETWEEN_DRAWINGS)[0]:
                self._read()
            self._draw()
        while select.select([self._written], [], [], 0)[0]:
            self._read()
        if self._rest:
            self._show(b"\n")
        with self._lock:
            self._board.end()
        self._draw()
        if not self._frozen:
            self._live.stop()
        self._console.file.close()

    def _read(self) -> None:
        self._show(os.read(self._written, 65536))

    def _show(self, more: bytes) -> None:
        text = (self._rest + more).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        with self._lock:
            self._board.above += [Text.from_ansi(line.decode(errors="replace")) for line in lines]

    def _draw(self) -> None:
        if not self._frozen and stop_requested():
            self._frozen = True
            self._console.pop_render_hook()
            self._console.clear_live()
            self._console.line()
        with self._lock:
            above, self._board.above = self._board.above, []
        for line in above:
            self._console.print(line, soft_wrap=True)
        if not self._frozen:
            self._live.refresh()

    def _region(self) -> Group:
        with self._lock:
            lines = self._board.lines(*self._console.size)
        return Group(*lines, Text(""))  # the cursor is on a line of its own, where others may write
