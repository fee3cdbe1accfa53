"""Whether one model is better than another, by items that both answered, over one or more training seeds."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np

from solar_repro.errors import UserError
from solar_repro.h6.samples import read_samples
from solar_repro.h6.statistics import mcnemar_exact
from solar_repro.paper.benchmarks import H6_BENCHMARKS


@dataclass(frozen=True)
class Items:
    """What one model scored on each item of a benchmark, for each seed."""

    names: tuple[Any, ...]
    """What tells the items apart; the same for every seed."""
    values: np.ndarray
    """[seeds, items], in percent; of losses in nats per token."""
    weights: np.ndarray
    """[items], with a mean of one: the score is the mean of weight × value."""

    @property
    def binary(self) -> bool:
        """Whether every item is either right or wrong."""
        return bool(((self.values == 0) | (self.values == 100)).all())


@dataclass(frozen=True)
class Difference:
    """The score of a second model minus that of a first, with an error from both items and seeds.

    Items and seeds are crossed random effects. The variance is that of the item means over the items plus
    that of the seed means over the seeds, with degrees of freedom after Satterthwaite (1946). With one seed
    only the first part is known.
    """

    value: float
    """In percentage points; of losses in nats per token."""
    centre: float
    """The middle of the interval, for binary items a little nearer to zero than `value`."""
    item_variance: float
    """The variance of `value` that the choice of items causes."""
    item_freedom: float
    """The degrees of freedom of `item_variance`."""
    seed_values: tuple[float, ...]
    """The difference for each seed."""
    items: int
    mcnemar_p: float | None = None
    """The exact two-sided McNemar test; None for several seeds, for items that are not binary and for H6."""

    @property
    def seed_variance(self) -> float:
        """The variance of `value` that the choice of seeds causes; 0 for a single seed."""
        seeds = len(self.seed_values)
        return variance(self.seed_values) / seeds if seeds > 1 else 0.0

    @property
    def stderr(self) -> float:
        """The standard error of `value`."""
        return math.sqrt(self.item_variance + self.seed_variance)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the t distribution."""
        seeds = (self.seed_variance, len(self.seed_values) - 1)
        return _satterthwaite([(self.item_variance, self.item_freedom), seeds])

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the difference."""
        from scipy.stats import t  # here, for it takes seconds to import

        half = float(t.ppf(0.5 + confidence / 2, self.freedom)) * self.stderr
        return self.centre - half, self.centre + half


class _Mean(NamedTuple):
    """A weighted mean of items and its error."""

    value: float
    centre: float
    variance: float
    freedom: float

    @classmethod
    def of(cls, by_item: np.ndarray, weights: np.ndarray, extra: Sequence[float]) -> "_Mean":
        """The mean of values [items] with weights of mean one.

        `extra` values count for `centre` and `variance` alone. The variance is that of a ratio: a heavy item
        adds its distance from the mean, not from zero.
        """
        values, heavy = np.append(by_item, extra), np.append(weights, np.ones(len(extra)))
        count = len(values)
        centre = float(np.average(values, weights=heavy))
        squares = float(((heavy * (values - centre)) ** 2).sum())
        freedom = max(1.0, count - 1.0)
        variance = squares / (count if len(extra) else freedom) / count if count > 1 else math.inf
        return cls(float((by_item * weights).mean()), centre, variance, freedom)


def _satterthwaite(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, each with its own (Satterthwaite 1946)."""
    known = [(variance, freedom) for variance, freedom in parts if variance]
    below = sum(variance**2 / freedom for variance, freedom in known)
    return sum(variance for variance, _ in known) ** 2 / below if below else math.inf


