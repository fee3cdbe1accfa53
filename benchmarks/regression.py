"""The regression gate compares a scale's runs with its baseline; whatever got worse fails."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.bad_runs import passing_over
from benchmarks.find_runs import of_plans, run_of
from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import SCORE_COLUMNS, score
from benchmarks.text_table import text_table
from solar_repro.device import machine
from solar_repro.errors import UserError
from solar_repro.paper.variants import MAIN
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import code_version, result_digest, verify_key, versions
from solar_repro.plan.step import Step, ordered
from solar_repro.store.publish import write_atomically
from solar_repro.tracking.artifacts import lies_here
from solar_repro.tracking.tracker import Tracker

FOLDER = Path(__file__).parent / "baselines"
STANDARD_ERRORS = 2.0
"""A score may fall by this many standard errors of the difference, its spread over seeds included."""
LOSS_TOLERANCE = {"held_out_loss": 0.02, "loss": 0.1}
"""A loss may rise by this share: other machines round differently. `loss` is that of the last batch."""
TIME_TOLERANCE = 2.0
"""A stage's share of the whole time may grow by this factor …"""
TIME_LEAST = 0.1
"""… if it is at least this share then: shorter ones are noise."""
EXACT = ("microworld", "synth_math", "upscale")
"""These stages do no arithmetic on floats, so the same inputs give the same bytes on every machine."""


@dataclass(frozen=True)
class Moved:
    """One figure that is outside its tolerance."""

    text: str
    worse: bool


def measure(plans: Sequence[Plan], tracker: Tracker, store: Path | None = None) -> dict[str, Any]:
    """Measure what a baseline holds: figures of the variants of `main`, digests, seconds per stage, machine.

    A plan for each seed. An evaluation that is missing: UserError.
    """
    runs = of_plans(plans, tracker, MAIN, store)
    needed = (*SCORE_COLUMNS, "held_out_loss")
    missing = [name for name in MAIN if not all(runs.metric(EVALUATE, name, figure) for figure in needed)]
    if missing:
        raise UserError(
            f"scale {runs.scale}: no finished evaluation of {', '.join(missing)}; "
            f"run: mlflow run . -P scale={runs.scale}"
        )
    steps = ordered(plans[0].main())
    found = {step.label: run_of(step, tracker, store) for step in steps}
    seconds: dict[str, float] = {}
    for step in steps:
        if run := found[step.label]:
            elapsed = (run.info.end_time - run.info.start_time) / 1000
            seconds[step.stage] = round(seconds.get(step.stage, 0.0) + elapsed, 3)
    return {
        "variants": {name: _figures(runs, name) for name in MAIN},
        "digests": {step.label: digest for step in steps if (digest := _digest(step, found[step.label]))},
        "seconds": seconds,
        "machine": machine(),
    }


def _figures(runs: Runs, name: str) -> dict[str, Any]:
    """Return each figure's mean over seeds, the scores' errors and deviations, and all figures by seed."""
    figures: dict[str, Any] = {}
    by_seed: dict[str, dict[str, float]] = {}
    for figure in (*SCORE_COLUMNS, *LOSS_TOLERANCE):
        values = runs.metric(MODEL if figure == "loss" else EVALUATE, name, figure)
        for seed, value in values.items():
            by_seed.setdefault(seed, {})[figure] = value
        if values:
            figures[figure] = fmean(values.values())
    for column in SCORE_COLUMNS:
        figures[f"{column}_stderr"] = score(runs, name, column)[1]
        scores = [values[column] for values in by_seed.values() if column in values]
        figures[f"{column}_deviation"] = stdev(scores) if len(scores) > 1 else 0.0
    return {**figures, "by_seed": by_seed}


def _digest(step: Step, run: Any) -> dict[str, Any] | None:
    """Return the sha256 over a result's files (without notes) and its inputs, or None where there is none."""
    if run is None or not (step.makes_model or step.stage in EXACT):
        return None
    folder = Path(run.data.tags.get("solar.output", ""))
    if not lies_here(folder):
        return None
    with passing_over(run, "result"):
        verify_key(folder, step.key)
        return {
            "sha256": result_digest(folder),
            "inputs": sorted(parent.label for parent in step.inputs.values()),
            "exact": step.stage in EXACT,
        }
    return None


