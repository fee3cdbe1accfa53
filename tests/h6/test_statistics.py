import math
import random

import numpy as np
import pytest
from scipy import stats

from solar_repro.h6.statistics import auroc, auroc_interval, binomial_interval, mcnemar_exact


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    tail = sum(math.comb(first + second, count) for count in range(min(first, second) + 1))
    assert mcnemar_exact(first, second) == pytest.approx(min(1.0, 2 * tail / 2 ** (first + second)))


@pytest.mark.parametrize(("successes", "trials"), [(0, 8), (8, 8), (50, 100), (3, 100)])
def test_binomial_interval_is_wilsons(successes, trials):
    z, share = stats.norm.ppf(0.975), successes / trials
    for bound in binomial_interval(successes, trials):
        assert (bound - share) ** 2 == pytest.approx(z * z * bound * (1 - bound) / trials, abs=1e-12)


def test_auroc_interval_of_many_texts_is_near_that_of_hanley_and_mcneil():
    low, high = auroc_interval(0.893, 51, 58)  # their example: a standard error of 0.032
    assert (high - low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(0.032, abs=0.001)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(2, 2), (2, 5), (3, 3), (3, 4), (4, 4), (6, 6), (5, 9), (100, 100)]
)
def test_auroc_of_texts_that_are_told_apart_wholly_proves_no_more_than_their_number(ours, theirs):
    low, high = auroc_interval(1.0, ours, theirs)
    assert (low, high) == pytest.approx((1 - auroc_interval(0.0, ours, theirs)[1], 1.0))
    by_chance = 1 / math.comb(ours + theirs, ours)
    assert (low > 0.5) == (by_chance <= 0.025)
    assert low < 1


def test_auroc_interval_of_few_texts_is_wide():
    low, high = auroc_interval(0.5, 2, 2)
    assert (low, high) == pytest.approx((1 - high, 1 - low))
    assert high - low > 0.8


@pytest.mark.parametrize(("mean", "ours", "theirs"), [(2, 60, 40), (1, 12, 12), (20, 20, 10)])
def test_auroc_interval_holds_the_true_area_as_often_as_it_says(mean, ours, theirs):
    """Exponential scores: the area is a / (a + b) for means a and b."""
    generator = np.random.default_rng(0)
    truth = mean / (mean + 1)
    held = 0
    for _ in range(2000):
        positive, negative = generator.exponential(mean, ours), generator.exponential(1, theirs)
        area = float((positive[:, None] > negative).mean())
        low, high = auroc_interval(area, ours, theirs)
        held += low <= truth <= high
    assert 0.94 <= held / 2000 <= 0.985


def test_auroc_counts_pairs():
    generator = random.Random(0)
    positive = [generator.randrange(6) for _ in range(40)]
    negative = [generator.randrange(5) for _ in range(30)]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
