"""Times, amounts and activities in words, as the live display and the dry run show them."""

from solar_repro.terminal.events import WorkEvent
from solar_repro.terminal.remaining import Remaining


def activity_text(head: str, stage: str, work: WorkEvent | None) -> str:
    """Return what goes on in a step: its stage and the work that has a bar, unless `head` names that."""
    if work is None or (work.is_main and stage) or work.label == stage or work.label in head:
        return stage
    return f"{stage}: {work.label}" if stage else work.label


def figures_text(work: WorkEvent) -> str:
    """Return the note, rate and remaining time of a piece of work."""
    parts = [work.note] if work.note else []
    if work.rate and "/s" not in work.note:
        parts.append(f"{_amount(work.rate, work.unit)}/s")
    if work.left:
        parts.append(f"{_rounded(work.left)} left")
    return ", ".join(parts)


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:,.1f} {unit}"


def remaining_text(found: Remaining | None) -> str:
    """Return the remaining time in words, only as precise as the estimate is."""
    if found is None:
        return "time left: not known yet"
    how = "roughly" if found.rough else "about"
    return f"{how} {_rounded(found.seconds)} left"


def _rounded(seconds: float) -> str:
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return duration_text(seconds)


def duration_text(seconds: float) -> str:
    """Return a time in its two largest units: `8.1 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{many} {unit}" for many, unit in parts[:2] if many)
