"""Which runs a comparison is made of: those of a plan's keys, of an experiment, under a parent, or by id."""

import contextlib
import functools
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmarks.bad_runs import LARGEST_LOSS, passing_over, points, usable
from solar_repro.errors import UserError
from solar_repro.h6.compare_items import Items, read_items, read_losses
from solar_repro.h6.samples import LOSSES_FILE
from solar_repro.paper import variants
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import made_in
from solar_repro.plan.step import MODEL_STAGES, Step
from solar_repro.safety.redact import short_reason
from solar_repro.tracking.artifacts import ArtifactMissing, note_of, read_artifact, result_of
from solar_repro.tracking.commands import EXTERNAL_MODEL_ROLE
from solar_repro.tracking.reader import conflicting_results
from solar_repro.tracking.server import NOT_FOUND_CODES, artifact_errors
from solar_repro.tracking.tracker import STEPS_FILE, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

SHARED = "shared"
"""In place of a seed: a result that every seed stands on, such as the base's."""
MODEL, EVALUATE, CONTAMINATION = "model", "evaluate", "contamination"


@dataclass(frozen=True)
class Runs:
    """Finished runs of one scale: kind (`model`, `evaluate`, `contamination`) → variant → seed → run."""

    scale: str
    found: Mapping[str, Mapping[str, Mapping[str, "Run"]]]
    tracker: Tracker
    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="solar-runs-")))
    """Where results are fetched to that lie in no store of this machine."""
    _read: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def seeds(self) -> tuple[str, ...]:
        """Seeds of training, ascending; one `shared` where nothing was trained."""
        seeds = {seed for kind in self.found.values() for runs in kind.values() for seed in runs}
        return tuple(sorted(seeds - {SHARED}, key=int)) or (SHARED,)

    def of(self, kind: str, variant: str) -> dict[str, "Run"]:
        """Runs of a variant by seed; one that no seed changes stands under every seed."""
        runs = self.found.get(kind, {}).get(variant, {})
        if SHARED in runs:
            return dict.fromkeys(self.seeds, runs[SHARED])
        return dict(runs)

    def metric(self, kind: str, variant: str, name: str) -> dict[str, float]:
        """One metric by seed, where it was logged."""
        runs = self.of(kind, variant).items()
        return {seed: run.data.metrics[name] for seed, run in runs if name in run.data.metrics}

    def first(self, kind: str, variant: str) -> "Run":
        """The run of the first seed."""
        return next(iter(self.of(kind, variant).values()))

    def mean(self, kind: str, variant: str, name: str) -> float | None:
        """One metric's mean over seeds."""
        values = self.metric(kind, variant, name).values()
        return sum(values) / len(values) if values else None

    def history(self, run: "Run", metric: str) -> list[tuple[int, float]]:
        """A metric of one run by step, ascending."""
        return points(self.tracker.history(run.info.run_id, metric))

    def folder(self, run: "Run") -> Path:
        """The run's result, verified: in its store, else its artifacts; Missing or ManifestError."""
        return self.once(("folder", run.info.run_id), lambda: result_of(run, self.scratch))

    def items(self, variant: str, column: str, seeds: Sequence[str]) -> Items | None:
        """Scores by item: a column of H6, `loss` (held-out) or `contamination/<task>`; None without a run.

        For contamination an item is a text, and scores 100 where the neighbour test finds it below 0.1.
        """
        runs = self.of(CONTAMINATION if column.startswith("contamination/") else EVALUATE, variant)
        if not all(seed in runs for seed in seeds):
            return None
        return self.once(
            (*(runs[seed].info.run_id for seed in seeds), column),
            lambda: self._items([runs[seed] for seed in seeds], column),
        )

    def _items(self, runs: "Sequence[Run]", column: str) -> Items | None:
        """The same, of these runs; None, with a line, where their results are damaged or malformed."""
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
        """Items by column; none, with a line, where the folders hold none or different ones."""
        with passing_over(run, "result"):
            try:
                return read_items(folders)
            except UserError as error:
                raise ArtifactMissing(str(error)) from error
        return {}

    def note(self, run: "Run", name: str) -> Any:
        """What a JSON file holds that the run left among its notes; None where it has none."""

        def read() -> Any:
            with contextlib.suppress(ArtifactMissing):
                return note_of(run, name)
            return None

        return self.once(("note", run.info.run_id, name), read)

    def once(self, key: Any, make: Any) -> Any:
        """What `make` gives, the same for every call with this key."""
        if key not in self._read:
            self._read[key] = make()
        return self._read[key]


