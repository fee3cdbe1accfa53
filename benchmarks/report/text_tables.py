"""The report's tables as texts, each built once for the page and for the Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.power import missing
from benchmarks.runs import Runs
from benchmarks.tables import contamination_rows, count, data_rows, filter_rows, loss_rows, number, signed
from benchmarks.text_table import TextTable, text_table
from benchmarks.verdicts import Result, Verdict
from benchmarks.wording import allowed, digits, needed, says


def losses(runs: Runs) -> TextTable:
    """Held-out losses of the models of Sec. 2, in nats per token; no rows where nothing was scored."""
    rows = [(name, number(loss, 4), signed(change, 4)) for name, loss, change in loss_rows(runs)]
    return text_table(("model", "loss (nats per token)", "against the base"), rows)


def contamination(runs: Runs) -> TextTable:
    """Table 9, with Min-K % and the positive control beside it."""
    head = ("task", "paper", "ours", "95 % interval", "Min-K % AUROC", "Min-K %++ AUROC")
    rows = [
        (
            row.task,
            number(row.paper),
            number(row.ours),
            "–" if row.low is None else f"{number(row.low)} … {number(row.high)}",
            number(row.min_k),
            number(row.min_k_pp),
            number(row.control),
            number(row.control_min_k_pp),
        )
        for row in contamination_rows(runs)
    ]
    return text_table((*head, "positive\ncontrol", "its Min-K %++\nAUROC"), rows)


def data_sets(runs: Runs) -> TextTable:
    """Table 1: how many samples of each set the paper and our runs used at most."""
    rows = [(title, count(most), count(used)) for title, most, used in data_rows(runs)]
    return text_table(("set", "the paper's limit", "ours"), rows)


def filtered(runs: Runs) -> TextTable:
    """Table 8: how many rows of OpenOrca the filter removed, by task."""
    rows = [(task, count(removed)) for task, removed in filter_rows(runs)]
    return text_table(("task", "rows removed in our runs"), rows)


@dataclass(frozen=True)
class PartRow:
    """One part of a claim in words and figures; "–" stands for what there is not."""

    says: str
    paper: str
    ours: str
    interval: str
    mcnemar_p: str
    items: str
    boundary: str
    smallest: str
    """The smallest effect told, where the part is undecided."""
    decides: str
    """What would decide it, where the part is undecided."""
    verdict: Verdict


def part_rows(result: Result) -> list[PartRow]:
    """Return a row for each part of a claim."""
    rows = []
    for found, lack in zip(result.parts, missing(result), strict=True):
        places, difference = digits(found.part.figure.column), found.difference
        low, high = difference.interval() if difference else (None, None)
        rows.append(
            PartRow(
                says=says(found.part),
                paper=signed(found.paper, 2),
                ours=signed(difference.value if difference else None, places),
                interval=f"{signed(low, places)} … {signed(high, places)}" if difference else "–",
                mcnemar_p=number(difference.mcnemar_p if difference else None, 3),
                items=count(difference.items if difference else None),
                boundary=allowed(found.part),
                smallest=number(lack.smallest, places) if lack else "–",
                decides=needed(lack) if lack else "–",
                verdict=found.verdict,
            )
        )
    return rows


def undecided_parts(results: Sequence[Result]) -> TextTable:
    """Every undecided part of every claim, with what would decide it."""
    head = ("claim", "part", "paper Δ", "our Δ", "boundary", "smallest effect told", "would decide it")
    rows = [
        (result.claim.name, row.says, row.paper, row.ours, row.boundary, row.smallest, row.decides)
        for result in results
        for row in part_rows(result)
        if row.verdict == "undecided"
    ]
    return text_table(head, rows)
