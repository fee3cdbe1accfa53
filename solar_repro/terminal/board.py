"""What the live display shows, as lines: running steps, finished steps and the whole plan.

The module is one class, because every event can change each of these lines.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.spinner import Spinner
from rich.text import Text

from solar_repro.terminal.events import Event, PlanEvent, StepEvent, WorkEvent
from solar_repro.terminal.remaining import Remaining, StepCost, StepProgress, remaining_time
from solar_repro.terminal.wording import activity_text, duration_text, figures_text, remaining_text

NARROW, WIDE = 72, 100
"""Width of a terminal, in columns, below which figures are left out, and from which bars are drawn."""
_LONGEST_LABEL = 32
_PREDICTIVE_SHARE = 0.1
"""Share of a bar from which its rate predicts the rest: the first units also wait for loading."""


@dataclass
class _Row:
    """A running step, or a finished one whose line waits for the steps before it."""

    step: StepEvent
    since: float
    bars: dict[str, WorkEvent] = field(default_factory=dict)
    """Its pieces of work by their ids, the newest last."""
    note: str = ""

    @property
    def newest(self) -> WorkEvent | None:
        return next(reversed(self.bars.values()), None)

    @property
    def main(self) -> WorkEvent | None:
        """The work that takes most of the step's time, else the newest."""
        return next((bar for bar in self.bars.values() if bar.is_main), self.newest)

    @property
    def is_at_work(self) -> bool:
        return self.step.state in ("waiting", "begun")


