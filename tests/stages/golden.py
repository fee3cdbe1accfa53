"""Results of every stage on small inputs, as the versions of the stages stand for them.

`python -m tests.stages.golden` writes them down anew, after a version was raised.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from solar_repro.microworld import trained_base
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import result_digest
from solar_repro.plan.step import Step, ordered
from solar_repro.scales.load import load_scale
from solar_repro.store.manifest import write_manifest
from tests.steps import run_step

FILE = Path(__file__).with_name("golden.json")
BYTES = ("microworld", "base", "upscale", "synth_math")
"""Stages whose results are the same bytes on every machine."""
UNSTEADY = ("tokens_per_second", "neighbour", "accuracies")
"""Metrics that tell of the machine, are drawn by a model, or count the signs of rounding errors."""
SMALL = {
    **{f"{section}.precision": "float32" for section in ("continue_pretrain", "sft", "dpo", "evaluate")},
    **{f"{section}.max_length": "96" for section in ("continue_pretrain", "sft", "dpo")},
    **{f"{section}.max_steps": "2" for section in ("sft", "dpo")},
    "continue_pretrain.tokens": str(2 * 8 * 96),
    "continue_pretrain.held_out_evaluations": "1",
    "data.corpus.held_out_documents": "4",
    "contamination.control.precision": "float32",
    "contamination.control.max_steps": "2",
    "contamination.examples": "2",
    "contamination.neighbours": "2",
    "contamination.tasks": "[ARC]",
    "evaluate.limits": "{ARC: 2, HellaSwag: 2, MMLU: 1, TruthfulQA: 2, Winogrande: 2, GSM8K: 1}",
    "evaluate.subjects": "[anatomy]",
}


def results(work: Path) -> dict[str, dict[str, Any]]:
    """Stage → its version's results: a digest of bytes, or the last value of each metric. Made in `work`."""
    base = shutil.copytree(trained_base.FOLDER, work / "base-model")
    plan = Plan(load_scale("check", {"base.model": str(base), **SMALL}))
    targets = [
        *(
            plan.evaluation("upscaled"),
            plan.data("alpaca_gpt4"),
            plan.model("dpo_v1"),
            plan.model("sft_v3_v4"),
        ),
        *(plan.contamination("base", positive=True), plan.untrained()),
    ]
    found: dict[str, dict[str, Any]] = {}
    folders: dict[str, Path] = {}
    for step in ordered(targets):
        folders[step.key] = out = work / step.folder
        out.mkdir()
        metrics = _run(step, out, folders)
        if step.stage in BYTES:
            write_manifest(out)
            found[step.label] = {"digest": result_digest(out)}
        else:
            found[step.label] = metrics
    return found


def _run(step: Step, out: Path, folders: dict[str, Path]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    inputs = {role: folders[parent.key] for role, parent in step.inputs.items()}
    run_step(step, out, lambda figures, step=0: metrics.update(figures), inputs)
    return {
        name: float(value)
        for name, value in sorted(metrics.items())
        if not any(map(name.__contains__, UNSTEADY))
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(results(Path(folder)), indent=1) + "\n", encoding="utf-8")
