"""The runs that are compared, and what is read of them: metrics, curves, scores by item, notes."""

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmarks.bad_runs import LARGEST_LOSS, passing_over, points
from solar_repro.errors import UserError
from solar_repro.h6.compare_items import Items, read_items, read_losses
from solar_repro.h6.samples import LOSSES_FILE
from solar_repro.tracking.artifacts import ArtifactMissing, note_of, result_of
from solar_repro.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

T = TypeVar("T")
SHARED = "shared"
"""Stands in place of a seed for a result that is the same for every seed, such as the base's."""
MODEL, EVALUATE, CONTAMINATION = "model", "evaluate", "contamination"


@dataclass(frozen=True)
class Runs:
    """Finished runs of one scale: kind (`model`, `evaluate`, `contamination`) → variant → seed → run."""

    scale: str
    found: Mapping[str, Mapping[str, Mapping[str, "Run"]]]
    tracker: Tracker
    scratch: "tempfile.TemporaryDirectory[str]" = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="solar-runs-")
    )
    """The folder for results that have to be fetched because no store of this machine has them."""
    _read: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def seeds(self) -> tuple[str, ...]:
        """Seeds of training, ascending; one `shared` where nothing was trained."""
        seeds = {seed for kind in self.found.values() for runs in kind.values() for seed in runs}
        return tuple(sorted(seeds - {SHARED}, key=int)) or (SHARED,)

    def of(self, kind: str, variant: str) -> dict[str, "Run"]:
        """A variant's runs by seed. A run that no seed changes is given for every seed."""
        runs = self.found.get(kind, {}).get(variant, {})
        if SHARED in runs:
            return dict.fromkeys(self.seeds, runs[SHARED])
        return dict(runs)

    def metric(self, kind: str, variant: str, name: str) -> dict[str, float]:
        """A metric's value by seed, for the seeds whose run logged it."""
        runs = self.of(kind, variant).items()
        return {seed: run.data.metrics[name] for seed, run in runs if name in run.data.metrics}

    def first(self, kind: str, variant: str) -> "Run":
        """Return the run of the first seed."""
        return next(iter(self.of(kind, variant).values()))

    def mean(self, kind: str, variant: str, name: str) -> float | None:
        """Return a metric's mean over seeds, or None where no run logged it."""
        values = self.metric(kind, variant, name).values()
        return fmean(values) if values else None

    def history(self, run: "Run", metric: str) -> list[tuple[int, float]]:
        """Return a metric of one run as (step, value), by ascending step."""
        return points(self.tracker.history(run.info.run_id, metric))

    def folder(self, run: "Run") -> Path:
        """Return the folder of the run's verified result: in its store, else fetched from its artifacts.

        Raises ArtifactMissing or ManifestError.
        """
        return self.once(("folder", run.info.run_id), lambda: result_of(run, Path(self.scratch.name)))

    def items(self, variant: str, column: str, seeds: Sequence[str]) -> Items | None:
        """Return the scores by item of a column, or None where a seed has no run.

        `column` is one of H6's, `loss` (held-out loss), or `contamination/<task>`. For contamination an item
        is a text, which scores 100 where the result of its neighbour test is below 0.1.
        """
        runs = self.of(CONTAMINATION if column.startswith("contamination/") else EVALUATE, variant)
        if not all(seed in runs for seed in seeds):
            return None
        return self.once(
            (*(runs[seed].info.run_id for seed in seeds), column),
            lambda: self._items([runs[seed] for seed in seeds], column),
        )

    def _items(self, runs: "Sequence[Run]", column: str) -> Items | None:
        """Read the scores of these runs; where their results make no sense, print a line and return None."""
        folders = [self.once(("usable", run.info.run_id), lambda run=run: self._usable(run)) for run in runs]
        if None in folders:
            return None
        with passing_over(runs[0], f"result ({column})"):
            if column.startswith("contamination/"):
                return _sound(read_texts(folders, column.removeprefix("contamination/")), 100.0)
            if column == "loss":
                files = [folder / LOSSES_FILE for folder in folders]
                return _sound(read_losses(files) if all(f.is_file() for f in files) else None, LARGEST_LOSS)
            found = self.once(("items", *folders), lambda: self._columns(runs[0], folders))
            return _sound(found.get(column), 100.0)
        return None

    def _usable(self, run: "Run") -> Path | None:
        with passing_over(run, "result"):
            return self.folder(run)
        return None

    def _columns(self, run: "Run", folders: Sequence[Path]) -> dict[str, Items]:
        """Read the items by column. Where folders hold none or different ones, print a line, return {}."""
        with passing_over(run, "result"):
            try:
                return read_items(folders)
            except UserError as error:
                raise ArtifactMissing(str(error)) from error
        return {}

    def note(self, run: "Run", name: str) -> Any:
        """Return the content of a JSON file among the run's notes, or None where the run has no such file."""

        def read() -> Any:
            with contextlib.suppress(ArtifactMissing):
                return note_of(run, name)
            return None

        return self.once(("note", run.info.run_id, name), read)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Call `make` at the first call with this key, and return the same result at every later one."""
        if key not in self._read:
            self._read[key] = make()
        return self._read[key]


def _sound(items: Items | None, most: float) -> Items | None:
    """Return the items. Raises ValueError where a value is not between 0 and `most`."""
    if items is None:
        return None
    values, weights = items.values, items.weights
    if not (values.size and np.isfinite(values).all() and np.isfinite(weights).all()):
        raise ValueError("it has no items, or values that are no numbers")
    if values.min() < 0 or values.max() > most or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError(f"it has values that are not between 0 and {most:g}")
    return items


def read_texts(folders: Sequence[Path], task: str) -> Items | None:
    """Return the texts of a contamination test as items, or None where the task was not tested.

    A text scores 100 where its result is below the test's threshold, else 0.
    """
    files = [folder / f"{task}.json" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    tests = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    below = [[100.0 * (score < test["threshold"]) for score in test["scores"]] for test in tests]
    return Items(tuple(tests[0]["examples"]), np.array(below), np.ones(len(below[0])))
