"""Studies beyond the paper's tables: depth, seam, seeds. Each ends in a table, a picture and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import figures, study_figures
from benchmarks.compare import write_csv
from benchmarks.drawing import write
from benchmarks.paper.claims import CLAIMS, Claim, Figure, Part
from benchmarks.power import smallest_effect
from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import SCORE_COLUMNS, TABLES, count, number, score
from benchmarks.text_table import text_table
from benchmarks.verdicts import judge
from solar_repro.errors import UserError
from solar_repro.paper import variants
from solar_repro.store.publish import replace_folder
from solar_repro.tracking.tracker import Tracker

SEAM = (
    "solar",
    "repeat_continued",
    "interleave_continued",
    "block_expansion_continued",
    "base_continued",
    "scratch_continued",
)
"""The ways to a deeper model on equal tokens, and two controls: no more depth, and no base."""
SEEDS = ("sft_v1", "sft_v2", "sft_v3", "sft_v4", "sft_v3_v4")


@dataclass(frozen=True)
class Study:
    """Holds what a study found: the rows of its table, the bars of its picture, its verdict."""

    name: str
    rows: list[dict[str, Any]]
    bars: Mapping[str, tuple[float, float]]
    axis: str
    verdict: str


def depth_variants(layers: int, m: int) -> tuple[str, ...]:
    """Name the continued models of a sweep over m, from 0 (layers repeated) to the most that n layers allow.

    `m` is the scale's own, whose model is `solar`.
    """
    swept = range(1, (layers + 1) // 2)
    return ("repeat_continued", *("solar" if value == m else f"solar_m{value}" for value in swept))


def _refuse_gaps(names: Sequence[str], runs: Runs, figures: Sequence[str]) -> None:
    missing = [name for name in names if not all(runs.metric(EVALUATE, name, one) for one in figures)]
    if missing:
        raise UserError(f"study: there is no evaluation of {', '.join(missing)} that can be used")


def up_scaling_study(name: str, names: Sequence[str], runs: Runs) -> Study:
    """Compare held-out loss before and after training on equal tokens, and H6, by paired tests."""
    _refuse_gaps(names, runs, ["H6", "held_out_loss"])
    rows: list[dict[str, Any]] = []
    for variant in names:
        parent = variants.variant(variant).parents[0]
        models = list(runs.of(MODEL, variant).values())
        recovery = runs.history(models[0], "recovery/held_out_loss") if models else []
        if not recovery:
            raise UserError(f"study: there is no run of {variant} whose recovery can be used")
        rows.append(
            {
                "variant": variant,
                "made_from": parent,
                "parameters": count(int(runs.mean(MODEL, parent, "parameters") or 0)),
                "loss_before": recovery[0][1],
                "loss_after": runs.mean(EVALUATE, variant, "held_out_loss"),
                "H6": score(runs, variant, "H6")[0],
                "H6_stderr": score(runs, variant, "H6")[1],
            }
        )
    rows.sort(key=lambda row: row["loss_after"])
    best = rows[0]["variant"]
    bars, told = {best: (0.0, 0.0)}, []
    for row in rows[1:]:
        claim = Claim("", "", "", (Part(Figure(row["variant"], "loss"), "more", Figure(best, "loss")),))
        (result,) = judge([claim], runs, TABLES)
        found = result.parts[0].difference
        if found is None:
            told.append(f"{row['variant']}: not compared")
            continue
        low, high = found.interval()
        bars[row["variant"]] = (found.value, (high - low) / 2)
        worse = "worse" if low > 0 else f"not told apart (smallest told: {smallest_effect(found):.4f})"
        told.append(f"{row['variant']} {found.value:+.4f} ({low:+.4f} … {high:+.4f}): {worse}")
    verdict = f"lowest held-out loss: {best} ({rows[0]['loss_after']:.4f}). Against it: {'; '.join(told)}."
    return Study(
        name, rows, bars, f"held-out loss above that of {best} (nats per token, 95 % interval)", verdict
    )


def seeds_study(names: Sequence[str], runs: Runs) -> Study:
    """Give the mean and the spread over seeds of every column, and judge the claims on these variants."""
    _refuse_gaps(names, runs, SCORE_COLUMNS)
    rows: list[dict[str, Any]] = []
    for variant in names:
        for column in SCORE_COLUMNS:
            values = list(runs.metric(EVALUATE, variant, column).values())
            errors = list(runs.metric(EVALUATE, variant, f"{column}_stderr").values())
            rows.append(
                {
                    "variant": variant,
                    "column": column,
                    "mean": fmean(values),
                    "deviation_over_seeds": stdev(values) if len(values) > 1 else 0.0,
                    "stderr_of_items": fmean(errors) if errors else None,
                    "seeds": len(values),
                }
            )
    of_h6 = {row["variant"]: row for row in rows if row["column"] == "H6"}
    bars = {name: (row["mean"], row["deviation_over_seeds"]) for name, row in of_h6.items()}
    decided = [claim for claim in CLAIMS if set(claim.variants) <= set(names)]
    told = [f"{result.claim.name} {result.verdict}" for result in judge(decided, runs, TABLES)]
    largest = max(row["deviation_over_seeds"] for row in of_h6.values())
    verdict = (
        f"H6 varies over {len(runs.seeds)} seeds by a standard deviation of at most {largest:.2f} points. "
        f"Claims on these variants: {', '.join(told) or 'none'}."
    )
    return Study("seeds", rows, bars, "H6 (percent, ± one standard deviation over seeds)", verdict)


def finish(study: Study, scale: str, tracker: Tracker, out: Path, runs: Runs | None = None) -> str:
    """Write the study's table, pictures and verdict to `out`, log them, and return them as text.

    Recovery is drawn from `runs` of continued pretraining.
    """
    text = f"# Study {study.name} at scale {scale}\n\n{markdown(study)}\n\n{study.verdict}\n"
    page = f"{text}\n![{study.name}]({study.name}.png)\n"
    with replace_folder(out) as work:
        if study.name == "untrained":
            write(work / study.name, study_figures.layer_maps, study.rows)
        else:
            write(work / study.name, study_figures.bars, study.bars, study.axis)
        if runs is not None and study.name != "seeds":
            write(work / "recovery", figures.recovery, runs)
        write_csv(work / f"{study.name}.csv", study.rows)
        (work / f"{study.name}.md").write_text(page, encoding="utf-8")
        tracker.log_folder(tracker.run_id, work, "study")
    return text


def markdown(study: Study) -> str:
    """Return the study's table as Markdown."""
    rows = [
        [
            number(value, 4 if "loss" in name else 2) if isinstance(value, float) else str(value)
            for name, value in row.items()
        ]
        for row in study.rows
    ]
    return text_table([name.replace("_", " ") for name in study.rows[0]], rows).markdown()
