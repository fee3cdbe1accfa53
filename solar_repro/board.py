"""What the live display shows: the steps at work, those that are done, and the whole plan, as lines."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.spinner import Spinner
from rich.text import Text

from solar_repro.progress import Event, Planned, Told, Turn
from solar_repro.remaining import AtWork, Remaining, Work, remaining

NARROW, WIDE = 72, 100
"""Columns of a terminal below which rates and losses are left out, and from which there is room for bars."""
_LONGEST_LABEL = 32
_TELLING = 0.1
"""Share of a bar from which its speed says how long it takes: the first units wait for what is loaded."""


@dataclass
class _Row:
    """A step at work, or one that is done and waits for those before it."""

    turn: Turn
    since: float
    bars: dict[str, Told] = field(default_factory=dict)
    """What goes on in it, the newest last."""
    note: str = ""

    @property
    def newest(self) -> Told | None:
        return next(reversed(self.bars.values()), None)

    @property
    def main(self) -> Told | None:
        """What says most about the step's time."""
        return next((bar for bar in self.bars.values() if bar.most), self.newest)

    @property
    def is_at_work(self) -> bool:
        return self.turn.state in ("waiting", "begun")


class Board:
    """Keeps what events tell. `above` are the lines that shall go above the display, for good."""

    def __init__(self, title: str, plain: bool) -> None:
        """`plain`: the terminal shows ASCII alone."""
        self.above: list[Text] = []
        self._title, self._plain, self._began = title, plain, time.monotonic()
        self._spinner = Spinner("line" if plain else "dots", style="cyan")
        self._works: Mapping[str, Work] = {}
        self._jobs = 1
        self._whole = False
        self._labels = 0
        self._took: dict[str, float] = {}
        self._settled: set[str] = set()
        self._rows: dict[str, _Row] = {}
        self._found: list[Turn] = []
        """Steps that were finished before, until another one begins."""
        self._loose: dict[str, Told] = {}
        """Bars of what belongs to no step."""
        self._doing = ""

    def hear(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._works, self._jobs, self._whole = event.works, event.jobs, event.whole
            self._labels = min(max(map(len, event.labels), default=0), _LONGEST_LABEL)
        elif isinstance(event, Turn):
            self._turn(event)
        elif isinstance(event, Told):
            self._told(event)
        else:
            self._doing = event.text

    def _turn(self, turn: Turn) -> None:
        row = self._rows.get(turn.key)
        if turn.state in ("begun", "waiting"):
            self._let_found_go()
            self._rows[turn.key] = _Row(turn, time.monotonic())
            return
        if turn.state == "found" and not any(other.is_at_work for other in self._rows.values()):
            self._rows.pop(turn.key, None)
            self._found.append(turn)
        elif row is None:
            self._rows[turn.key] = _Row(turn, time.monotonic())
        else:
            row.turn = turn
        if turn.state != "failed":
            self._settle(turn.key)
        if turn.state == "made":
            self._took[turn.key] = turn.seconds
        self._let_rows_go()

    def _settle(self, key: str) -> None:
        """It is there, so that what it was made from is not needed either, unless the whole plan is."""
        waiting = [key]
        while waiting:
            one = waiting.pop()
            if one in self._works and one not in self._settled:
                self._settled.add(one)
                if not self._whole:
                    waiting += [parent for parent in self._works[one].inputs if parent not in self._rows]

    def _told(self, told: Told) -> None:
        row = self._rows.get(told.key)
        bars = self._loose if row is None else row.bars
        if told.ended:
            bars.pop(told.work, None)
            if row is not None and told.most:
                row.note = told.note
        else:
            bars[told.work] = told

    def _let_found_go(self) -> None:
        if self._found:
            self.above.append(self._found_line())
            self._found = []

    def _let_rows_go(self) -> None:
        """Finished steps go above, in the order of their numbers."""
        at_work = [row.turn.position[0] for row in self._rows.values() if row.is_at_work]
        first = min(at_work, default=None)
        for row in self._sorted_rows():
            if not row.is_at_work and (first is None or row.turn.position[0] <= first):
                self.above.append(self._finished_line(row))
                del self._rows[row.turn.key]

    def _sorted_rows(self) -> list[_Row]:
        return sorted(self._rows.values(), key=lambda row: row.turn.position[0])

    def lines(self, width: int, height: int) -> list[Text]:
        """The display, for a terminal of this size."""
        lines = [self._found_line()] if self._found else []
        lines += self._lines_of_work(width)
        room = max(1, height - 3)
        if len(lines) > room:
            lines = [*lines[: room - 1], Text(f"  and {len(lines) - room + 1} more", "dim")]
        if self._title:
            lines.append(self._plan_line(width))
        for line in lines:
            line.truncate(width - 1, overflow="ellipsis")
            line.no_wrap = True
        return lines

    def end(self) -> None:
        """Send all above: what is still at work was stopped."""
        self._let_found_go()
        for row in self._sorted_rows():
            if row.is_at_work:
                row.turn = row.turn._replace(state="failed", text="stopped")
        self._let_rows_go()

    def _lines_of_work(self, width: int) -> Iterator[Text]:
        """Steps in the order of their numbers, those too that are done and wait; then what goes on beside."""
        bars = list(self._loose.values())
        beside = [("", self._doing, bars[-1] if bars else None, "")] if self._doing else []
        beside = beside or [("", told.label, told, "") for told in bars]
        rows = self._sorted_rows()
        labels = max((len(row.turn.label) for row in rows if row.is_at_work), default=0)
        at_work = [self._in_words(row, labels) for row in rows if row.is_at_work] + beside
        names = [_activity(head, doing, told) for head, doing, told, _ in at_work]
        wide = min(max(map(len, names), default=0), width // 3)
        drawn = iter(
            self._line(head, name, wide, told, text, width)
            for (head, _, told, text), name in zip(at_work, names, strict=True)
        )
        for row in rows:
            yield next(drawn) if row.is_at_work else self._finished_line(row)
        yield from drawn

    def _in_words(self, row: _Row, labels: int) -> tuple[str, str, Told | None, str]:
        """Number and label of a step at work, its stage, its newest bar, and what stands where none is."""
        turn = row.turn
        text = turn.text if turn.text != "running" else spoken(int(time.monotonic() - row.since))
        stage = "" if turn.stage in turn.label.split(".") else turn.stage
        return f"{self._number(turn)}{turn.label:<{labels}}  ", stage, row.newest, text

    def _line(self, head: str, doing: str, wide: int, told: Told | None, text: str, width: int) -> Text:
        """Sign, step, what goes on in it, bar, percent, figures; in a narrow terminal no bar, no figures."""
        line = Text.assemble(self._spinner.render(time.monotonic()), " ", (head, "bold"))
        share = min(1.0, told.done / told.total) if told is not None and told.total else None
        if width < NARROW:
            line.append(doing if share is None else f"{share:4.0%}  {doing}")
            return line
        name = Text(doing)
        name.truncate(wide, overflow="ellipsis", pad=True)
        line.append_text(name)
        line.append("  " if wide else "")
        if share is not None:
            if width >= WIDE:
                line.append_text(self._bar(share, 14))
                line.append(" ")
            line.append(f"{share:4.0%}  ")
        return line.append(text if told is None else _figures(told))

    def _plan_line(self, width: int) -> Text:
        spent = spoken(int(time.monotonic() - self._began))
        if not self._works:
            return Text.assemble((f"{self._title}  ", "bold"), spent)
        done, all_steps = len(self._settled), len(self._works)
        frame = self._spinner.render(time.monotonic()) if done < all_steps else ""
        line = Text.assemble(frame, " " if frame else "", (f"{self._title}  ", "bold"))
        if width >= NARROW:
            line.append_text(self._bar(done / all_steps, 24 if width >= WIDE else 12))
            line.append(f"  {done} of {all_steps} steps, {spent}")
        else:
            line.append(f"{done}/{all_steps}")
        if done < all_steps:
            line.append(", ")
            line.append(told_left(self._remaining()), "cyan")
        return line

    def _remaining(self) -> Remaining | None:
        now = time.monotonic()
        at_work = {}
        for key, row in self._rows.items():
            if row.is_at_work:
                bar = row.main
                tells = bar is not None and bar.done >= _TELLING * bar.total
                at_work[key] = AtWork(now - row.since, bar.left if tells else None, tells and bar.most)
        return remaining(self._works, self._settled, self._took, at_work, self._jobs)

    def _found_line(self) -> Text:
        if len(self._found) == 1:
            return self._finished_line(_Row(self._found[0], 0.0))
        first, (last, total) = self._found[0].position[0], self._found[-1].position
        number = f"[{first}–{last}/{total}] " if total else ""
        words = f"{number}{len(self._found)} steps were finished before"
        return Text.assemble(self._sign("found"), (words, "dim"))

    def _finished_line(self, row: _Row) -> Text:
        turn = row.turn
        line = Text.assemble(self._sign(turn.state), f"{self._number(turn)}{self._label(turn.label)} ")
        if turn.state == "made":
            line.append(f"{spoken(turn.seconds):>12}")
            note = turn.note or row.note
            line.append(f"  {note}" if note else "", "dim")
        elif turn.state == "found":
            line.append("finished before" if turn.text == "cached" else turn.text, "dim")
        else:
            line.append(turn.text, "red")
        return line

    def _sign(self, state: str) -> Text:
        good = state in ("made", "found")
        sign = ("+" if good else "!") if self._plain else ("✓" if good else "✗")
        return Text.assemble((sign, "green" if good else "bold red"), " ")

    def _number(self, turn: Turn) -> str:
        number, total = turn.position
        return f"[{number:>{len(str(total))}}/{total}] " if total else ""

    def _label(self, label: str) -> str:
        return f"{label:<{self._labels}}"

    def _bar(self, share: float, width: int) -> Text:
        full, empty = ("#", "-") if self._plain else ("━", "─")
        filled = int(share * width)
        return Text.assemble((full * filled, "green"), (empty * (width - filled), "dim"))


def _activity(head: str, doing: str, told: Told | None) -> str:
    """What goes on in a step: the stage, and the part of it that has a bar, unless the label says so."""
    if told is None or (told.most and doing) or told.label == doing or told.label in head:
        return doing
    return f"{doing}: {told.label}" if doing else told.label


def _figures(told: Told) -> str:
    parts = [told.note] if told.note else []
    if told.rate and "/s" not in told.note:
        parts.append(f"{_amount(told.rate, told.unit)}/s")
    if told.left:
        parts.append(f"{_rounded(told.left)} left")
    return ", ".join(parts)


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:,.1f} {unit}"


def told_left(found: Remaining | None) -> str:
    """The remaining time in words, as exactly as it is known."""
    if found is None:
        return "time left: not known yet"
    how = "roughly" if found.rough else "about"
    return f"{how} {_rounded(found.seconds)} left"


def _rounded(seconds: float) -> str:
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return spoken(seconds)


def spoken(seconds: float) -> str:
    """A time in its two largest units: `8.1 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{many} {unit}" for many, unit in parts[:2] if many)
