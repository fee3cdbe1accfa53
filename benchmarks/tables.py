"""Sets our figures beside the paper's tables, as rows for the report, CSV and the terminal."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from benchmarks.runs import CONTAMINATION, EVALUATE, MODEL, Runs
from benchmarks.verdicts import CONFIDENCE
from solar_repro.h6.compare_items import mean_difference, share_difference
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.paper.data_sets import DATASETS, FILTERED_TASKS
from solar_repro.paper.variants import CONTROLS, PAPER

TABLES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "paper" / "tables.json").read_text(encoding="utf-8")
)
SCORE_COLUMNS = ["H6", *H6_NAMES]
SCORE_TABLES = (2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class Cell:
    """A score in percent: what the paper prints, our mean over seeds, its error; None where there is none."""

    paper: float | None
    ours: float | None
    stderr: float | None
    interval: tuple[float, float] | None = None
    """The 95 % interval of ours. (The paper prints no error; its splits are whole.)"""

    @property
    def delta(self) -> float | None:
        return None if self.paper is None or self.ours is None else self.ours - self.paper


@dataclass(frozen=True)
class ScoreRow:
    """One model of a table; `order` is its place by H6 among the rows that we have."""

    title: str
    variant: str
    cells: dict[str, Cell]
    order_paper: int | None
    order_ours: int | None


def score(runs: Runs, variant: str, column: str) -> tuple[float | None, float | None]:
    """Return the mean over seeds and its standard error, over the items (which all seeds share) and seeds.

    Both are None where the variant was not scored, and the error alone where no run logged one.
    """
    values = list(runs.metric(EVALUATE, variant, column).values())
    if not values:
        return None, None
    mean = fmean(values)
    errors = list(runs.metric(EVALUATE, variant, f"{column}_stderr").values())
    if not errors:
        return mean, None
    of_items = fmean(error**2 for error in errors)
    of_seeds = variance(values) / len(values) if len(values) > 1 else 0.0
    return mean, math.sqrt(of_items + of_seeds)


def cell(runs: Runs, variant: str, column: str, paper: float | None = None) -> Cell:
    """Return our score of a variant with its errors, beside the paper's."""
    ours, stderr = score(runs, variant, column)
    return Cell(paper, ours, stderr, None if ours is None else interval(runs, variant, column))


