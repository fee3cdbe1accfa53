"""Writes the report: one HTML page without outside resources, with all that runs and data say escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.bad_runs import count, passing_over, text
from benchmarks.paper.claims import NOTES
from benchmarks.report.forest import forests
from benchmarks.report.text_tables import contamination, data_sets, filtered, losses, part_rows
from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import SCORE_COLUMNS, SCORE_TABLES, TABLES, ScoreRow, rows
from benchmarks.verdicts import Result, paper_holds
from benchmarks.wording import decider, method, summary
from solar_repro.paper import variants
from solar_repro.tracking.commands import mlflow_command
from solar_repro.tracking.descriptions import run_path
from solar_repro.tracking.server import ui_address, ui_command


def page(
    runs: Runs,
    results: Sequence[Result],
    figures: Mapping[str, str],
    caveat: str,
    overrides: Mapping[str, str],
) -> str:
    """Return the report. `figures` are SVG texts by name, `overrides` the settings given beside the scale."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(
        scale=runs.scale,
        caveat=caveat,
        summary=summary(results),
        results=results,
        parts={result.claim.name: part_rows(result) for result in results},
        forests={result.claim.name: forests(result) for result in results},
        tally=tally(results),
        method=method(),
        deciders={result.claim.name: decider(result.claim, runs.scale) for result in results},
        holds={result.claim.name: paper_says(result) for result in results},
        losses=losses(runs),
        columns=SCORE_COLUMNS,
        notes={table: NOTES.get(table, "") for table in SCORE_TABLES},
        tables=[_table(table, runs) for table in SCORE_TABLES],
        contamination=(TABLES["table_9"]["caption"], contamination(runs)),
        data=(TABLES["table_1"]["caption"], data_sets(runs)),
        filtered=(TABLES["table_8"]["caption"], filtered(runs)),
        cards=data_cards(runs),
        figures={name: figures.get(name, "") for name in FIGURES},
        command_all=mlflow_command("main", runs.scale, overrides, seeds=len(runs.seeds)),
        commands=commands(runs, overrides),
        ui=ui_command(),
        environment=environment_of(runs),
    )


def _table(table: int, runs: Runs) -> tuple[int, str, list[ScoreRow], float]:
    """Return number, caption, rows, and the largest difference, at which the colour of a cell is full."""
    found = rows(table, runs)
    deltas = [abs(cell.delta) for row in found for cell in row.cells.values() if cell.delta is not None]
    return table, TABLES[f"table_{table}"]["caption"], found, max(deltas, default=0.0) or 1.0


FIGURES = ("recovery", "h6", "training", "contamination", "merges", "plan")


def tally(results: Sequence[Result]) -> list[tuple[str, int]]:
    """Count how many claims got which verdict."""
    verdicts = [result.verdict for result in results]
    return [(text, verdicts.count(text)) for text in dict.fromkeys(verdicts)]


def paper_says(result: Result) -> str:
    """Say whether the paper's printed figures agree with its sentence."""
    holds = paper_holds(result.claim, TABLES)
    if holds is None:
        return "they print no figures for this."
    return "they agree (their figures have no intervals)." if holds else "they do not agree:"


def data_cards(runs: Runs) -> list[dict[str, Any]]:
    """Return what became of each set's rows, from the first model that was trained on it."""
    return runs.once("data cards", lambda: _data_cards(runs))


def _data_cards(runs: Runs) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for variant in runs.found.get(MODEL, {}):
        for name in variants.PAPER[variant].datasets if variant in variants.PAPER else ():
            if name in found:
                continue
            run = runs.first(MODEL, variant)
            with passing_over(run, f"card of {name}"):
                if card := runs.note(run, f"data/{name}.json"):
                    found[name] = _data_card(name, card)
    return list(found.values())


def _data_card(name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    read, tokens = card["rows"], card["tokens"]
    dropped = {**read["dropped"], **tokens["dropped"]}
    return {
        "name": name,
        "used": text(read["used"]),
        "hub_id": text(read["hub_id"]),
        "rows_in": count(read["rows_in"]),
        "kept": count(read["kept"]),
        "tokenised": count(tokens["kept"]),
        "tokens": count(tokens["tokens"]),
        "lengths": {quantile: float(card["lengths"][quantile]) for quantile in ("median", "p99")},
        "dropped": _by_reason({text(reason): count(rows) for reason, rows in dropped.items()}),
    }


def _by_reason(dropped: Mapping[str, int]) -> dict[str, int]:
    """Sum counts by reason, leaving out the details of a reason (behind a colon)."""
    found: dict[str, int] = {}
    for reason, number in dropped.items():
        short = reason.partition(":")[0]
        found[short] = found.get(short, 0) + number
    return found


def commands(runs: Runs, overrides: Mapping[str, str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return each variant, the command that makes and scores it, and links to its runs."""
    result = []
    for name in dict.fromkeys([*runs.found.get(MODEL, {}), *runs.found.get(EVALUATE, {})]):
        links = [
            (kind if len(own) == 1 else f"{kind} {seed}", link(run))
            for kind in (MODEL, EVALUATE)
            for own in [runs.found.get(kind, {}).get(name, {})]
            for seed, run in own.items()
        ]
        known = name in variants.PAPER or name in variants.CONTROLS
        text = mlflow_command("evaluate", runs.scale, overrides, variant=name) if known else ""
        result.append((name, text, links))
    return result


def link(run: Any) -> str:
    """Return the run's address in the MLflow UI."""
    return f"{ui_address()}/{run_path(run.info.experiment_id, run.info.run_id)}"


def environment_of(runs: Runs) -> dict[str, str]:
    """Return the versions and the code behind the runs, as the newest of them was tagged."""
    every = [run for kind in runs.found.values() for seeds in kind.values() for run in seeds.values()]
    if not every:
        return {}
    tags = max(every, key=lambda run: run.info.end_time).data.tags
    prefix = "solar.version."
    found = {name.removeprefix(prefix): tags[name] for name in sorted(tags) if name.startswith(prefix)}
    return {"code": tags.get("mlflow.source.git.commit", "–"), "seeds": ", ".join(runs.seeds), **found}
