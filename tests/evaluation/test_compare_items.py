import random
import shutil

import numpy as np
import pytest

from solar_repro.errors import UserError
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.evaluation.compare_items import compare_items
from solar_repro.evaluation.samples import write_samples


def _row(task, item, metric):
    return {"task": task, "item": item, "question": "", "prediction": "", "gold": [], "metric": float(metric)}


def _write(folder, values):
    """`values` maps a file stem to (task, metric) pairs in order."""
    (folder / "samples").mkdir(parents=True)
    for stem, pairs in values.items():
        rows = [_row(task, item, metric) for item, (task, metric) in enumerate(pairs)]
        write_samples(rows, folder / "samples" / f"{stem}.parquet")
    return folder


def test_discordant_items_and_the_difference(tmp_path):
    first = _write(
        tmp_path / "a", {"winogrande": [("winogrande", value) for value in (1, 0, 0, 0, 0, 0, 0, 1)]}
    )
    second = _write(
        tmp_path / "b", {"winogrande": [("winogrande", value) for value in (0, 1, 1, 1, 1, 1, 1, 1)]}
    )
    result = compare_items(first, second)["Winogrande"]
    assert (result.only_first, result.only_second, result.items) == (1, 6, 8)
    assert result.difference == pytest.approx(100 * 5 / 8)
    assert result.mcnemar_p == pytest.approx(2 * 8 / 2**7)
    assert 0 < result.bootstrap_p < 0.1
    assert result.low <= result.difference <= result.high
    mirrored = compare_items(second, first)["Winogrande"]
    assert mirrored.difference == pytest.approx(-result.difference)


def test_shares_have_no_mcnemar_and_subjects_count_equally(tmp_path):
    values = {"truthfulqa_mc2": [("truthfulqa_mc2", 0.3), ("truthfulqa_mc2", 0.5)]}
    subjects = [("mmlu_anatomy", 0)] * 9 + [("mmlu_virology", 0)]
    first = _write(tmp_path / "a", values | {"mmlu": subjects})
    other = {"truthfulqa_mc2": [("truthfulqa_mc2", 0.4), ("truthfulqa_mc2", 0.6)]}
    second = _write(tmp_path / "b", other | {"mmlu": [*subjects[:9], ("mmlu_virology", 1)]})
    results = compare_items(first, second)
    assert results["TruthfulQA"].mcnemar_p is None
    assert results["TruthfulQA"].difference == pytest.approx(10)
    assert results["MMLU"].difference == pytest.approx(50)
    assert "H6" not in results


def test_h6_is_the_mean_difference_with_independent_errors(tmp_path):
    generator = random.Random(0)
    folders = []
    for name in "ab":
        rows = {c.task: [(c.task, generator.random() < 0.5) for _ in range(200)] for c in COLUMNS}
        folders.append(_write(tmp_path / name, rows))
    results = compare_items(*folders)
    parts = [results[column.name] for column in COLUMNS]
    assert results["H6"].difference == pytest.approx(np.mean([part.difference for part in parts]))
    widths = [part.high - part.low for part in parts]
    expected = np.sqrt(np.sum(np.square(widths))) / 6
    assert results["H6"].high - results["H6"].low == pytest.approx(expected, rel=0.1)
    assert compare_items(*folders) == results


def test_different_items_or_no_items_are_the_users_mistake(tmp_path):
    first = _write(tmp_path / "a", {"gsm8k": [("gsm8k", 1), ("gsm8k", 0)]})
    second = _write(tmp_path / "b", {"gsm8k": [("gsm8k", 1)]})
    with pytest.raises(UserError, match=r"GSM8K.*different items"):
        compare_items(first, second)
    with pytest.raises(UserError, match="no item results"):
        compare_items(first, tmp_path)
    third = _write(tmp_path / "c", {"winogrande": [("winogrande", 1)]})
    with pytest.raises(UserError, match="no benchmark in common"):
        compare_items(first, third)
    shutil.rmtree(tmp_path / "a")
