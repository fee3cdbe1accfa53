"""Statistics that the evaluation reports: binomial intervals, AUROC, McNemar's test.

SciPy and scikit-learn are imported where they are used: they take seconds, which commands that read results
alone shall not wait for.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    return tuple(binomtest(successes, trials).proportion_ci(confidence, method="wilson"))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a random positive scores above a random negative, where ties count half."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return float(roc_auc_score(labels, [*positive, *negative]))


def auroc_interval(
    area: float, positives: int, negatives: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of an AUROC that was measured on so many positives and negatives (Newcombe 2006, method 5).

    It holds the areas from which the measured one lies no further than chance allows. The standard error is
    that of Hanley and McNeil (1982) at the area in question, with the mean of both counts in the place of
    each, so that the interval keeps a width where the measured area is 0 or 1. It is continuity-corrected by
    half a pair.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    pairs = positives * negatives
    others = (positives + negatives) / 2 - 1

    def lower(area: float) -> float:
        def excess(truth: float) -> float:
            """How much further the measured area lies above `truth` than chance allows."""
            spread = 1 + others * ((1 - truth) / (2 - truth) + truth / (1 + truth))
            return area - truth - 0.5 / pairs - z * math.sqrt(truth * (1 - truth) * spread / pairs)

        return brentq(excess, 0, area) if excess(0.0) > 0 else 0.0

    return lower(area), 1 - lower(1 - area)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test, from how often only the first and only the second is right.

    Without such items it is 1.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
