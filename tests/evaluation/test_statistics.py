import random

import pytest
from scipy import stats

from solar_repro.evaluation.statistics import auroc, binomial_interval, mcnemar_exact


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 8), (8, 8), (50, 100), (3, 100)])
def test_binomial_interval_is_wilsons(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert binomial_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_auroc_counts_pairs():
    generator = random.Random(0)
    positive = [generator.randrange(6) for _ in range(40)]
    negative = [generator.randrange(5) for _ in range(30)]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
