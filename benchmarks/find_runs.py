"""Finds the runs of a comparison: those of a plan's keys, of an experiment, under a parent, or by id."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmarks.bad_runs import passing_over, usable
from benchmarks.runs import CONTAMINATION, EVALUATE, MODEL, SHARED, Runs
from solar_repro.errors import UserError
from solar_repro.paper import variants
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import made_in
from solar_repro.plan.step import MODEL_STAGES, Step
from solar_repro.safety.redact import short_reason
from solar_repro.tracking.artifacts import ArtifactMissing, read_artifact
from solar_repro.tracking.commands import EXTERNAL_MODEL_ROLE
from solar_repro.tracking.reader import conflicting_results
from solar_repro.tracking.server import NOT_FOUND_CODES, artifact_errors
from solar_repro.tracking.tracker import STEPS_FILE, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run


def of_plans(
    plans: Sequence[Plan], tracker: Tracker, names: Sequence[str] = (), store: Path | None = None
) -> Runs:
    """Find the finished runs of each plan (one per seed) for the named variants, or for all without names."""
    steps = []
    for plan in plans:
        chosen = [variants.variant(name).name for name in names or (*variants.PAPER, *variants.CONTROLS)]
        tested = {variants.variant(name).name for name in plan.scale.contamination.variants}
        steps += [step for name in chosen for step in (plan.model(name), plan.evaluation(name))]
        steps += plan.contamination_tests([name for name in chosen if name in tested])
    return of_steps(plans[0].scale.name, steps, tracker, store)


def of_steps(scale: str, steps: Iterable[Step], tracker: Tracker, store: Path | None = None) -> Runs:
    """Find the finished runs of these steps by their keys."""
    found = [run_of(step, tracker, store) for step in {step.key: step for step in steps}.values()]
    return collect(scale, [run for run in found if run], tracker)


def run_of(step: Step, tracker: Tracker, store: Path | None) -> "Run | None":
    """Find the finished run of a step: of several, the run that made the result in `store`, else the newest.

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
    """Tell whether two runs have recorded the same result, and no figure that differs."""
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
    """Find the scale's runs in an experiment, those that a run of `main` used, or those with these ids.

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
    """Tell whether a run is of a variant: recipes and foreign checkpoints may have a variant's name."""
    tags = run.data.tags
    role = EXTERNAL_MODEL_ROLE.get(tags.get("solar.stage", ""))
    return role is None or role in json.loads(tags["solar.parents"])


def _reused(invocations: "Iterable[Run]") -> dict[str, int]:
    """Map the id of each run that these invocations made or reused to the time when that last happened.

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
    """Return the runs with these ids that are finished and not deleted."""
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
    """Sort runs by kind, variant and seed. Of several, the run that was made or `used` last counts."""
    found: dict[str, dict[str, dict[str, Run]]] = {MODEL: {}, EVALUATE: {}, CONTAMINATION: {}}
    for run in sorted(runs, key=lambda run: max(run.info.end_time, used.get(run.info.run_id, 0))):
        tags = run.data.tags
        stage = tags.get("solar.stage")
        kind = MODEL if stage in MODEL_STAGES else stage
        if kind in found:
            by_seed = found[kind].setdefault(tags["solar.variant"], {})
            by_seed[tags.get("solar.seed", SHARED)] = run
    return Runs(scale, found, tracker)
