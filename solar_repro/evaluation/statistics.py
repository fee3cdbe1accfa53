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
    """Interval of an AUROC from so many positives and negatives (Hanley and McNeil 1982, eq. 2)."""
    both_positives = area / (2 - area)
    both_negatives = 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positives - 1) * (both_positives - area**2) + (negatives - 1) * (both_negatives - area**2)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance / (positives * negatives))
    return max(0.0, area - half), min(1.0, area + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the two discordant counts (binomial with p = 1/2)."""
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)
