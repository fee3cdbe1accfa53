"""Judges claims: on our runs by paired tests over items and seeds, on the paper's tables by points alone.

A claim is reproduced if the 95 % interval of every part lies where the claim says, a small margin included
for "not less", "not more" and "same". It is not reproduced if the interval of any part lies wholly on the
wrong side of zero, or of the margin for "same" (there the intervals are widened for the number of parts,
after Bonferroni). It is undecided otherwise: the runs are too few or too small to tell.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.paper.claims import LOSS_MARGIN, MARGIN, Claim, Expected, Figure, Part
from benchmarks.runs import Runs
from solar_repro.errors import UserError
from solar_repro.h6.compare_items import Difference, difference, mean_difference, share_difference
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.paper.variants import PAPER
from solar_repro.safety.redact import one_line

Verdict = Literal["reproduced", "not reproduced", "undecided", "no runs"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PartResult:
    """Holds what was found for a part; `difference` is the figure minus the other."""

    part: Part
    paper: float | None
    """The same difference in the paper's tables, or None where one of the figures is not printed."""
    difference: Difference | None
    """None where a run is missing."""
    verdict: Verdict


@dataclass(frozen=True)
class Result:
    claim: Claim
    parts: tuple[PartResult, ...]
    verdict: Verdict
    seeds: int


def judge(claims: Sequence[Claim], runs: Runs, tables: dict[str, Any]) -> list[Result]:
    """Give every claim its verdict on our runs, with the paper's differences beside ours."""
    results = []
    for claim in claims:
        seeds = [
            seed
            for seed in runs.seeds
            if all(seed in runs.of(kind, name) for kind in _kinds(claim) for name in claim.variants)
        ]
        parts = []
        for part in claim.parts:
            found = _difference(part, runs, seeds) if seeds else None
            verdict = judge_part(part, found, len(claim.parts)) if found else "no runs"
            parts.append(PartResult(part, paper_difference(part, tables), found, verdict))
        results.append(Result(claim, tuple(parts), together([part.verdict for part in parts]), len(seeds)))
    return results


def _kinds(claim: Claim) -> set[str]:
    columns = {part.figure.column for part in claim.parts}
    return {"contamination" if column.startswith("contamination/") else "evaluate" for column in columns}


def _difference(part: Part, runs: Runs, seeds: Sequence[str]) -> Difference | None:
    column = part.figure.column
    if column == "H6":
        parts = [
            _difference(
                Part(Figure(part.figure.variant, name), part.expected, Figure(part.other.variant, name)),
                runs,
                seeds,
            )
            for name in H6_NAMES
        ]
        return mean_difference(parts) if all(parts) else None
    ours = runs.items(part.figure.variant, column, seeds)
    other = part.other
    theirs = runs.items(other.variant, other.column, seeds) if isinstance(other, Figure) else other
    if ours is None or theirs is None:
        return None
    if isinstance(other, Figure) and other.column == column:
        try:
            return difference(theirs, ours)
        except UserError as error:
            line = f"{part.figure.variant} and {other.variant} on {column} are not compared: {error}"
            print(one_line(line), file=sys.stderr, flush=True)
            return None
    return share_difference(theirs, ours)


def margin(column: str) -> float:
    """Return the margin of a column: differences up to it count as none."""
    return LOSS_MARGIN if column == "loss" else MARGIN


def judge_part(part: Part, found: Difference, parts: int) -> Verdict:
    """Give the verdict on one part of a claim that has `parts` parts."""
    small = margin(part.figure.column)
    if _contradicts(part.expected, *found.interval(1 - (1 - CONFIDENCE) / parts), small):
        return "not reproduced"
    return "reproduced" if _supports(part.expected, *found.interval(CONFIDENCE), small) else "undecided"


def _supports(expected: Expected, low: float, high: float, small: float) -> bool:
    """Tell whether the whole interval lies where the claim says; "not less" allows for a small difference."""
    return {
        "more": low > 0,
        "less": high < 0,
        "not less": low > -small,
        "not more": high < small,
        "same": -small < low and high < small,
    }[expected]


def _contradicts(expected: Expected, low: float, high: float, small: float) -> bool:
    """Tell whether the whole interval lies on the wrong side: a small loss that is certain is a loss."""
    return {
        "more": high <= 0,
        "less": low >= 0,
        "not less": high < 0,
        "not more": low > 0,
        "same": low > small or high < -small,
    }[expected]


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return a claim's verdict, given the verdicts on its parts."""
    if "not reproduced" in verdicts:
        return "not reproduced"
    if all(verdict == "no runs" for verdict in verdicts):
        return "no runs"
    return "reproduced" if all(verdict == "reproduced" for verdict in verdicts) else "undecided"


def paper_difference(part: Part, tables: dict[str, Any]) -> float | None:
    """Return the part's difference in the paper's tables, or None where one of its figures is not printed."""
    ours = printed(part.figure, tables)
    theirs = printed(part.other, tables) if isinstance(part.other, Figure) else part.other
    return None if ours is None or theirs is None else ours - theirs


def printed(figure: Figure, tables: dict[str, Any]) -> float | None:
    """Return a figure of the paper in percent, or None; of several tables the last, an ablation's, counts."""
    if figure.column.startswith("contamination/"):
        share = tables["table_9"]["rows"][0][figure.column.removeprefix("contamination/")]
        return None if share is None else 100 * share
    where = PAPER[figure.variant].rows if figure.variant in PAPER else {}
    if not where or figure.column == "loss":
        return None
    table = max(where)
    (row,) = [row for row in tables[f"table_{table}"]["rows"] if row["model"] == where[table]]
    return row["scores"][figure.column]


def paper_holds(claim: Claim, tables: dict[str, Any]) -> bool | None:
    """Tell whether the paper's own points agree with the claim; None where it prints none of the figures.

    Points have no interval: "not less" is taken at its word, and "same" is within the margin.
    """
    holds: list[bool] = []
    check: Callable[[Expected, float, float, float], bool]
    for part in claim.parts:
        found = paper_difference(part, tables)
        if found is not None:
            check = _supports if part.expected == "same" else _not_contradicts
            holds.append(check(part.expected, found, found, margin(part.figure.column)))
    return all(holds) if holds else None


def _not_contradicts(expected: Expected, low: float, high: float, small: float) -> bool:
    return not _contradicts(expected, low, high, small)
