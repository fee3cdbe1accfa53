"""Computes the smallest effect that an undecided part's runs tell, and what would decide the part.

A verdict needs the whole interval on one side of a boundary (zero, or the margin). The interval reaches
t(0.975, ν) · se to either side of the difference seen, and that difference itself scatters by se around the
true one. So a share `POWER` of such runs reaches the verdict when the true difference lies at least

    (t(0.975, ν) + t(POWER, ν)) · se

from the boundary: this is the smallest effect told, or minimum detectable effect (Bloom 1995). Its square is
proportional to the variance, of which the items' part falls as 1 / items and the seeds' part as 1 / seeds.
What would decide a part is the least number of either for which the smallest effect told is the distance
seen.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from benchmarks.paper.claims import Expected, Part
from benchmarks.verdicts import CONFIDENCE, Result, margin
from solar_repro.h6.compare_items import Difference

POWER = 0.8
"""The share of such runs that tell the smallest effect; 0.8 is the usual choice."""
MOST = 10_000
"""The largest multiple of items or seeds that is tried: where it decides nothing, the difference lies on the
boundary for all practical purposes."""


@dataclass(frozen=True)
class Missing:
    """Says what would decide one part, if the difference and the spread stay as they were seen.

    Each of the numbers is a total, and None where it decides nothing alone.
    """

    smallest: float
    """Percentage points (losses: nats) from the boundary that these runs tell in `POWER` of cases."""
    times: float | None
    """The multiple of items that decides: multiply every benchmark's limit by it."""
    items: int | None
    seeds: int | None
    both: float | None
    """The multiple of both items and seeds that decides, where neither decides alone."""


def missing(result: Result) -> list[Missing | None]:
    """Return what each part of a claim lacks, or None for a part that is decided or has no runs."""
    count = len(result.parts)
    return [
        lacks(found.part, found.difference, count)
        if found.difference and found.verdict == "undecided"
        else None
        for found in result.parts
    ]


def lacks(part: Part, found: Difference, parts: int) -> Missing:
    """Return what would decide one part of a claim that has `parts` parts."""
    smallest = smallest_effect(found)
    if not math.isfinite(smallest):
        return Missing(math.inf, None, None, None, None)
    ways = outcomes(part.expected, found.centre, margin(part.figure.column), parts)
    several = len(found.seed_values) > 1
    items = _least(found, ways, items=True, seeds=False)
    seeds = _least(found, ways, items=False, seeds=True) if several else None
    neither = several and items is None and seeds is None
    return Missing(
        smallest=smallest,
        times=items,
        items=None if items is None else math.ceil(items * found.items),
        seeds=None if seeds is None else math.ceil(seeds * len(found.seed_values)),
        both=_least(found, ways, items=True, seeds=True) if neither else None,
    )


def smallest_effect(found: Difference) -> float:
    """Return the distance from a boundary that runs like these tell in `POWER` of cases."""
    return float(reach(found, CONFIDENCE, POWER, 1.0, 1.0)) if math.isfinite(found.stderr) else math.inf


def outcomes(expected: Expected, value: float, small: float, parts: int) -> list[tuple[float, float, float]]:
    """Return distance to the boundary, confidence and power for each verdict that a difference can lead to.

    `benchmarks.verdicts` widens the interval that refutes one of several parts. To be the same, a difference
    must lie inside both margins, so the chance to fail is shared between them.
    """
    supports, contradicts = {
        "more": (value, -value),
        "less": (-value, value),
        "not less": (value + small, -value),
        "not more": (small - value, value),
        "same": (small - abs(value), abs(value) - small),
    }[expected]
    power = (1 + POWER) / 2 if expected == "same" else POWER
    ways = [(supports, CONFIDENCE, power), (contradicts, 1 - (1 - CONFIDENCE) / parts, POWER)]
    return [way for way in ways if way[0] > 0]


def reach(
    found: Difference,
    confidence: float,
    power: float,
    items: np.ndarray | float,
    seeds: np.ndarray | float,
) -> np.ndarray:
    """Return the smallest effect told with so many times the items and the seeds of `found`."""
    of_items, of_seeds = found.item_variance / items, found.seed_variance / seeds
    variance = np.asarray(of_items + of_seeds)
    below = of_items**2 / (found.item_freedom * items)
    if found.seed_variance:
        below = below + of_seeds**2 / (len(found.seed_values) * seeds - 1)
    freedom = np.where(below > 0, variance**2 / np.where(below > 0, below, 1), np.inf)
    return (t.ppf(0.5 + confidence / 2, freedom) + t.ppf(power, freedom)) * np.sqrt(variance)


def _least(
    found: Difference, ways: list[tuple[float, float, float]], items: bool, seeds: bool
) -> float | None:
    """Return the least multiple (to two percent) of items, seeds or both that decides; None for none."""
    factors = np.geomspace(1, MOST, 500)
    decided = np.zeros(len(factors), dtype=bool)
    for distance, confidence, power in ways:
        told = reach(found, confidence, power, factors if items else 1.0, factors if seeds else 1.0)
        decided |= told <= distance
    return float(factors[decided.argmax()]) if decided.any() else None
