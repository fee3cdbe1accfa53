"""The regression gate: a scale's runs against its stored baseline; what moved too far is named."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare import COLUMNS, collect
from solar_repro.errors import UserError
from solar_repro.plan import Plan
from solar_repro.provenance import versions
from solar_repro.tracking import Tracker
from solar_repro.variants import MAIN

FOLDER = Path(__file__).parent / "baselines"
STANDARD_ERRORS = 2.0
"""A score may move by this many standard errors of the difference between two runs on independent items."""
LOSS_TOLERANCE = 0.02
"""A held-out loss may move by this share of itself: other machines round differently."""


def measure(plan: Plan, tracker: Tracker) -> dict[str, dict[str, float]]:
    """Scores, standard errors and held-out loss of every variant of `main`; one missing: UserError."""
    runs = collect(plan, tracker, MAIN)
    missing = [name for name in MAIN if name not in runs.scores]
    if missing:
        raise UserError(
            f"scale {plan.scale.name}: no finished evaluation of {', '.join(missing)}; "
            f"run: mlflow run . -P scale={plan.scale.name}"
        )
    wanted = [name for column in COLUMNS for name in (column, f"{column}_stderr")] + ["held_out_loss"]
    return {
        variant: {name: runs.scores[variant][name] for name in wanted if name in runs.scores[variant]}
        for variant in MAIN
    }


def update(plan: Plan, tracker: Tracker) -> Path:
    """Write the scale's baseline from its runs, with what made it; the file's path."""
    content = {
        "command": f"mlflow run . -e regression -P scale={plan.scale.name} -P update=true",
        "seed": plan.scale.seed,
        "versions": versions(),
        "variants": measure(plan, tracker),
    }
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{plan.scale.name}.json"
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def read_baseline(scale: str) -> dict[str, dict[str, float]]:
    file = FOLDER / f"{scale}.json"
    if not file.is_file():
        raise UserError(
            f"no baseline {file.name}; make it: mlflow run . -e regression -P scale={scale} -P update=true"
        )
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content["variants"]


def moved(baseline: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> Iterator[str]:
    """One line for each figure that is worse than the baseline allows."""
    for variant, before in baseline.items():
        after = now[variant]
        for column in COLUMNS:
            if column not in before:
                continue
            spread = math.hypot(before.get(f"{column}_stderr", 0.0), after.get(f"{column}_stderr", 0.0))
            if after[column] < before[column] - STANDARD_ERRORS * spread:
                yield (
                    f"{variant} {column}: {before[column]:.2f} → {after[column]:.2f}, "
                    f"more than {STANDARD_ERRORS:g} × {spread:.2f} lower"
                )
        if after["held_out_loss"] > before["held_out_loss"] * (1 + LOSS_TOLERANCE):
            yield (
                f"{variant} held_out_loss: {before['held_out_loss']:.4f} → {after['held_out_loss']:.4f}, "
                f"more than {LOSS_TOLERANCE:.0%} higher"
            )
