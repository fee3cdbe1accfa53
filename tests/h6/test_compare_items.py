import json
import math

import numpy as np
import pytest
from scipy import stats

from solar_repro.errors import UserError
from solar_repro.h6.compare_items import (
    Items,
    difference,
    mean_difference,
    read_items,
    read_losses,
    share_difference,
)
from solar_repro.h6.samples import write_samples
from solar_repro.paper.benchmarks import H6_BENCHMARKS


def _row(task, item, metric):
    return {"task": task, "item": item, "question": "", "prediction": "", "gold": [], "metric": float(metric)}


def _write(folder, values):
    """`values` maps a file stem to (task, metric) pairs in order."""
    (folder / "samples").mkdir(parents=True)
    for stem, pairs in values.items():
        rows = [_row(task, item, metric) for item, (task, metric) in enumerate(pairs)]
        write_samples(rows, folder / "samples" / f"{stem}.parquet")
    return folder


def _items(*seeds):
    values = 100 * np.array(seeds, dtype=float)
    return Items(tuple(range(values.shape[1])), values, np.ones(values.shape[1]))


def test_discordant_items_and_the_difference(tmp_path):
    first = _write(tmp_path / "a", {"winogrande": [("winogrande", v) for v in (1, 0, 0, 0, 0, 0, 0, 1)]})
    second = _write(tmp_path / "b", {"winogrande": [("winogrande", v) for v in (0, 1, 1, 1, 1, 1, 1, 1)]})
    one, other = (read_items([folder])["Winogrande"] for folder in (first, second))
    result = difference(one, other)
    assert (result.value, result.items) == (pytest.approx(100 * 5 / 8), 8)
    assert result.mcnemar_p == pytest.approx(2 * 8 / 2**7)
    # Bonett and Price (2012): one discordant pair more on either side.
    share = (7 - 2) / 10
    assert result.centre == pytest.approx(100 * share)
    assert result.stderr == pytest.approx(100 * math.sqrt((7 + 2) / 10 - share**2) / math.sqrt(10))
    mirrored = difference(other, one)
    assert mirrored.value == pytest.approx(-result.value)
    assert mirrored.interval() == pytest.approx((-result.interval()[1], -result.interval()[0]))


def test_models_that_agree_on_few_items_are_not_shown_to_be_the_same():
    low, high = difference(_items([0, 1, 0, 1]), _items([0, 1, 0, 1])).interval()
    assert low < -20
    assert high > 20


def test_interval_of_many_items_is_the_paired_bootstraps():
    generator = np.random.default_rng(0)
    first = generator.random(400) < 0.5
    second = np.where(generator.random(400) < 0.2, ~first, first)
    result = difference(_items(first), _items(second))
    changes = 100 * (second.astype(float) - first)
    means = changes[generator.integers(400, size=(4000, 400))].mean(axis=1)
    assert result.interval() == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.5)
    assert result.interval()[0] < result.value < result.interval()[1]


def test_shares_are_a_paired_t_test():
    first, second = np.random.default_rng(1).random((2, 50))
    result = difference(_items(first), _items(second))
    theirs = stats.ttest_rel(100 * second, 100 * first)
    assert result.mcnemar_p is None
    assert result.interval() == pytest.approx(tuple(theirs.confidence_interval()))


