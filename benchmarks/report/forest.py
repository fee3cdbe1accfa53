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
ONE_AXIS = 10
"""Parts whose figures are this many times smaller than the claim's largest have an axis of their own."""


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
    """The parts of a claim that share a unit and an order of magnitude, on one axis."""

    unit: str
    lines: tuple[Line, ...]
    zero: float
    margins: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]


def forests(result: Result) -> list[Forest]:
    """Return a plot for each unit and order of magnitude of a claim's parts, none where no part has runs."""
    largest: dict[str, float] = {}
    for found in result.parts:
        name = unit(found.part.figure.column)
        largest[name] = max(largest.get(name, 0.0), *map(abs, _figures(found)))
    groups: dict[tuple[str, bool], list[PartResult]] = {}
    for found in result.parts:
        name = unit(found.part.figure.column)
        is_small = ONE_AXIS * max(map(abs, _figures(found))) < largest[name]
        groups.setdefault((name, is_small), []).append(found)
    return [
        _forest(name, parts) for (name, _), parts in groups.items() if any(part.difference for part in parts)
    ]


def _forest(name: str, parts: Sequence[PartResult]) -> Forest:
    small = margin(parts[0].part.figure.column)
    values = [figure for found in parts for figure in _figures(found)]
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


def _figures(found: PartResult) -> list[float]:
    """The ends of the margin and of our interval, and the paper's difference: what an axis must show."""
    small = margin(found.part.figure.column)
    ends = found.difference.interval(CONFIDENCE) if found.difference else ()
    return [-small, small, *ends, *([] if found.paper is None else [found.paper])]


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
