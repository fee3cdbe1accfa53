"""Writes what `main` and `compare` print last: H6 beside the paper's, the verdicts, where to read on."""

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.runs import Runs
from benchmarks.tables import SCORE_TABLES, Cell, number, rows
from benchmarks.verdicts import Result, Verdict
from benchmarks.wording import decider
from solar_repro.paper.variants import PAPER
from solar_repro.tracking.server import ui_command

KINDS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "undecided", "no runs")
WHY = {"undecided": "the runs are too few or too small to tell", "no runs": "a model was not scored"}
_NARROWEST, _WIDEST = 64, 100


def closing_text(runs: Runs, results: Sequence[Result], report: Path, *more: str) -> str:
    """Return the whole closing block. The lines of `more` stand before the report's path."""
    width = max(_NARROWEST, min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST))
    links = [*more, f"report: {report}", f"UI: {ui_command()}"]
    return "\n" + "\n\n".join([h6_text(runs), verdicts_text(results, runs.scale, width), "\n".join(links)])


def h6_text(runs: Runs) -> str:
    """Return H6 of each of the paper's models: ours ± standard error, and what the paper prints."""
    found: dict[str, tuple[str, Cell]] = {}
    for table in SCORE_TABLES:
        for row in rows(table, runs):
            if row.variant:
                found.setdefault(row.variant, (row.title, row.cells["H6"]))
    labels = max(map(len, found))
    titles = max(len(title) for title, _ in found.values())
    lines = [
        f"H6, the mean score of the six benchmarks in percent, at scale {runs.scale}",
        f"  {'variant':<{labels}}  {'in the paper':<{titles}}  {'ours':>12}  {'paper':>6}",
    ]
    for variant in PAPER:
        if variant in found:
            title, cell = found[variant]
            ours = "–" if cell.ours is None else f"{cell.ours:.1f} ± {number(cell.stderr, 1)}"
            lines.append(f"  {variant:<{labels}}  {title:<{titles}}  {ours:>12}  {number(cell.paper, 1):>6}")
    return "\n".join(lines)


def verdicts_text(results: Sequence[Result], scale: str, width: int) -> str:
    """Return the claims by verdict: the sentence of each decided claim, the names of the others."""
    lines = [f"The paper's {len(results)} claims, judged by these runs"]
    for kind in KINDS:
        claims = [result.claim for result in results if result.verdict == kind]
        if not claims:
            continue
        if kind in WHY:
            lines.append(f"  {kind:<14} {len(claims):>3}  {WHY[kind]}")
            lines += _wrapped(" " * 4, 4, ", ".join(claim.name for claim in claims), width)
            continue
        lines.append(f"  {kind:<14} {len(claims):>3}")
        for claim in claims:
            elsewhere = decider(claim, scale)
            text = f"{claim.statement} ({elsewhere})" if elsewhere else claim.statement
            lines += _wrapped(f"    {claim.name:<3} ", 8, text, width)
    return "\n".join(lines)


def _wrapped(head: str, indent: int, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * indent)
