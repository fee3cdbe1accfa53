"""Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3): rephrased MATH problems, never GSM8K."""

import json
from pathlib import Path
from typing import Literal

from solar_repro.data.locate import locate
from solar_repro.data.math import math_problems, synthesise, write_math_sets
from solar_repro.evaluation.columns import column_named
from solar_repro.stages import NOTES, Log
from solar_repro.variants import DATASETS, MATH_SEEDS

METAMATH = DATASETS["synth_math_instruct"].hub_id
GSM8K = column_named("GSM8K").hub_id


def run(
    out: Path,
    log: Log,
    *,
    method: Literal["metamath", "rule"],
    seed_split: str,
    maximum_instruct: int,
    maximum_alignment: int,
    seed: int,
    mirror: Path | None,
) -> None:
    """Write `instruct` and `alignment` in hub layout to `out`; seeds are `seed_split` of MATH."""
    problems = math_problems(locate(MATH_SEEDS, mirror), seed_split)
    metamath = locate(METAMATH, mirror) if method == "metamath" else None
    rows, report = synthesise(method, problems, metamath=metamath, gsm8k=locate(GSM8K, mirror), seed=seed)
    write_math_sets(
        out,
        rows,
        problems,
        maximum_instruct=maximum_instruct,
        maximum_alignment=maximum_alignment,
        seed=seed,
        report=report,
    )
    report["seed_split"] = seed_split
    (out / NOTES).mkdir(exist_ok=True)
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
    (out / NOTES / "data.json").write_text(text + "\n", encoding="utf-8")
    log({f"data/{name}": value for name, value in report.items() if isinstance(value, int)})
