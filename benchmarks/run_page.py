"""Gives the run of a whole reproduction what the MLflow UI shows: description, figures, pictures."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from benchmarks.paper.claims import Figure
from benchmarks.registry import INSTRUCT
from benchmarks.runs import EVALUATE, MODEL, Runs
from benchmarks.tables import SCORE_TABLES, TABLES, cell, number
from benchmarks.text_table import text_table
from benchmarks.verdicts import Result, Verdict, printed
from solar_repro.paper import variants
from solar_repro.safety.escapes import escape_code, escape_markdown
from solar_repro.tracking.descriptions import MODEL_TRAINING, fit_note, run_path
from solar_repro.tracking.metric_log import send_metrics
from solar_repro.tracking.server import ui_address
from solar_repro.tracking.tracker import Tracker

VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "undecided", "no runs")


def tell(
    runs: Runs,
    results: Sequence[Result],
    caveat: str,
    made_by: str,
    pictures: Path,
    tracker: Tracker,
    run_id: str,
) -> None:
    """Give a reproduction's run its description, headline figures and the pictures (PNG) of a folder."""
    import mlflow

    tracker.set_note(run_id, note(runs, results, caveat, made_by))
    now = int(time.time() * 1000)
    rows = [
        {"key": name, "value": value, "timestamp": now, "step": 0}
        for name, value in headline(runs, results).items()
    ]
    send_metrics(tracker.client, run_id, rows)
    for file in sorted(pictures.glob("*.png")):
        tracker.client.log_image(run_id, mlflow.Image(str(file)), key=file.stem, step=0)


def headline(runs: Runs, results: Sequence[Result]) -> dict[str, float]:
    """Return H6 of the instruct model, and how many claims got which verdict."""
    verdicts = [result.verdict for result in results]
    found = {f"claims/{verdict.replace(' ', '_')}": float(verdicts.count(verdict)) for verdict in VERDICTS}
    score = runs.mean(EVALUATE, INSTRUCT, "H6")
    return found if score is None else {"H6": score, **found}


def note(runs: Runs, results: Sequence[Result], caveat: str, made_by: str) -> str:
    """Write the description: verdicts, H6 of every variant beside the paper's, and the command `made_by`."""
    verdicts = [result.verdict for result in results]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS[:3])
    instruct = cell(runs, INSTRUCT, "H6", printed(Figure(INSTRUCT, "H6"), TABLES))
    parts = [
        f"**SOLAR 10.7B at scale `{escape_code(runs.scale)}`, beside the paper. "
        f"Of {len(results)} claims: {counts}. H6 of the instruct model: {number(instruct.ours)} "
        f"(paper: {number(instruct.paper)}).**",
        f"Compare the runs of {_tables(runs)}. The whole report is `report/compare.html` under *Artifacts*, "
        "where `scale.yaml` has the settings; the pictures stand under *Model metrics*.",
        escape_markdown(caveat),
        "**H6 of every model** (mean of six benchmarks, percent)\n\n" + _h6_table(runs),
        f"**The command that makes it**\n\n```\n{made_by}\n```",
        "**The paper's claims**\n\n"
        + text_table(
            ("claim", "", "verdict"),
            [(result.claim.name, result.claim.statement, _shown(result.verdict)) for result in results],
        ).markdown(),
    ]
    return fit_note("\n\n".join(parts))


def _shown(verdict: str) -> str:
    return verdict if verdict == "undecided" else f"**{verdict}**"


def _tables(runs: Runs) -> str:
    links = [
        f"[Table {table}]({path})"
        for table in SCORE_TABLES
        if (path := compare_path(runs, table)) is not None
    ]
    return ", ".join(links) or "a table by ticking them in the experiment"


def _h6_table(runs: Runs) -> str:
    rows = []
    for name in (*variants.PAPER, *variants.CONTROLS):
        found = cell(runs, name, "H6", printed(Figure(name, "H6"), TABLES))
        if found.ours is not None:
            run = runs.first(MODEL, name) if runs.of(MODEL, name) else runs.first(EVALUATE, name)
            shown = f"[{name}]({run_path(run.info.experiment_id, run.info.run_id)})"
            interval = "–" if found.interval is None else " … ".join(number(end) for end in found.interval)
            rows.append((shown, number(found.paper), number(found.ours), interval))
    return text_table(("model", "paper", "here", "95 % interval"), rows).markdown()


def compare_path(runs: Runs, table: int) -> str | None:
    """Return the path at which the UI compares the runs of a table's models, behind whatever address it has.

    They are those of the first seed, with their settings and their scores. None where there are fewer than
    two.
    """
    names = [name for name, made in variants.PAPER.items() if table in made.rows and runs.of(MODEL, name)]
    found = [runs.first(MODEL, name).info for name in names]
    if len(found) < 2:
        return None
    chosen = _in_address([run.run_id for run in found])
    experiments = _in_address(sorted({run.experiment_id for run in found}))
    return f"#/compare-runs?runs={chosen}&experiments={experiments}&{MODEL_TRAINING}"


def ui_lines(runs: Runs, run_id: str, experiment_id: str, table: int = 3) -> str:
    """Return lines for the terminal: where the UI shows a reproduction's run, and compares a table's runs."""
    lines = [f"this run in the UI: {ui_address()}/{run_path(experiment_id, run_id)}"]
    if path := compare_path(runs, table):
        lines.append(f"Table {table} compared: {ui_address()}/{path}")
    return "\n".join(lines)


def _in_address(ids: Sequence[str]) -> str:
    return quote(json.dumps(ids, separators=(",", ":")))