def _sound(items: Items | None, most: float) -> Items | None:
    """The items, whose values lie between 0 and `most`; else ValueError."""
    if items is None:
        return None
    import numpy as np

    values, weights = items.values, items.weights
    if not (values.size and np.isfinite(values).all() and np.isfinite(weights).all()):
        raise ValueError("it has no items, or values that are no numbers")
    if values.min() < 0 or values.max() > most or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError(f"it has values that are not between 0 and {most:g}")
    return items


def read_texts(folders: Sequence[Path], task: str) -> Items | None:
    """Texts of a contamination test, 100 where the result is below its threshold; None without the task."""
    import numpy as np

    files = [folder / f"{task}.json" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    tests = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    below = [[100.0 * (score < test["threshold"]) for score in test["scores"]] for test in tests]
    return Items(tuple(tests[0]["examples"]), np.array(below), np.ones(len(below[0])))


def of_plans(
    plans: Sequence[Plan], tracker: Tracker, names: Sequence[str] = (), store: Path | None = None
) -> Runs:
    """The finished runs of each plan (a seed each) for the named variants, or for all that there are."""
    steps = []
    for plan in plans:
        chosen = [variants.variant(name).name for name in names or (*variants.PAPER, *variants.CONTROLS)]
        tested = {variants.variant(name).name for name in plan.scale.contamination.variants}
        steps += [step for name in chosen for step in (plan.model(name), plan.evaluation(name))]
        steps += plan.contamination_tests([name for name in chosen if name in tested])
    return of_steps(plans[0].scale.name, steps, tracker, store)


def of_steps(scale: str, steps: Iterable[Step], tracker: Tracker, store: Path | None = None) -> Runs:
    """The finished runs of these steps, found by key."""
    found = [run_of(step, tracker, store) for step in {step.key: step for step in steps}.values()]
    return collect(scale, [run for run in found if run], tracker)


def run_of(step: Step, tracker: Tracker, store: Path | None) -> "Run | None":
    """The finished run of a step: of several that which made the result in `store`, else the newest.

    Several without a result there, that have recorded other results or figures, are a UserError: anybody who
    may write to the server may have added one.
    """
    runs = usable(tracker.runs_of(step.key))
    if len(runs) < 2:
        return runs[0] if runs else None
    made = made_in(store / step.folder) if store else None
    for run in runs:
        if run.info.run_id == made:
            return run
    first, *others = runs
    if not all(_agree(first, other) for other in others):
        raise UserError(conflicting_results(step.label, [_shown(run) for run in runs]))
    return first


def _agree(first: "Run", second: "Run") -> bool:
    """Whether two runs have recorded the same result, and no figure that differs."""
    results = {run.data.tags.get("solar.result") for run in (first, second)}
    figures = first.data.metrics, second.data.metrics
    common = figures[0].keys() & figures[1].keys()
    return len(results) == 1 and None not in results and all(figures[0][n] == figures[1][n] for n in common)


def _shown(run: "Run") -> str:
    tags = run.data.tags
    who = f"{tags.get('solar.user', 'unknown')} on {tags.get('solar.host', 'unknown')}"
    return f"run {run.info.run_id} (experiment {run.info.experiment_id}, made by {who[:200]})"


def of_server(
    scale: str,
    tracker: Tracker,
    *,
    experiment: str | None = None,
    parent: str | None = None,
    ids: Sequence[str] = (),
) -> Runs:
    """The scale's runs in an experiment, those that a `main` run made or reused, or those with these ids.

    An experiment's are those made in it, and those of others that its commands were answered with. Of several
    runs of one variant, stage and seed the newest counts. With the id of a model's run comes
    what scored it. None left: UserError.
    """
    used: dict[str, int] = {}
    if experiment:
        runs = usable(tracker.search(f"tags.`solar.scale` = '{scale}'", experiment))
        used = _reused([run for run in runs if "solar.stage" not in run.data.tags])
        found = {run.info.run_id: run for run in [*runs, *usable(_known(tracker, used))]}
        runs = [run for run in found.values() if _is_of_the_paper(run)]
        place = f"experiment {experiment!r}"
    else:
        place = f"parent run {parent}" if parent else f"runs {', '.join(ids)}"
        made_no_steps = ", or it made no steps; give a run of `main`"
        chosen = _steps_of(_run(tracker, parent, made_no_steps)) if parent else list(ids)
        runs = _with_scores(tracker, chosen)
        runs = [run for run in usable(runs) if not parent or tracker.accepts(run)]
        runs = [run for run in runs if run.data.tags.get("solar.scale") == scale]
    if not any("solar.stage" in run.data.tags for run in runs):
        raise UserError(
            f"{place}: no finished run of scale {scale}; run `main` at this scale first, or give another "
            "-P scale="
        )
    return collect(scale, runs, tracker, used)


def _is_of_the_paper(run: "Run") -> bool:
    """Not of a recipe, or of a checkpoint made elsewhere, which may have the name of one of our variants."""
    tags = run.data.tags
    role = EXTERNAL_MODEL_ROLE.get(tags.get("solar.stage", ""))
    return role is None or role in json.loads(tags["solar.parents"])


def _reused(invocations: "Iterable[Run]") -> dict[str, int]:
    """Ids of the runs that these invocations were answered with → when that last was.

    They may lie in other experiments.
    """
    used: dict[str, int] = {}
    for run in invocations:
        made = [found] if (found := run.data.tags.get("solar.reused_run")) else []
        if not made:
            with passing_over(run, STEPS_FILE):
                made = _steps_of(run)
        for run_id in made:
            used[run_id] = max(used.get(run_id, 0), run.info.end_time)
    return used


def _known(tracker: Tracker, ids: Iterable[str]) -> "list[Run]":
    """The runs of these ids that are finished and not deleted."""
    runs = []
    for run_id in ids:
        with contextlib.suppress(UserError):
            runs.append(_run(tracker, run_id))
    finished = [run for run in runs if (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")]
    return [run for run in finished if tracker.accepts(run)]


def _run(tracker: Tracker, run_id: str, hint: str = "; the UI lists its runs") -> "Run":
    from mlflow.exceptions import MlflowException

    try:
        return tracker.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        raise UserError(f"run {run_id!r}: not on this tracking server{hint}") from None


def _steps_of(parent: "Run") -> list[str]:
    try:
        with artifact_errors(parent.info.artifact_uri, "read"):
            found = read_artifact(parent.info.artifact_uri, STEPS_FILE)
        if not isinstance(found, dict) or not all(map(_is_id, found.values())):
            raise ArtifactMissing("it does not name runs")
    except ArtifactMissing as error:
        raise ArtifactMissing(
            f"run {parent.info.run_id}: it made no steps, as its {STEPS_FILE} cannot be read "
            f"({short_reason(error)}); give a run of `main`"
        ) from None
    return list(found.values())


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\w-]{1,64}", value))


def _with_scores(tracker: Tracker, ids: Sequence[str]) -> "list[Run]":
    runs = {}
    for run_id in ids:
        run = runs[run_id] = _run(tracker, run_id)
        if run.data.tags.get("solar.stage") in MODEL_STAGES:
            scorers = tracker.search(f"tags.`solar.parents` LIKE '%{run_id}%'")
            runs |= {run.info.run_id: run for run in scorers if run.data.tags.get("solar.stage") == EVALUATE}
    return [run for run in runs.values() if run.info.status == "FINISHED"]


def collect(
    scale: str, runs: "Iterable[Run]", tracker: Tracker, used: Mapping[str, int] = MappingProxyType({})
) -> Runs:
    """Sort runs by kind, variant and seed; of several the newest, by when they were made or last `used`."""
    found: dict[str, dict[str, dict[str, Run]]] = {MODEL: {}, EVALUATE: {}, CONTAMINATION: {}}
    for run in sorted(runs, key=lambda run: max(run.info.end_time, used.get(run.info.run_id, 0))):
        tags = run.data.tags
        stage = tags.get("solar.stage")
        kind = MODEL if stage in MODEL_STAGES else stage
        if kind in found:
            by_seed = found[kind].setdefault(tags["solar.variant"], {})
            by_seed[tags.get("solar.seed", SHARED)] = run
    return Runs(scale, found, tracker)