def interval(runs: Runs, variant: str, column: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a score over items and seeds, cut to 0 … 100, or None without items."""
    seeds = tuple(runs.of(EVALUATE, variant))
    columns = H6_NAMES if column == "H6" else (column,)
    items = [found for name in columns if (found := runs.items(variant, name, seeds)) is not None]
    if len(items) < len(columns):
        return None
    low, high = mean_difference([share_difference(0.0, found) for found in items]).interval(CONFIDENCE)
    return max(0.0, low), min(100.0, high)


def rows(table: int, runs: Runs, ours: Mapping[str, str] | None = None) -> list[ScoreRow]:
    """Return the paper's rows of a score table (2 … 7), with our scores where a run has them.

    `ours` says which model stands beside which row; the variants of the paper, unless it is given.
    """
    if ours is None:
        ours = {variant.rows[table]: variant.name for variant in PAPER.values() if table in variant.rows}
    printed = {row["model"]: row["scores"] for row in TABLES[f"table_{table}"]["rows"]}
    measured = {
        title: found for title, name in ours.items() if (found := score(runs, name, "H6")[0]) is not None
    }
    paper = {title: printed[title]["H6"] for title in measured}
    return [
        ScoreRow(
            title=title,
            variant=ours.get(title, ""),
            cells={
                column: cell(runs, ours.get(title, ""), column, scores.get(column))
                for column in SCORE_COLUMNS
            },
            order_paper=_place(paper, title),
            order_ours=_place(measured, title),
        )
        for title, scores in printed.items()
    ]


def _place(scores: Mapping[str, float], model: str) -> int | None:
    return 1 + sum(other > scores[model] for other in scores.values()) if model in scores else None


def loss_rows(runs: Runs) -> list[tuple[str, float, float | None]]:
    """Return variant, held-out loss (nats per token) and its change from the base's, of Sec. 2's models."""
    base = runs.mean(EVALUATE, "base", "held_out_loss")
    names = [name for name, made in {**PAPER, **CONTROLS}.items() if made.stage in ("base", "upscale")]
    names += [name for name, made in {**PAPER, **CONTROLS}.items() if made.stage == "continue_pretrain"]
    return [
        (name, loss, None if base is None else loss - base)
        for name in names
        if (loss := runs.mean(EVALUATE, name, "held_out_loss")) is not None
    ]


@dataclass(frozen=True)
class ContaminationRow:
    """One task of Table 9: shares of texts with a result under 0.1, and AUROCs where there is a second split.

    `control…` are those of a copy of the model that was trained on the texts. None stands for no figure.
    """

    task: str
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    min_k: float | None
    min_k_pp: float | None
    control: float | None
    control_min_k_pp: float | None


def contamination_rows(runs: Runs) -> list[ContaminationRow]:
    """Return the rows of Table 9 with our shares and their 95 % intervals, as means over seeds."""
    printed = TABLES["table_9"]["rows"][0]
    fields = {
        "merge_v1": ("neighbour", "neighbour_low", "neighbour_high", "min_k", "min_k_pp"),
        "merge_v1_positive": ("neighbour", "min_k_pp"),
    }
    return [
        ContaminationRow(
            task,
            printed[task],
            *(
                runs.mean(CONTAMINATION, variant, f"contamination/{task}/{field}")
                for variant, names in fields.items()
                for field in names
            ),
        )
        for task in H6_NAMES
    ]


def data_rows(runs: Runs) -> list[tuple[str, int, int | None]]:
    """Return for each set of Table 1 the most samples that the paper used, and that one of our runs used."""
    result = []
    for source in DATASETS.values():
        counts = [
            int(value)
            for variant in runs.found.get(MODEL, {})
            for value in runs.metric(MODEL, variant, f"data/{source.name}/used").values()
        ]
        result.append((source.title, source.maximum_samples, max(counts) if counts else None))
    return result


def filter_rows(runs: Runs) -> list[tuple[str, int | None]]:
    """Return for each task of Table 8 how many of OpenOrca's rows the filter removed."""
    result = []
    for task in FILTERED_TASKS:
        found = [
            int(value)
            for variant in runs.found.get(MODEL, {})
            for value in runs.metric(MODEL, variant, f"data/openorca/removed/{task}").values()
        ]
        result.append((task, found[0] if found else None))
    return result


def number(value: float | None, digits: int = 2) -> str:
    """Write a figure with so many digits behind the point, and None as "–"."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Write a difference with its sign, and None as "–"."""
    return "–" if value is None else f"{value:+.{digits}f}"


def count(value: int | None) -> str:
    """Write a count with separators of thousands, and None as "–"."""
    return "–" if value is None else f"{value:,}"


def csv_rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """Yield a row for each of our cells of the score tables, and for the scores of models in no table."""
    for table in SCORE_TABLES:
        for row in rows(table, runs):
            for column, found in row.cells.items():
                if found.ours is not None:
                    yield _csv_row(runs, f"Table {table}", row.title, row.variant, column, found)
    for variant in runs.found.get(EVALUATE, {}):
        if variant not in PAPER or not PAPER[variant].rows:
            for column in SCORE_COLUMNS:
                yield _csv_row(runs, "", variant, variant, column, cell(runs, variant, column))


def _csv_row(runs: Runs, table: str, title: str, variant: str, column: str, found: Cell) -> dict[str, Any]:
    low, high = found.interval or (None, None)
    return {
        "table": table,
        "model": title,
        "variant": variant,
        "column": column,
        "paper": found.paper,
        "ours": found.ours,
        "delta": found.delta,
        "stderr": found.stderr,
        "low": low,
        "high": high,
        "seeds": len(runs.of(EVALUATE, variant)),
    }


def table_text(table: int, runs: Runs, ours: Mapping[str, str] | None = None) -> str:
    """Write one table for a terminal: the paper's scores, and ours ± standard error below them."""
    printed = rows(table, runs, ours)
    width = max(len(row.title) for row in printed) + 2
    lines = [f"Table {table} at scale {runs.scale}"]
    lines.append(" " * (width + 6) + "".join(f"{column:>15}" for column in SCORE_COLUMNS))
    for row in printed:
        paper = "".join(f"{number(cell.paper):>15}" for cell in row.cells.values())
        own = "".join(f"{f'{number(cell.ours)} ± {number(cell.stderr)}':>15}" for cell in row.cells.values())
        lines += [f"{row.title:<{width}}paper {paper}", f"{'':<{width}}ours  {own}"]
    return "\n".join(lines)
