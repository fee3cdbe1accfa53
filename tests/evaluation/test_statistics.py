import random

import numpy as np
import pytest
from scipy import stats

from solar_repro.evaluation.statistics import auroc, auroc_interval, binomial_interval, mcnemar_exact


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 8), (8, 8), (50, 100), (3, 100)])
def test_binomial_interval_is_wilsons(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert binomial_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_auroc_interval_is_that_of_hanley_and_mcneil():
    low, high = auroc_interval(0.893, 51, 58)  # their example: a standard error of 0.032
    assert (high - low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(0.032, abs=0.0006)
    assert auroc_interval(1.0, 20, 20) == (1.0, 1.0)


def test_auroc_interval_matches_its_spread_over_samples():
    """Exponential scores, for which the formula is exact: the area is a / (a + b) for means a and b."""
    generator = np.random.default_rng(0)
    areas = [auroc(generator.exponential(2, 60), generator.exponential(1, 40)) for _ in range(2000)]
    low, high = auroc_interval(2 / 3, 60, 40)
    assert np.mean(areas) == pytest.approx(2 / 3, abs=0.005)
    assert np.std(areas) == pytest.approx((high - low) / (2 * stats.norm.ppf(0.975)), rel=0.05)


def test_auroc_counts_pairs():
    generator = random.Random(0)
    positive = [generator.randrange(6) for _ in range(40)]
    negative = [generator.randrange(5) for _ in range(30)]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