def update(plans: Sequence[Plan], tracker: Tracker, file: Path, store: Path | None = None) -> None:
    """Write the scale's baseline from its runs, with what made it."""
    scale = plans[0].scale
    options = f"-P scale={scale.name} -P seeds={len(plans)} -P update=true"
    content = {
        "provenance": {
            "command": f"mlflow run . -e regression {options}",
            "seeds": [plan.training_seed for plan in plans],
            "code": code_version(),
            "versions": versions(),
        },
        **measure(plans, tracker, store),
    }
    write_atomically(file, json.dumps(content, indent=1) + "\n")


def read_baseline(file: Path, scale: str) -> dict[str, Any]:
    """Read a baseline. Raises UserError where there is none or where it is damaged."""
    if not file.is_file():
        raise UserError(
            f"no baseline {file.name}; make it: mlflow run . -e regression -P scale={scale} -P update=true"
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"baseline {file}: cannot be read ({error}); fetch it again, or make it: "
            f"mlflow run . -e regression -P scale={scale} -P update=true"
        ) from None


def scores_table(baseline: Mapping[str, Any]) -> str:
    """Return a baseline's scores as Markdown: means over its seeds, and H6 with its standard error."""
    rows = [
        [
            name,
            f"{figures['H6']:.1f} ± {math.nan if figures['H6_stderr'] is None else figures['H6_stderr']:.1f}",
            *(f"{figures[column]:.1f}" for column in SCORE_COLUMNS[1:]),
            f"{figures['held_out_loss']:.3f}",
        ]
        for name, figures in baseline["variants"].items()
    ]
    return text_table(["model", *SCORE_COLUMNS, "held-out loss"], rows).markdown()


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Moved]:
    """Yield every figure that lies outside what the baseline allows."""
    for variant, figures in before["variants"].items():
        yield from _moved_scores(variant, figures, after["variants"][variant])
    for label, was in before["digests"].items():
        now = after["digests"].get(label)
        if now and was["exact"] and was["sha256"] != now["sha256"] and _same_inputs(was, before, after):
            yield Moved(f"{label}: other bytes from the same inputs", worse=True)
    if before.get("machine") != after["machine"]:
        return  # another processor, or another precision, shares its time out otherwise
    totals = [sum(found["seconds"].values()) for found in (before, after)]
    if not all(totals):
        return
    for stage, seconds in before["seconds"].items():
        was, now = seconds / totals[0], after["seconds"].get(stage, 0.0) / totals[1]
        if now > max(TIME_LEAST, TIME_TOLERANCE * was):
            yield Moved(f"{stage}: {was:.0%} → {now:.0%} of the whole time", worse=True)


def _moved_scores(variant: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Moved]:
    """Compare the seeds that both have; where they share none, compare the means over all seeds."""
    pair = before, after
    both = before.get("by_seed", {}).keys() & after.get("by_seed", {}).keys()

    def value(figures: Mapping[str, Any], name: str) -> float:
        seeds = [seed for seed in sorted(both) if all(name in one["by_seed"][seed] for one in pair)]
        if not seeds:
            return figures[name]
        return fmean(figures["by_seed"][seed][name] for seed in seeds)

    for name in (*SCORE_COLUMNS, *LOSS_TOLERANCE):
        if name in before and name not in after:
            yield Moved(f"{variant} {name}: {before[name]:.4f} → missing", worse=True)
    for column in SCORE_COLUMNS:
        if column not in before or column not in after:
            continue
        spread = math.hypot(
            *(found.get(f"{column}_stderr") or 0.0 for found in (before, after)),  # None with one item
            before.get(f"{column}_deviation", 0.0),
        )
        was, now = value(before, column), value(after, column)
        if abs(now - was) > STANDARD_ERRORS * spread:
            text = f"{variant} {column}: {was:.2f} → {now:.2f}"
            yield Moved(f"{text}, beyond {STANDARD_ERRORS:g} × {spread:.2f}", worse=now < was)
    for name, tolerance in LOSS_TOLERANCE.items():
        if name in before and name in after:
            was, now = value(before, name), value(after, name)
            if abs(now - was) > was * tolerance:
                text = f"{variant} {name}: {was:.4f} → {now:.4f}"
                yield Moved(f"{text}, beyond {tolerance:.0%}", worse=now > was)


def _same_inputs(was: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    digests = before["digests"], after["digests"]
    return all(
        all(label in found for found in digests)
        and digests[0][label]["sha256"] == digests[1][label]["sha256"]
        for label in was["inputs"]
    )