def test_interval_over_seeds_covers_as_often_as_it_says():
    """Items and seeds both vary, the true difference is 1: simulated, 95 % of the intervals hold it."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(600):
        seeds, items = generator.normal(0, 0.03, (3, 1)), generator.normal(0, 0.1, (1, 40))
        change = 0.01 + seeds + items + generator.normal(0, 0.1, (3, 40))
        base = generator.random((3, 40))
        low, high = difference(_items(*base), _items(*(base + change))).interval()
        covered += low <= 1.0 <= high
    assert 0.92 <= covered / 600 <= 0.99


def test_seeds_that_differ_widen_the_interval():
    base = np.random.default_rng(3).random(200)
    alike = difference(_items(base, base, base), _items(base + 0.1, base + 0.1, base + 0.1))
    apart = difference(_items(base, base, base), _items(base + 0.0, base + 0.1, base + 0.2))
    assert alike.value == pytest.approx(apart.value) == pytest.approx(10)
    assert apart.seed_variance == pytest.approx(100 / 3)
    assert alike.interval() == pytest.approx((10, 10))
    half = stats.t.ppf(0.975, 2) * math.sqrt(100 / 3)
    assert apart.interval() == pytest.approx((10 - half, 10 + half))


def test_subjects_count_equally(tmp_path):
    subjects = [("mmlu_anatomy", 0)] * 9 + [("mmlu_virology", 0)]
    first = _write(tmp_path / "a", {"mmlu": subjects})
    second = _write(tmp_path / "b", {"mmlu": [*subjects[:9], ("mmlu_virology", 1)]})
    result = difference(*(read_items([folder])["MMLU"] for folder in (first, second)))
    assert result.value == pytest.approx(50)


def test_h6_is_the_mean_difference_with_independent_errors(tmp_path):
    generator = np.random.default_rng(4)
    folders = []
    for name in ("a0", "a1", "b0", "b1"):
        rows = {c.task: [(c.task, generator.random() < 0.5) for _ in range(200)] for c in H6_BENCHMARKS}
        folders.append(_write(tmp_path / name, rows))
    first, second = read_items(folders[:2]), read_items(folders[2:])
    parts = [difference(first[column.name], second[column.name]) for column in H6_BENCHMARKS]
    h6 = mean_difference(parts)
    assert h6.value == pytest.approx(np.mean([part.value for part in parts]))
    assert h6.item_variance == pytest.approx(sum(part.item_variance for part in parts) / 36)
    assert h6.seed_values == pytest.approx(np.mean([part.seed_values for part in parts], axis=0))


def test_losses_are_weighted_by_tokens(tmp_path):
    files = []
    for number, losses in enumerate(([[10, 20.0], [30, 90.0]], [[10, 30.0], [30, 60.0]])):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(losses))
    result = difference(read_losses(files[:1]), read_losses(files[1:]))
    assert result.value == pytest.approx(90 / 40 - 110 / 40)


def test_texts_of_other_lengths_do_not_widen_the_interval_of_a_loss(tmp_path):
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 500, size=60)
    losses = generator.random(60) + 3
    files = []
    for number, change in enumerate((0.0, 0.5)):
        files.append(tmp_path / f"{number}.json")
        rows = [[int(n), float(n * (loss + change))] for n, loss in zip(tokens, losses, strict=True)]
        files[-1].write_text(json.dumps(rows))
    result = difference(read_losses(files[:1]), read_losses(files[1:]))
    assert result.interval() == pytest.approx((0.5, 0.5))


def test_shares_of_different_items():
    result = share_difference(_items([1, 1, 0, 0, 0, 0, 0, 0]), _items([1, 1, 1, 0]))
    assert result.value == pytest.approx(50)
    ours, theirs = 4 / 6, 3 / 10  # Agresti and Caffo (2000): one hit and one miss more
    assert result.centre == pytest.approx(100 * (ours - theirs))
    assert result.item_variance == pytest.approx(1e4 * (ours * (1 - ours) / 6 + theirs * (1 - theirs) / 10))
    assert share_difference(90.0, _items([1, 1, 1, 0])).value == pytest.approx(-15)


def test_different_items_or_no_items_are_the_users_mistake(tmp_path):
    first = _write(tmp_path / "a", {"gsm8k": [("gsm8k", 1), ("gsm8k", 0)]})
    second = _write(tmp_path / "b", {"gsm8k": [("gsm8k", 1)]})
    with pytest.raises(UserError, match="not the same ones"):
        difference(*(read_items([folder])["GSM8K"] for folder in (first, second)))
    with pytest.raises(UserError, match=r"GSM8K.*different items"):
        read_items([first, second])
    with pytest.raises(UserError, match="no item results"):
        read_items([tmp_path])
