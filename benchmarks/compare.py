"""Compares runs with the paper: judges claims, and writes tables and pictures as HTML, Markdown and CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, run_page
from benchmarks.model_cards import write_cards
from benchmarks.paper.claims import CLAIMS, NOTES
from benchmarks.power import missing
from benchmarks.report import text_tables
from benchmarks.report.page import page, paper_says
from benchmarks.runs import Runs
from benchmarks.tables import SCORE_COLUMNS, SCORE_TABLES, TABLES, Cell, csv_rows, number, rows, signed
from benchmarks.text_table import text_table
from benchmarks.verdicts import Result, judge
from benchmarks.wording import label, method, summary
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.safety.escapes import escape_code, escape_csv_row, escape_markdown
from solar_repro.scales.settings import Scale
from solar_repro.store.publish import replace_folder
from solar_repro.tracking.commands import mlflow_command
from solar_repro.tracking.tracker import Tracker

PAGE = "compare.html"


def compare(
    runs: Runs,
    scale: Scale,
    tracker: Tracker,
    out: Path,
    overrides: Mapping[str, str],
    parent: str | None = None,
) -> tuple[Path, list[Result]]:
    """Write page, Markdown, CSV, pictures and model cards to `out`, and log them to a run.

    That is the run `parent`, else the tracker's own. Returns the page's path and the claims' results.
    """
    results = judge(CLAIMS, runs, TABLES)
    text = caveat(scale, runs)
    with replace_folder(out) as work:
        drawn = figures.draw_all(runs, work)
        (work / "compare.md").write_text(markdown(runs, results, text), encoding="utf-8")
        write_csv(work / "scores.csv", list(csv_rows(runs)))
        write_csv(work / "claims.csv", claim_rows(results))
        write_cards(runs, scale, work / "model_cards")
        (work / PAGE).write_text(page(runs, results, drawn, text, overrides), encoding="utf-8")
        tracker.log_folder(parent or tracker.run_id, work, "report")
        made_by = mlflow_command("main", runs.scale, overrides, seeds=len(runs.seeds))
        run_page.tell(runs, results, text, made_by, work, tracker, parent or tracker.run_id)
    return out / PAGE, results


def caveat(scale: Scale, runs: Runs) -> str:
    """Say what a reader must know before reading a number."""
    limits = {str(task): most for task, most in scale.evaluate.limits.items()}
    items = ", ".join(f"{task} {limits.get(task, 'all')}" for task in H6_NAMES)
    seeds = len(runs.seeds)
    errors = (
        f"Intervals are over items and {seeds} seeds of training."
        if seeds > 1
        else "Intervals are over items only, because one seed of training was run."
    )
    return (
        f"Scale '{runs.scale}': {scale.description.strip()} Its scores cannot be compared in size with those "
        f"of the paper's 10.7B models; only the order of the variants can be compared. "
        f"Items per task (MMLU: per subject): {items}. {errors}"
    )


def markdown(runs: Runs, results: Sequence[Result], text: str) -> str:
    """Return the whole comparison as Markdown."""
    parts = [f"# SOLAR 10.7B at scale `{escape_code(runs.scale)}`, beside the paper", summary(results)]
    parts += [escape_markdown(text), "## The paper's claims", method(), claims_markdown(results)]
    if (undecided := text_tables.undecided_parts(results)).rows:
        parts += ["### What would decide the undecided parts", undecided.markdown()]
    if (losses := text_tables.losses(runs)).rows:
        parts += [
            "## Depth up-scaling (Sec. 2): held-out loss",
            losses.markdown(),
            "![recovery](recovery.png)",
        ]
    for table in SCORE_TABLES:
        parts += [f"## Table {table}: {TABLES[f'table_{table}']['caption']}"]
        parts += [NOTES[table]] if table in NOTES else []
        parts += [table_markdown(table, runs)]
    for place, built in (
        (9, text_tables.contamination(runs)),
        (1, text_tables.data_sets(runs)),
        (8, text_tables.filtered(runs)),
    ):
        parts += [f"## Table {place}: {TABLES[f'table_{place}']['caption']}", built.markdown()]
    return "\n\n".join(parts) + "\n"


def claims_markdown(results: Sequence[Result]) -> str:
    """Return a line for each claim: its statement, its verdict, and what the paper's own tables say."""
    rows = []
    for result in results:
        claim = result.claim
        name, verdict = f"{claim.name} ({claim.section})", f"**{result.verdict}**"
        printed = f"{paper_says(result)} {claim.contradicted}".strip()
        rows.append((name, claim.statement, verdict, claim.judged_at, printed))
    head = ("claim", "", "verdict", "to be judged at scale", "the paper's own tables")
    return text_table(head, rows).markdown()


def table_markdown(table: int, runs: Runs) -> str:
    """Return one score table as Markdown: each cell is 'paper → ours ± stderr (delta)'."""
    found = []
    for row in rows(table, runs):
        order = f"{row.order_paper} / {row.order_ours}" if row.order_ours else "–"
        found.append((row.title, *map(_cell_markdown, row.cells.values()), order))
    return text_table((f"Table {table}", *SCORE_COLUMNS, "order by H6: paper / ours"), found).markdown()


def _cell_markdown(cell: Cell) -> str:
    if cell.ours is None:
        return number(cell.paper)
    return f"{number(cell.paper)} → **{number(cell.ours)}** ± {number(cell.stderr)} ({signed(cell.delta)})"


def claim_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a CSV row for each part of each claim."""
    found = []
    for result in results:
        for part, lack in zip(result.parts, missing(result), strict=True):
            difference = part.difference
            low, high = difference.interval() if difference else (None, None)
            found.append(
                {
                    "claim": result.claim.name,
                    "figure": label(part.part.figure),
                    "expected": part.part.expected,
                    "other": label(part.part.other),
                    "paper_difference": part.paper,
                    "difference": difference.value if difference else None,
                    "stderr": difference.stderr if difference else None,
                    "low": low,
                    "high": high,
                    "mcnemar_p": difference.mcnemar_p if difference else None,
                    "items": difference.items if difference else None,
                    "seeds": result.seeds,
                    "smallest_effect": lack.smallest if lack else None,
                    "items_to_decide": lack.items if lack else None,
                    "seeds_to_decide": lack.seeds if lack else None,
                    "part_verdict": part.verdict,
                    "verdict": result.verdict,
                }
            )
    return found


def write_csv(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the keys of the first row, no text as a formula. No rows give an empty file."""
    with file.open("w", encoding="utf-8", newline="") as out:
        if lines:
            writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(escape_csv_row, lines))
