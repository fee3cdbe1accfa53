"""Is one model better than another? The same items, answered by both, compared item by item."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from solar_repro.errors import UserError
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.evaluation.samples import read_samples
from solar_repro.evaluation.statistics import bootstrap_interval, bootstrap_means, mcnemar_exact


@dataclass(frozen=True)
class ItemComparison:
    """One benchmark, or all of them: second model minus first, in percentage points."""

    items: int
    difference: float
    """For MMLU the difference of plain means over subjects; for H6 the mean over benchmarks."""
    low: float
    high: float
    """95 % interval of the difference: paired bootstrap over items (within subjects, for MMLU)."""
    bootstrap_p: float
    only_first: int | None
    """Items right in the first model alone; None where the metric is a share (TruthfulQA) and for H6."""
    only_second: int | None
    mcnemar_p: float | None
    """Exact two-sided McNemar test on those two counts."""


def compare_items(
    first: Path | str, second: Path | str, *, draws: int = 10_000, seed: int = 0
) -> dict[str, ItemComparison]:
    """Compare two evaluations' folders, by column; with all six benchmarks in both, `H6` too.

    Raises UserError where the folders hold no item results in common or different items of a benchmark.
    """
    found = {}
    rows = read_samples(first), read_samples(second)
    for column in COLUMNS:
        if column.task not in rows[0] or column.task not in rows[1]:
            continue
        ours, theirs = rows[0][column.task], rows[1][column.task]
        if [(row["task"], row["item"]) for row in ours] != [(row["task"], row["item"]) for row in theirs]:
            raise UserError(
                f"{column.name}: {first} and {second} hold different items; use one limit and seed"
            )
        found[column.name] = [
            (one["task"], one["metric"], other["metric"]) for one, other in zip(ours, theirs, strict=True)
        ]
    if not found:
        raise UserError(f"{first} and {second}: no benchmark in common; evaluate both on the same tasks")
    return _compare(found, draws, seed)


def _compare(
    found: Mapping[str, list[tuple[str, float, float]]], draws: int, seed: int
) -> dict[str, ItemComparison]:
    import numpy as np

    results = {}
    resampled = []
    for number, (name, pairs) in enumerate(found.items()):
        by_task: dict[str, list[float]] = {}
        for task, one, other in pairs:
            by_task.setdefault(task, []).append(100 * (other - one))
        means = bootstrap_means(list(by_task.values()), draws=draws, seed=(seed, number))
        resampled.append(means)
        low, high, p = bootstrap_interval(means)
        binary = all(value in (0.0, 1.0) for _, *values in pairs for value in values)
        only_first = sum(one > other for _, one, other in pairs)
        only_second = sum(other > one for _, one, other in pairs)
        results[name] = ItemComparison(
            items=len(pairs),
            difference=float(np.mean([np.mean(values) for values in by_task.values()])),
            low=low,
            high=high,
            bootstrap_p=p,
            only_first=only_first if binary else None,
            only_second=only_second if binary else None,
            mcnemar_p=mcnemar_exact(only_first, only_second) if binary else None,
        )
    if len(results) == len(COLUMNS):
        low, high, p = bootstrap_interval(np.mean(resampled, axis=0))
        results["H6"] = ItemComparison(
            items=sum(result.items for result in results.values()),
            difference=float(np.mean([result.difference for result in results.values()])),
            low=low,
            high=high,
            bootstrap_p=p,
            only_first=None,
            only_second=None,
            mcnemar_p=None,
        )
    return results
