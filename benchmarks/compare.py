"""The paper's tables beside our runs (paper, ours, delta, standard error), as Markdown and as HTML."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import plots
from solar_repro.plan import Plan
from solar_repro.step import Step
from solar_repro.tracking import Tracker
from solar_repro.variants import CONTROLS, DATASETS, FILTERED_TASKS, PAPER

TABLES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "paper" / "tables.json").read_text(encoding="utf-8")
)
TASKS: list[str] = TABLES["tasks"]
COLUMNS = ["H6", *TASKS]
SCORE_TABLES = (2, 3, 4, 5, 6, 7)
LOSS_VARIANTS = ("base", "upscaled", "upscaled_repeat", "solar", "repeat_continued")


@dataclass(frozen=True)
class Cell:
    """One score: what the paper prints, what we measured, its standard error (percent)."""

    paper: float | None
    ours: float | None
    stderr: float | None

    @property
    def delta(self) -> float | None:
        return None if self.paper is None or self.ours is None else self.ours - self.paper


@dataclass(frozen=True)
class Row:
    """One model of a table; `order` is its place by H6 among the rows that we have."""

    title: str
    variant: str
    cells: dict[str, Cell]
    order_paper: int | None
    order_ours: int | None


@dataclass(frozen=True)
class Runs:
    """Metrics of the finished runs of a plan, by variant."""

    scores: dict[str, dict[str, float]]
    contamination: dict[str, dict[str, float]]
    training: dict[str, dict[str, float]]
    curves: dict[str, list[tuple[float, float]]]
    """Variant → (tokens of continued pretraining, held-out loss)."""
    run_ids: dict[str, str]


def collect(plan: Plan, tracker: Tracker, names: tuple[str, ...] | None = None) -> Runs:
    """Look up each variant's runs by key, on the tracking server."""
    runs = Runs({}, {}, {}, {}, {})
    for name in names or (*PAPER, *CONTROLS):
        if found := tracker.find(plan.model(name).key):
            runs.run_ids[name] = found.run_id
            runs.training[name] = tracker.client.get_run(found.run_id).data.metrics
            if plan.model(name).stage == "continue_pretrain":
                history = tracker.client.get_metric_history(found.run_id, "recovery/held_out_loss")
                tokens = (
                    plan.scale.continue_pretrain.global_batch_size * plan.scale.continue_pretrain.max_length
                )
                points = {metric.step * tokens: metric.value for metric in history}
                runs.curves[name] = sorted(points.items())
        if found := tracker.find(plan.evaluation(name).key):
            runs.scores[name] = tracker.client.get_run(found.run_id).data.metrics
    for name in plan.scale.contamination.variants:
        step = plan.contamination(name)
        if found := tracker.find(step.key):
            runs.contamination[step.variant] = tracker.client.get_run(found.run_id).data.metrics
    return runs


def released_runs(steps: Mapping[str, Step], tracker: Tracker) -> Runs:
    """Scores of released checkpoints, by row of Table 2."""
    found = {row: tracker.find(step.key) for row, step in steps.items()}
    ids = {row: finished.run_id for row, finished in found.items() if finished}
    scores = {row: tracker.client.get_run(run_id).data.metrics for row, run_id in ids.items()}
    return Runs(scores, {}, {}, {}, ids)


def rows(table: int, runs: Runs, ours: Mapping[str, str] | None = None) -> list[Row]:
    """The paper's rows of a score table (2 … 7), with our scores where a run has them.

    `ours` says by which name `runs` has a row; by default that of the row's variant.
    """
    if ours is None:
        ours = {variant.rows[table]: variant.name for variant in PAPER.values() if table in variant.rows}
    printed = TABLES[f"table_{table}"]["rows"]
    measured = {
        row["model"]: runs.scores[ours[row["model"]]]["H6"]
        for row in printed
        if ours.get(row["model"]) in runs.scores
    }
    paper = {row["model"]: row["scores"]["H6"] for row in printed if row["model"] in measured}
    return [
        Row(
            title=row["model"],
            variant=ours.get(row["model"], ""),
            cells=_cells(row["scores"], runs.scores.get(ours.get(row["model"], ""), {})),
            order_paper=_place(paper, row["model"]),
            order_ours=_place(measured, row["model"]),
        )
        for row in printed
    ]


def _cells(printed: dict[str, float], found: Mapping[str, float]) -> dict[str, Cell]:
    return {
        column: Cell(printed[column], found.get(column), found.get(f"{column}_stderr")) for column in COLUMNS
    }


def _place(scores: dict[str, float], model: str) -> int | None:
    if model not in scores:
        return None
    return 1 + sum(other > scores[model] for other in scores.values())


def loss_rows(runs: Runs) -> list[tuple[str, float]]:
    """Held-out loss (nats a token) of the models of Sec. 2."""
    return [
        (name, runs.scores[name]["held_out_loss"])
        for name in LOSS_VARIANTS
        if "held_out_loss" in runs.scores.get(name, {})
    ]


def contamination_rows(runs: Runs) -> list[tuple[str, float | None, float | None, float | None]]:
    """Table 9: task, the paper's share, our share ('result < 0.1'), Min-K % AUROC where there is one."""
    printed = TABLES["table_9"]["rows"][0]
    found = next(iter(runs.contamination.values()), {})
    return [
        (
            task,
            printed[task],
            found.get(f"contamination/{task}/neighbour"),
            found.get(f"contamination/{task}/min_k"),
        )
        for task in TASKS
    ]


def data_rows(runs: Runs) -> list[tuple[str, int, int | None]]:
    """Table 1: set, the most samples the paper used, the most that one of our runs used."""
    result = []
    for source in DATASETS.values():
        used = [metrics.get(f"data/{source.name}/used") for metrics in runs.training.values()]
        counts = [int(value) for value in used if value is not None]
        result.append((source.title, source.maximum_samples, max(counts) if counts else None))
    return result


