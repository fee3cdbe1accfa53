"""Runs beside the paper: claims judged, tables, pictures; as a page, Markdown and CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import figures, run_page
from benchmarks.model_cards import write_cards
from benchmarks.paper.claims import CLAIMS, NOTES
from benchmarks.power import missing
from benchmarks.report.page import page, paper_says
from benchmarks.runs import Runs
from benchmarks.tables import (
    COLUMNS,
    SCORE_TABLES,
    TABLES,
    contamination_rows,
    count,
    csv_rows,
    data_rows,
    filter_rows,
    loss_rows,
    number,
    rows,
)
from benchmarks.verdicts import Result, judge
from benchmarks.wording import allowed, digits, label, method, needed, says, summary
from solar_repro.safety import escapes
from solar_repro.safety.escapes import escape_code, escape_csv_row
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
    """What a reader must know before reading a number."""
    limits = scale.evaluate.limits
    items = ", ".join(f"{task} {limits.get(task, 'all')}" for task in COLUMNS[1:])
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
    """The whole comparison as Markdown."""
    parts = [f"# SOLAR 10.7B at scale `{escape_code(runs.scale)}`, beside the paper", summary(results)]
    parts += [escapes.escape_markdown(text), "## The paper's claims", method(), claims_markdown(results)]
    if lacking := lacks_markdown(results):
        parts += ["### What would decide the undecided parts", lacking]
    if losses := loss_rows(runs):
        parts += [
            "## Depth up-scaling (Sec. 2): held-out loss",
            "| model | loss (nats per token) | against the base |\n|---|---|---|\n"
            + "\n".join(f"| {name} | {loss:.4f} | {_signed(change, 4)} |" for name, loss, change in losses),
            "![recovery](recovery.png)",
        ]
    for table in SCORE_TABLES:
        parts += [f"## Table {table}: {TABLES[f'table_{table}']['caption']}"]
        parts += [NOTES[table]] if table in NOTES else []
        parts += [table_markdown(table, runs)]
    parts += [
        f"## Table 9: {TABLES['table_9']['caption']}",
        "| task | paper | ours | 95 % interval | Min-K % AUROC | Min-K %++ AUROC "
        "| positive control | its Min-K %++ AUROC |\n"
        "|---|---|---|---|---|---|---|---|\n"
        + "\n".join(
            f"| {row.task} | {number(row.paper)} | {number(row.ours)} "
            f"| {number(row.low)} … {number(row.high)} | {number(row.min_k)} | {number(row.min_k_pp)} "
            f"| {number(row.control)} | {number(row.control_min_k_pp)} |"
            for row in contamination_rows(runs)
        ),
        f"## Table 1: {TABLES['table_1']['caption']}",
        "| set | the paper's limit | ours |\n|---|---|---|\n"
        + "\n".join(f"| {title} | {most:,} | {count(used)} |" for title, most, used in data_rows(runs)),
        f"## Table 8: {TABLES['table_8']['caption']}",
        "| task | rows removed in our runs |\n|---|---|\n"
        + "\n".join(f"| {task} | {count(removed)} |" for task, removed in filter_rows(runs)),
    ]
    return "\n\n".join(parts) + "\n"


def claims_markdown(results: Sequence[Result]) -> str:
    """A line for each claim: its statement, its verdict, and what the paper's own tables say."""
    lines = ["| claim | | verdict | the paper's own tables |", "|---|---|---|---|"]
    for result in results:
        claim = result.claim
        says = f"{paper_says(result)} {claim.contradicted}".strip()
        lines.append(
            f"| {claim.name} ({claim.section}) | {claim.statement} | **{result.verdict}** | {says} |"
        )
    return "\n".join(lines)


def lacks_markdown(results: Sequence[Result]) -> str:
    """A line for each undecided part: the smallest effect told and what would decide it; empty for none."""
    lines = []
    for result in results:
        for found, lack in zip(result.parts, missing(result), strict=True):
            if lack is not None:
                places = digits(found.part.figure.column)
                lines.append(
                    f"| {result.claim.name} | {says(found.part)} | {_signed(found.paper, places)} "
                    f"| {_signed(found.difference.value, places)} | {allowed(found.part)} "
                    f"| {number(lack.smallest, places)} | {needed(lack)} |"
                )
    head = [
        "| claim | part | paper Δ | our Δ | boundary | smallest effect told | would decide it |",
        "|---" * 7 + "|",
    ]
    return "\n".join([*head, *lines]) if lines else ""


def table_markdown(table: int, runs: Runs) -> str:
    """One score table as Markdown: each cell 'paper → ours ± stderr (delta)'."""
    lines = [
        f"| Table {table} | {' | '.join(COLUMNS)} | order by H6: paper / ours |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for row in rows(table, runs):
        cells = []
        for cell in row.cells.values():
            text = number(cell.paper)
            if cell.ours is not None:
                text += f" → **{number(cell.ours)}** ± {number(cell.stderr)} ({cell.delta:+.2f})"
            cells.append(text)
        order = f"{row.order_paper} / {row.order_ours}" if row.order_ours else "–"
        lines.append(f"| {row.title} | {' | '.join(cells)} | {order} |")
    return "\n".join(lines)


def claim_rows(results: Sequence[Result]) -> list[dict]:
    """A line for each part of each claim."""
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


def write_csv(file: Path, lines: Sequence[Mapping]) -> None:
    """Write rows with the keys of the first as header, texts as texts; an empty file for none."""
    with file.open("w", encoding="utf-8", newline="") as out:
        if lines:
            writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(escape_csv_row, lines))


def _signed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"
