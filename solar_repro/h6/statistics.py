"""Statistics the evaluation reports: binomial intervals, AUROC, McNemar's test."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a random positive scores above a random negative, ties counting half (Mann–Whitney U)."""
    ordered = np.sort(np.asarray(negative, dtype=np.float64))
    values = np.asarray(positive, dtype=np.float64)
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    return float((below + not_above).sum() / (2 * len(values) * len(ordered)))


def auroc_interval(
    area: float, positives: int, negatives: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of an AUROC from so many positives and negatives (Newcombe 2006, method 5).

    The areas from which the measured one lies no further than chance allows: the standard error is that of
    Hanley and McNeil (1982) at the area in question, with both counts at their mean, so that the interval
    keeps a width where the measured area is 0 or 1. Continuity-corrected by half a pair.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    pairs = positives * negatives
    others = (positives + negatives) / 2 - 1

    def lower(area: float) -> float:
        def too_far(truth: float) -> bool:
            spread = 1 + others * ((1 - truth) / (2 - truth) + truth / (1 + truth))
            return area - truth - 0.5 / pairs > z * math.sqrt(truth * (1 - truth) * spread / pairs)

        low, high = 0.0, area
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if too_far(middle) else (low, middle)
        return low

    return lower(area), 1 - lower(1 - area)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the two discordant counts (binomial with p = 1/2)."""
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)
