"""Studies beyond the paper's tables: depth, seam, seeds. Each ends in a table, a picture and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures
from benchmarks.compare import write_csv
from benchmarks.paper.claims import CLAIMS, Claim, Figure, Part
from benchmarks.power import smallest_effect
from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import COLUMNS, TABLES, count, number, score
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
"""Ways to a deeper model on equal tokens, and what the tokens bring without more depth, or the base."""
SEEDS = ("sft_v1", "sft_v2", "sft_v3", "sft_v4", "sft_v3_v4")


@dataclass(frozen=True)
class Study:
    """What a study found: rows of its table, its picture's bars, its verdict."""

    name: str
    rows: list[dict]
    bars: Mapping[str, tuple[float, float]]
    axis: str
    verdict: str


def depth_variants(layers: int, m: int) -> tuple[str, ...]:
    """The continued models of a sweep over m, from 0 (layers repeated) to the most that n layers allow.

    `m` is the scale's own, whose model is `solar`.
    """
    swept = range(1, (layers + 1) // 2)
    return ("repeat_continued", *("solar" if value == m else f"solar_m{value}" for value in swept))


def _refuse_gaps(names: Sequence[str], runs: Runs, figures: Sequence[str]) -> None:
    missing = [name for name in names if not all(runs.metric(EVALUATE, name, one) for one in figures)]
    if missing:
        raise UserError(f"study: there is no evaluation of {', '.join(missing)} that can be used")


def up_scaling_study(name: str, names: Sequence[str], runs: Runs) -> Study:
    """Held-out loss before and after continued pretraining on equal tokens, and H6; paired tests."""
    _refuse_gaps(names, runs, ["H6", "held_out_loss"])
    rows = []
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
    """Mean, and spread over seeds, of every column; the claims that these variants decide."""
    _refuse_gaps(names, runs, COLUMNS)
    rows = []
    for variant in names:
        for column in COLUMNS:
            values = list(runs.metric(EVALUATE, variant, column).values())
            mean = sum(values) / len(values)
            spread = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
            errors = list(runs.metric(EVALUATE, variant, f"{column}_stderr").values())
            rows.append(
                {
                    "variant": variant,
                    "column": column,
                    "mean": mean,
                    "deviation_over_seeds": spread,
                    "stderr_of_items": sum(errors) / len(errors) if errors else None,
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
            figures.write(work / study.name, figures.layer_maps, study.rows)
        else:
            figures.write(work / study.name, figures.bars, study.bars, study.axis)
        if runs is not None and study.name != "seeds":
            figures.write(work / "recovery", figures.recovery, runs)
        write_csv(work / f"{study.name}.csv", study.rows)
        (work / f"{study.name}.md").write_text(page, encoding="utf-8")
        tracker.log_folder(tracker.run_id, work, "study")
    return text


def markdown(study: Study) -> str:
    """The study's table as Markdown."""
    names = list(study.rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    for row in study.rows:
        cells = [
            number(value, 4 if "loss" in name else 2) if isinstance(value, float) else str(value)
            for name, value in row.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
