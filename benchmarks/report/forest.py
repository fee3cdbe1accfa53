"""Lays out forest plots of claims: each part's interval, the margin and the paper's difference, in percent.

The template draws them with boxes of the page, not as a picture: so their text keeps its size on a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from benchmarks.paper.claims import Part
from benchmarks.verdicts import CONFIDENCE, PartResult, Result, Verdict, margin
from benchmarks.wording import digits, says, unit

ROOM = 0.04
"""The share of the axis that is left free at either end."""


@dataclass(frozen=True)
class Line:
    """A line for one part. Places and widths are in percent of the axis; None is drawn as nothing."""

    text: str
    verdict: Verdict
    told: str
    """The figures in words, for those who cannot see the line."""
    claimed: tuple[float, float]
    """Place and width of the region where the claim says that the difference lies."""
    span: tuple[float, float] | None
    """Place and width of our interval."""
    ours: float | None
    paper: float | None


@dataclass(frozen=True)
class Forest:
    """The parts of a claim that share a unit, on one axis."""

    unit: str
    lines: tuple[Line, ...]
    zero: float
    margins: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]


def forests(result: Result) -> list[Forest]:
    """Return one plot for each unit among a claim's parts, and none where no part has runs."""
    groups: dict[str, list[PartResult]] = {}
    for found in result.parts:
        groups.setdefault(unit(found.part.figure.column), []).append(found)
    return [_forest(name, parts) for name, parts in groups.items() if any(part.difference for part in parts)]


def _forest(name: str, parts: Sequence[PartResult]) -> Forest:
    small = margin(parts[0].part.figure.column)
    values = [-small, small]
    for found in parts:
        values += found.difference.interval(CONFIDENCE) if found.difference else ()
        values += [found.paper] if found.paper is not None else []
    low, high = min(values), max(values)
    low, high = low - ROOM * (high - low), high + ROOM * (high - low)

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    def stretch(start: float, end: float) -> tuple[float, float]:
        return place(start), round(place(end) - place(start), 2)

    steps = [float(step) for step in MaxNLocator(4).tick_values(low, high) if low <= step <= high]
    return Forest(
        unit=name,
        lines=tuple(
            Line(
                text=says(found.part),
                verdict=found.verdict,
                told=_told(found),
                claimed=stretch(*_claimed(found.part, low, high)),
                span=stretch(*found.difference.interval(CONFIDENCE)) if found.difference else None,
                ours=place(found.difference.value) if found.difference else None,
                paper=None if found.paper is None else place(found.paper),
            )
            for found in parts
        ),
        zero=place(0.0),
        margins=(place(-small), place(small)),
        ticks=tuple((place(step), f"{step:+g}".replace("-", "−") if step else "0") for step in steps),
    )


def _claimed(part: Part, low: float, high: float) -> tuple[float, float]:
    small = margin(part.figure.column)
    return {
        "more": (0.0, high),
        "less": (low, 0.0),
        "not less": (-small, high),
        "not more": (low, small),
        "same": (-small, small),
    }[part.expected]


def _told(found: PartResult) -> str:
    places = digits(found.part.figure.column)
    texts = []
    if found.difference:
        low, high = found.difference.interval(CONFIDENCE)
        texts.append(f"ours {found.difference.value:+.{places}f} ({low:+.{places}f} … {high:+.{places}f})")
    if found.paper is not None:
        texts.append(f"the paper's {found.paper:+.2f}")
    return ", ".join(texts) or "no runs"