def read_items(folders: Sequence[Path | str]) -> dict[str, Items]:
    """A model's items of each benchmark, by the benchmark's name, from the evaluations of all its seeds.

    Each subject of MMLU has the same weight. Raises UserError where a folder holds no items, or other items
    than the first one.
    """
    samples = [read_samples(folder) for folder in folders]
    found = {}
    for column in H6_BENCHMARKS:
        if any(column.task not in rows for rows in samples):
            continue
        names = [tuple((row["task"], row["item"]) for row in rows[column.task]) for rows in samples]
        for folder, other in zip(folders, names, strict=True):
            if other != names[0]:
                raise UserError(
                    f"{column.name}: {folders[0]} and {folder} hold different items; score both with the "
                    "same limit and seed"
                )
        tasks = [task for task, _ in names[0]]
        sizes = {task: tasks.count(task) for task in set(tasks)}
        found[column.name] = Items(
            names[0],
            100 * np.array([[row["metric"] for row in rows[column.task]] for rows in samples]),
            np.array([len(tasks) / (len(sizes) * sizes[task]) for task in tasks]),
        )
    return found


def read_losses(files: Sequence[Path]) -> Items:
    """A model's held-out loss on each text (nats per token), from one file per seed, weighed by tokens."""
    rows = np.array([json.loads(Path(file).read_text(encoding="utf-8")) for file in files])
    tokens = rows[0, :, 0]
    return Items(
        tuple(range(len(tokens))), rows[:, :, 1] / rows[:, :, 0], tokens * len(tokens) / tokens.sum()
    )


def difference(first: Items, second: Items) -> Difference:
    """Second minus first on the same items; the n-th seed of one is compared with the n-th of the other.

    Two more binary items are counted, one in favour of either model. That gives the interval of Bonett and
    Price (2012), which does not shrink to nothing where few items differ. Raises UserError for other items.
    """
    if first.names != second.names:
        raise UserError(
            f"{len(first.names)} and {len(second.names)} items, not the same ones; score both models with "
            "the same limit and seed"
        )
    differences = second.values - first.values
    binary = first.binary and second.binary
    mean = _Mean.of(differences.mean(axis=0), first.weights, [100.0, -100.0] if binary else [])
    discordant = [int((differences[0] < 0).sum()), int((differences[0] > 0).sum())]
    return Difference(
        value=mean.value,
        centre=mean.centre,
        item_variance=mean.variance,
        item_freedom=mean.freedom,
        seed_values=tuple(map(float, (differences * first.weights).mean(axis=1))),
        items=len(first.names),
        mcnemar_p=mcnemar_exact(*discordant) if binary and len(differences) == 1 else None,
    )


def share_difference(first: "Items | float", second: Items) -> Difference:
    """Second minus first where the two have different items, or where the first is a constant, in percent.

    One more hit and one more miss are counted among binary items (Agresti and Caffo 2000).
    """
    parts = [
        _Mean.of(items.values.mean(axis=0), items.weights, [100.0, 0.0] if items.binary else [])
        if isinstance(items, Items)
        else _Mean(items, items, 0.0, math.inf)
        for items in (second, first)
    ]
    ours = (second.values * second.weights).mean(axis=1)
    theirs = (first.values * first.weights).mean(axis=1) if isinstance(first, Items) else first
    return Difference(
        value=parts[0].value - parts[1].value,
        centre=parts[0].centre - parts[1].centre,
        item_variance=sum(part.variance for part in parts),
        item_freedom=_satterthwaite((part.variance, part.freedom) for part in parts),
        seed_values=tuple(map(float, ours - theirs)),
        items=sum(len(items.names) for items in (first, second) if isinstance(items, Items)),
    )


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """The mean of several benchmarks' differences, such as H6. Their items are independent."""
    count = len(parts)
    seeds = zip(*(part.seed_values for part in parts), strict=True)
    return Difference(
        value=fmean(part.value for part in parts),
        centre=fmean(part.centre for part in parts),
        item_variance=sum(part.item_variance for part in parts) / count**2,
        item_freedom=_satterthwaite((part.item_variance, part.item_freedom) for part in parts),
        seed_values=tuple(map(fmean, seeds)),
        items=sum(part.items for part in parts),
    )
