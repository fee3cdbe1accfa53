"""Is one model better than another? The same items, answered by both, over one or more seeds of training."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from solar_repro.errors import UserError
from solar_repro.h6.samples import read_samples
from solar_repro.h6.statistics import mcnemar_exact
from solar_repro.paper.benchmarks import COLUMNS

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Items:
    """What one model scored on one benchmark, item by item and seed by seed."""

    names: tuple[Any, ...]
    """Of the items, the same for every seed."""
    values: "np.ndarray"
    """[seeds, items], in percent (losses: nats)."""
    weights: "np.ndarray"
    """[items], of mean one: the score is the mean of weight × value."""

    @property
    def binary(self) -> bool:
        return bool(((self.values == 0) | (self.values == 100)).all())


@dataclass(frozen=True)
class Difference:
    """Second minus first, with an error that speaks of items and of seeds.

    Items and seeds are crossed random effects: the variance is that of the item means over the items plus
    that of the seed means over the seeds, with degrees of freedom after Satterthwaite (1946). Of one seed
    only the first part is known.
    """

    value: float
    """Percentage points (losses: nats)."""
    centre: float
    """Middle of the interval: of binary items a little nearer to zero than `value`."""
    item_variance: float
    item_freedom: float
    seed_values: tuple[float, ...]
    items: int
    mcnemar_p: float | None = None
    """Exact two-sided McNemar test; None for several seeds, for metrics that are shares and for H6."""

    @property
    def seed_variance(self) -> float:
        seeds = len(self.seed_values)
        if seeds < 2:
            return 0.0
        mean = sum(self.seed_values) / seeds
        return sum((value - mean) ** 2 for value in self.seed_values) / (seeds - 1) / seeds

    @property
    def stderr(self) -> float:
        return math.sqrt(self.item_variance + self.seed_variance)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the t distribution."""
        seeds = (self.seed_variance, len(self.seed_values) - 1)
        return _satterthwaite([(self.item_variance, self.item_freedom), seeds])

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the difference."""
        from scipy.stats import t

        half = float(t.ppf(0.5 + confidence / 2, self.freedom)) * self.stderr
        return self.centre - half, self.centre + half


class _Mean(NamedTuple):
    """A weighted mean of items and its error."""

    value: float
    centre: float
    variance: float
    freedom: float

    @classmethod
    def of(cls, by_item: "np.ndarray", weights: "np.ndarray", extra: Sequence[float]) -> "_Mean":
        """Of values [items] with weights of mean one; `extra` values count for `centre` and variance alone.

        The variance is that of a ratio: what a heavy item adds counts from the mean, not from zero.
        """
        import numpy as np

        values, heavy = np.append(by_item, extra), np.append(weights, np.ones(len(extra)))
        count = len(values)
        centre = float((heavy * values).sum() / heavy.sum())
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
    """Items of each benchmark by column name, of one model's evaluations: a folder for each seed.

    Each subject of MMLU counts equally. UserError where a folder holds no items, or others than the first.
    """
    import numpy as np

    samples = [read_samples(folder) for folder in folders]
    found = {}
    for column in COLUMNS:
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
    """Held-out losses by text (nats per token), a file for each seed; a text counts by its tokens."""
    import numpy as np

    rows = np.array([json.loads(Path(file).read_text(encoding="utf-8")) for file in files])
    tokens = rows[0, :, 0]
    return Items(
        tuple(range(len(tokens))), rows[:, :, 1] / rows[:, :, 0], tokens * len(tokens) / tokens.sum()
    )


def difference(first: Items, second: Items) -> Difference:
    """Second minus first on the same items, the n-th seed of one beside the n-th of the other.

    Binary items count with two more, one in favour of either model: the interval of Bonett and Price (2012),
    which does not shrink to nothing where few items differ. Different items: UserError.
    """
    if first.names != second.names:
        raise UserError(
            f"{len(first.names)} and {len(second.names)} items, not the same ones; score both models with "
            "the same limit and seed"
        )
    differences = second.values - first.values
    binary = first.binary and second.binary
    mean = _Mean.of(differences.mean(axis=0), first.weights, [100.0, -100.0] if binary else [])
    only = [int((differences[0] < 0).sum()), int((differences[0] > 0).sum())]
    return Difference(
        value=mean.value,
        centre=mean.centre,
        item_variance=mean.variance,
        item_freedom=mean.freedom,
        seed_values=tuple(map(float, (differences * first.weights).mean(axis=1))),
        items=len(first.names),
        mcnemar_p=mcnemar_exact(*only) if binary and len(differences) == 1 else None,
    )


def share_difference(first: "Items | float", second: Items) -> Difference:
    """Second minus first where the items differ, or where the first is a constant, in percent.

    A share of binary items counts with one hit and one miss more (Agresti and Caffo 2000).
    """
    parts = [
        _Mean.of(items.values.mean(axis=0), items.weights, [100.0, 0.0] if items.binary else [])
        if isinstance(items, Items)
        else _Mean(items, items, 0.0, math.inf)
        for items in (second, first)
    ]
    variance = sum(part.variance for part in parts)
    ours = (second.values * second.weights).mean(axis=1)
    theirs = (first.values * first.weights).mean(axis=1) if isinstance(first, Items) else first
    return Difference(
        value=parts[0].value - parts[1].value,
        centre=parts[0].centre - parts[1].centre,
        item_variance=variance,
        item_freedom=_satterthwaite((part.variance, part.freedom) for part in parts),
        seed_values=tuple(map(float, ours - theirs)),
        items=sum(len(items.names) for items in (first, second) if isinstance(items, Items)),
    )


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """The mean of several benchmarks' differences (H6): independent items, the same seeds."""
    count = len(parts)
    seeds = zip(*(part.seed_values for part in parts), strict=True)
    return Difference(
        value=sum(part.value for part in parts) / count,
        centre=sum(part.centre for part in parts) / count,
        item_variance=sum(part.item_variance for part in parts) / count**2,
        item_freedom=_satterthwaite((part.item_variance, part.item_freedom) for part in parts),
        seed_values=tuple(sum(values) / count for values in seeds),
        items=sum(part.items for part in parts),
    )


def compare_items(first: Mapping[str, Items], second: Mapping[str, Items]) -> dict[str, Difference]:
    """Second minus first by column that both have; with all six benchmarks in both, `H6` too."""
    found = {name: difference(first[name], second[name]) for name in first if name in second}
    if all(column.name in found for column in COLUMNS):
        found["H6"] = mean_difference([found[column.name] for column in COLUMNS])
    return found