def filter_rows(runs: Runs) -> list[tuple[str, int | None]]:
    """Table 8: task name, rows that the filter removed from OpenOrca's candidate rows."""
    metrics = next((m for m in runs.training.values() if "data/openorca/used" in m), {})
    result = []
    for task in FILTERED_TASKS:
        removed = metrics.get(f"data/openorca/removed/{task}")
        result.append((task, None if removed is None else int(removed)))
    return result


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table_markdown(table: int, runs: Runs) -> str:
    """One score table as Markdown: each cell 'paper → ours ± stderr (delta)'."""
    lines = [
        f"| Table {table} | {' | '.join(COLUMNS)} | order by H6: paper / ours |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for row in rows(table, runs):
        cells = []
        for cell in row.cells.values():
            text = _number(cell.paper)
            if cell.ours is not None:
                text += f" → **{_number(cell.ours)}** ± {_number(cell.stderr)} ({cell.delta:+.2f})"
            cells.append(text)
        order = f"{row.order_paper} / {row.order_ours}" if row.order_ours else "–"
        lines.append(f"| {row.title} | {' | '.join(cells)} | {order} |")
    return "\n".join(lines)


def table_text(table: int, runs: Runs, scale: str, ours: Mapping[str, str] | None = None) -> str:
    """One table for a terminal: the paper's scores, and ours ± standard error below them (see `rows`)."""
    printed = rows(table, runs, ours)
    width = max(len(row.title) for row in printed) + 2
    lines = [f"Table {table} at scale {scale}"]
    lines.append(" " * (width + 6) + "".join(f"{column:>15}" for column in COLUMNS))
    for row in printed:
        paper = "".join(f"{_number(cell.paper):>15}" for cell in row.cells.values())
        ours = "".join(
            f"{f'{_number(cell.ours)} ± {_number(cell.stderr)}':>15}" for cell in row.cells.values()
        )
        lines += [f"{row.title:<{width}}paper {paper}", f"{'':<{width}}ours  {ours}"]
    return "\n".join(lines)


def caveat(plan: Plan) -> str:
    """What a reader must know before reading a number."""
    limits = plan.scale.evaluate.limits
    items = ", ".join(f"{task} {limits.get(task, 'all')}" for task in TASKS)
    return (
        f"Scale '{plan.scale.name}': {plan.scale.description.strip()} Its scores are not comparable in size "
        f"with the paper's 10.7B models; what can be compared is the order of the variants. "
        f"Items a task (MMLU: a subject): {items}. ± is one standard error over items, not over seeds."
    )


def markdown(plan: Plan, runs: Runs) -> str:
    """The whole comparison as Markdown."""
    # Markdown is shown as HTML: the scale's own text is escaped as on the page.
    parts = [
        f"# SOLAR 10.7B at scale `{plan.scale.name}`, beside the paper",
        escape(caveat(plan), quote=False),
    ]
    if losses := loss_rows(runs):
        parts += [
            "## Depth up-scaling (Sec. 2): held-out loss",
            "| model | loss (nats a token) |\n|---|---|\n"
            + "\n".join(f"| {name} | {loss:.4f} |" for name, loss in losses),
            "![recovery](recovery.png)",
        ]
    for table in SCORE_TABLES:
        parts += [f"## Table {table}: {TABLES[f'table_{table}']['caption']}", table_markdown(table, runs)]
    parts += [
        f"## Table 9: {TABLES['table_9']['caption']}",
        "| task | paper | ours | Min-K % AUROC |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {task} | {_number(p)} | {_number(o)} | {_number(m)} |"
            for task, p, o, m in contamination_rows(runs)
        ),
        f"## Table 1: {TABLES['table_1']['caption']}",
        "| set | paper, at most | ours |\n|---|---|---|\n"
        + "\n".join(f"| {title} | {most:,} | {_count(used)} |" for title, most, used in data_rows(runs)),
        f"## Table 8: {TABLES['table_8']['caption']}",
        "| task | rows removed here |\n|---|---|\n"
        + "\n".join(f"| {task} | {_count(removed)} |" for task, removed in filter_rows(runs)),
    ]
    return "\n\n".join(parts) + "\n"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def html(plan: Plan, runs: Runs, figures: dict[str, str]) -> str:
    """The whole comparison as one HTML page without outside references; all text is escaped."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("compare.html").render(
        scale=plan.scale.name,
        caveat=caveat(plan),
        losses=loss_rows(runs),
        columns=COLUMNS,
        tables=[(n, TABLES[f"table_{n}"]["caption"], rows(n, runs)) for n in SCORE_TABLES],
        contamination=(TABLES["table_9"]["caption"], contamination_rows(runs)),
        data=(TABLES["table_1"]["caption"], data_rows(runs)),
        filtered=(TABLES["table_8"]["caption"], filter_rows(runs)),
        run_ids=runs.run_ids,
        figures=figures,
    )


def compare(plan: Plan, tracker: Tracker, out: Path) -> Path:
    """Write compare.md, compare.html and the pictures, log them to the tracker's run; path of the HTML."""
    runs = collect(plan, tracker)
    out.mkdir(parents=True, exist_ok=True)
    figures = {"scores": plots.scores(runs, out)}
    if runs.curves:
        figures["recovery"] = plots.recovery(runs, out)
    (out / "compare.md").write_text(markdown(plan, runs), encoding="utf-8")
    page = out / "compare.html"
    page.write_text(html(plan, runs, figures), encoding="utf-8")
    tracker.log_folder(tracker.run_id, out, "report")
    return page
