"""What would decide a part: the formula, and simulated runs of the size that it asks for."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.paper.claims import Figure, Part
from benchmarks.power import MOST, POWER, lacks, reach, smallest_effect
from benchmarks.verdicts import judge_part
from solar_repro.h6.compare_items import Difference, Items, difference


def part(expected, column="ARC"):
    return Part(Figure("sft_v2", column), expected, Figure("sft_v1", column))


def found(value, stderr, items=100):
    """A difference of one seed with a normal error."""
    return Difference(value, value, stderr**2, 1e9, (value,), items)


def paired(first, second):
    """The difference of scores [seeds, items], in percent."""
    names = tuple(range(first.shape[1]))
    return difference(Items(names, first, np.ones(len(names))), Items(names, second, np.ones(len(names))))


def drawn(generator, value, items, seeds, of_item, of_seed):
    """Runs whose true difference is `value`, which scatters over items and over seeds."""
    base = generator.uniform(0, 100, (seeds, items))
    change = value + generator.normal(0, of_item, (1, items)) + generator.normal(0, of_seed, (seeds, 1))
    return paired(base, base + change)


def half_width(difference):
    low, high = difference.interval()
    return (high - low) / 2


def test_smallest_effect_is_the_textbooks():
    z = stats.norm.ppf(0.975) + stats.norm.ppf(POWER)
    assert smallest_effect(found(0.0, 2.0)) == pytest.approx(2 * z)
    assert smallest_effect(found(0.0, math.inf)) == math.inf


def test_the_interval_of_these_runs_is_the_one_that_is_reckoned_with():
    generator = np.random.default_rng(0)
    several = drawn(generator, 1.0, items=40, seeds=3, of_item=10.0, of_seed=2.0)
    assert reach(several, 0.95, 0.5, 1.0, 1.0) == pytest.approx(half_width(several))


@pytest.mark.parametrize(
    ("expected", "value", "distance", "power"),
    [
        ("more", 1.0, 1.0, POWER),
        ("less", 1.0, 1.0, POWER),  # it would be refuted
        ("not less", 0.5, 1.5, POWER),
        ("not less", -3.0, 3.0, POWER),
        ("not more", -0.5, 1.5, POWER),
        ("same", 0.25, 0.75, (1 + POWER) / 2),
        ("same", -4.0, 3.0, POWER),
    ],
)
def test_items_follow_from_the_distance_to_the_boundary(expected, value, distance, power):
    """n' = n · ((z_0.975 + z_power) · se / distance)²."""
    lack = lacks(part(expected), found(value, 5.0), parts=1)
    times = ((stats.norm.ppf(0.975) + stats.norm.ppf(power)) * 5.0 / distance) ** 2
    assert lack.times == pytest.approx(times, rel=0.02)
    assert lack.items == math.ceil(100 * lack.times)
    assert (lack.seeds, lack.both) == (None, None)


def test_refuting_one_of_many_parts_takes_more_items():
    alone, together = (lacks(part("more"), found(-1.0, 5.0), parts).items for parts in (1, 10))
    assert together > 1.3 * alone


def test_a_difference_on_the_boundary_is_decided_by_nothing():
    lack = lacks(part("more"), found(0.001, 5.0), parts=1)
    assert (lack.times, lack.items, lack.seeds, lack.both) == (None, None, None, None)
    assert lacks(part("more"), found(0.0, 5.0), parts=1).items is None


def test_one_item_tells_nothing():
    lack = lacks(part("more"), Difference(5.0, 5.0, math.inf, 1.0, (5.0,), 1), parts=1)
    assert (lack.smallest, lack.items) == (math.inf, None)


def test_simulated_runs_with_that_many_items_decide_as_often_as_said():
    generator = np.random.default_rng(1)
    pilot = drawn(generator, 1.0, items=60, seeds=1, of_item=12.0, of_seed=0.0)
    assert judge_part(part("more"), pilot, 1) == "undecided"
    lack = lacks(part("more"), pilot, parts=1)
    spread = math.sqrt(pilot.item_variance * pilot.items)
    runs = [drawn(generator, pilot.value, lack.items, 1, spread, 0.0) for _ in range(300)]
    shrunk = half_width(pilot) / math.sqrt(lack.times)
    assert np.mean([half_width(run) for run in runs]) == pytest.approx(shrunk, rel=0.03)
    decided = np.mean([judge_part(part("more"), run, 1) == "reproduced" for run in runs])
    assert POWER - 0.07 < decided < POWER + 0.07


def test_simulated_binary_items_decide_as_often_as_said():
    """A fifth of the items differ, in favour of the second model more often."""
    generator = np.random.default_rng(2)

    def run(items):
        kind = generator.choice(3, size=(1, items), p=[0.8, 0.13, 0.07])
        first = np.where(
            kind == 2, 100.0, np.where(kind == 1, 0.0, 100.0 * (generator.random((1, items)) < 0.5))
        )
        return paired(first, np.where(kind == 2, 0.0, np.where(kind == 1, 100.0, first)))

    share = Difference(6.0, 6.0, (2000 - 36) / 100, 99.0, (6.0,), 100)  # what 100 items show on the average
    lack = lacks(part("more"), share, parts=1)
    decided = np.mean([judge_part(part("more"), run(lack.items), 1) == "reproduced" for _ in range(300)])
    assert POWER - 0.07 < decided < POWER + 0.07


def test_simulated_runs_with_that_many_seeds_decide_as_often_as_said():
    generator = np.random.default_rng(3)
    seeds = (1.0, 4.0, -2.0)  # of a mean of one and a spread of three
    pilot = Difference(1.0, 1.0, 0.01, 399.0, seeds, 400)
    lack = lacks(part("more"), pilot, parts=1)
    assert lack.items is None  # however many: the seeds differ
    runs = [drawn(generator, 1.0, 400, lack.seeds, 2.0, 3.0) for _ in range(300)]
    widths = [reach(pilot, 0.95, 0.5, 1.0, lack.seeds / 3)]
    assert np.mean([half_width(run) for run in runs]) == pytest.approx(widths[0], rel=0.03)
    decided = np.mean([judge_part(part("more"), run, 1) == "reproduced" for run in runs])
    assert POWER - 0.07 < decided < POWER + 0.07


def test_more_of_both_where_neither_alone_is_enough():
    pilot = Difference(1.0, 1.0, 9.0, 99.0, (1.0, 4.0, -2.0), 100)
    lack = lacks(part("more"), pilot, parts=1)
    assert (lack.items, lack.seeds) == (None, None)
    assert 1 < lack.both < MOST
    told = reach(pilot, 0.95, POWER, lack.both, lack.both)
    assert 0.98 < told <= 1.0