class Board:
    """Keep what events report and draw it. `above` holds finished lines to be printed above the display."""

    def __init__(self, title: str, plain: bool) -> None:
        """`plain` says that the terminal shows only ASCII."""
        self.above: list[Text] = []
        self._title, self._plain, self._began = title, plain, time.monotonic()
        self._spinner = Spinner("line" if plain else "dots", style="cyan")
        self._works: Mapping[str, StepCost] = {}
        self._jobs = 1
        self._whole = False
        self._labels = 0
        self._took: dict[str, float] = {}
        self._settled: set[str] = set()
        self._rows: dict[str, _Row] = {}
        self._found: list[StepEvent] = []
        """Steps found finished, which share a line until another step begins."""
        self._loose: dict[str, WorkEvent] = {}
        """Pieces of work that belong to no step."""
        self._activity = ""

    def handle(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, PlanEvent):
            self._works, self._jobs, self._whole = event.works, event.jobs, event.whole
            self._labels = min(max(map(len, event.labels), default=0), _LONGEST_LABEL)
        elif isinstance(event, StepEvent):
            self._update_step(event)
        elif isinstance(event, WorkEvent):
            self._update_work(event)
        else:
            self._activity = event.text

    def _update_step(self, step: StepEvent) -> None:
        row = self._rows.get(step.key)
        if step.state in ("begun", "waiting"):
            self._move_found_up()
            self._rows[step.key] = _Row(step, time.monotonic())
            return
        if step.state == "found" and not any(other.is_at_work for other in self._rows.values()):
            self._rows.pop(step.key, None)
            self._found.append(step)
        elif row is None:
            self._rows[step.key] = _Row(step, time.monotonic())
        else:
            row.step = step
        if step.state != "failed":
            self._settle(step.key)
        if step.state == "made":
            self._took[step.key] = step.seconds
        self._move_finished_up()

    def _settle(self, key: str) -> None:
        """Count a step as settled, and what it was made from too, unless the whole plan is asked for."""
        waiting = [key]
        while waiting:
            one = waiting.pop()
            if one in self._works and one not in self._settled:
                self._settled.add(one)
                if not self._whole:
                    waiting += [parent for parent in self._works[one].inputs if parent not in self._rows]

    def _update_work(self, work: WorkEvent) -> None:
        row = self._rows.get(work.key)
        bars = self._loose if row is None else row.bars
        if work.ended:
            bars.pop(work.id, None)
            if row is not None and work.is_main:
                row.note = work.note
        else:
            bars[work.id] = work

    def _move_found_up(self) -> None:
        if self._found:
            self.above.append(self._found_line())
            self._found = []

    def _move_finished_up(self) -> None:
        """Move the lines of finished steps above the display, in the order of their numbers."""
        at_work = [row.step.position[0] for row in self._rows.values() if row.is_at_work]
        first = min(at_work, default=None)
        for row in self._sorted_rows():
            if not row.is_at_work and (first is None or row.step.position[0] <= first):
                self.above.append(self._finished_line(row))
                del self._rows[row.step.key]

    def _sorted_rows(self) -> list[_Row]:
        return sorted(self._rows.values(), key=lambda row: row.step.position[0])

    def lines(self, width: int, height: int) -> list[Text]:
        """Return the lines of the display for a terminal of `width` columns and `height` lines."""
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
        """Move all lines above the display; steps that still run count as stopped."""
        self._move_found_up()
        for row in self._sorted_rows():
            if row.is_at_work:
                row.step = row.step._replace(state="failed", text="stopped")
        self._move_finished_up()

    def _lines_of_work(self, width: int) -> Iterator[Text]:
        """Yield a line per step, in the order of their numbers, then what goes on beside the steps."""
        bars = list(self._loose.values())
        extra = [("", self._activity, bars[-1] if bars else None, "")] if self._activity else []
        extra = extra or [("", work.label, work, "") for work in bars]
        rows = self._sorted_rows()
        labels = max((len(row.step.label) for row in rows if row.is_at_work), default=0)
        at_work = [self._described(row, labels) for row in rows if row.is_at_work] + extra
        names = [activity_text(head, stage, work) for head, stage, work, _ in at_work]
        wide = min(max(map(len, names), default=0), width // 3)
        drawn = iter(
            self._line(head, name, wide, work, text, width)
            for (head, _, work, text), name in zip(at_work, names, strict=True)
        )
        for row in rows:
            yield next(drawn) if row.is_at_work else self._finished_line(row)
        yield from drawn

    def _described(self, row: _Row, labels: int) -> tuple[str, str, WorkEvent | None, str]:
        """Return a running step's number and label, its stage, newest work and the text used without it."""
        step = row.step
        text = step.text if step.text != "running" else duration_text(int(time.monotonic() - row.since))
        stage = "" if step.stage in step.label.split(".") else step.stage
        return f"{self._number(step)}{step.label:<{labels}}  ", stage, row.newest, text

    def _line(self, head: str, stage: str, wide: int, work: WorkEvent | None, text: str, width: int) -> Text:
        """Return spinner, step, activity, bar, percent and figures; narrow ones lack bar and figures."""
        line = Text.assemble(self._spinner.render(time.monotonic()), " ", (head, "bold"))
        share = min(1.0, work.done / work.total) if work is not None and work.total else None
        if width < NARROW:
            line.append(stage if share is None else f"{share:4.0%}  {stage}")
            return line
        name = Text(stage)
        name.truncate(wide, overflow="ellipsis", pad=True)
        line.append_text(name)
        line.append("  " if wide else "")
        if share is not None:
            if width >= WIDE:
                line.append_text(self._bar(share, 14))
                line.append(" ")
            line.append(f"{share:4.0%}  ")
        return line.append(text if work is None else figures_text(work))

    def _plan_line(self, width: int) -> Text:
        spent = duration_text(int(time.monotonic() - self._began))
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
            line.append(remaining_text(self._remaining()), "cyan")
        return line

    def _remaining(self) -> Remaining | None:
        now = time.monotonic()
        at_work = {}
        for key, row in self._rows.items():
            if row.is_at_work:
                bar = row.main
                predicts = bar is not None and bar.done >= _PREDICTIVE_SHARE * bar.total
                at_work[key] = StepProgress(
                    now - row.since, bar.left if predicts else None, predicts and bar.is_main
                )
        return remaining_time(self._works, self._settled, self._took, at_work, self._jobs)

    def _found_line(self) -> Text:
        if len(self._found) == 1:
            return self._finished_line(_Row(self._found[0], 0.0))
        first, (last, total) = self._found[0].position[0], self._found[-1].position
        number = f"[{first}–{last}/{total}] " if total else ""
        words = f"{number}{len(self._found)} steps were finished before"
        return Text.assemble(self._sign("found"), (words, "dim"))

    def _finished_line(self, row: _Row) -> Text:
        step = row.step
        line = Text.assemble(self._sign(step.state), f"{self._number(step)}{self._label(step.label)} ")
        if step.state == "made":
            line.append(f"{duration_text(step.seconds):>12}")
            note = step.note or row.note
            line.append(f"  {note}" if note else "", "dim")
        elif step.state == "found":
            line.append("finished before" if step.text == "cached" else step.text, "dim")
        else:
            line.append(step.text, "red")
        return line

    def _sign(self, state: str) -> Text:
        good = state in ("made", "found")
        sign = ("+" if good else "!") if self._plain else ("✓" if good else "✗")
        return Text.assemble((sign, "green" if good else "bold red"), " ")

    def _number(self, step: StepEvent) -> str:
        number, total = step.position
        return f"[{number:>{len(str(total))}}/{total}] " if total else ""

    def _label(self, label: str) -> str:
        return f"{label:<{self._labels}}"

    def _bar(self, share: float, width: int) -> Text:
        full, empty = ("#", "-") if self._plain else ("━", "─")
        filled = int(share * width)
        return Text.assemble((full * filled, "green"), (empty * (width - filled), "dim"))
