"""Writes a model card for each final checkpoint: lineage, data, scores beside the paper's, licence."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.report.page import data_cards, link
from benchmarks.runs import MODEL, Runs
from benchmarks.tables import SCORE_COLUMNS, TABLES, number, score
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS
from solar_repro.safety.escapes import escape_code, escape_markdown
from solar_repro.safety.redact import one_line
from solar_repro.scales.settings import EMBEDDED, Scale
from solar_repro.tracking.commands import mlflow_command

FINAL = ("solar", "merge_v1", "merge_v2", "merge_v3", "merge_v4")
"""SOLAR 10.7B, and the candidates for SOLAR 10.7B-Instruct (Table 7)."""
OURS = "apache-2.0"
BASE_LICENCES = {"mistralai/Mistral-7B-v0.1": "apache-2.0", EMBEDDED: OURS}


def write_cards(runs: Runs, scale: Scale, out: Path) -> None:
    """Write `<variant>.md` for each final checkpoint that has a run."""
    for name in FINAL:
        if runs.of(MODEL, name):
            out.mkdir(exist_ok=True)
            (out / f"{name}.md").write_text(card(runs, scale, name), encoding="utf-8")


def card(runs: Runs, scale: Scale, name: str) -> str:
    """Return the card of a variant's first seed, with the front matter that the hub reads."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "report"),
        autoescape=False,  # noqa: S701 # Markdown: what is not ours is escaped below
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    lineage = variants.lineage(name)
    datasets = _datasets(runs, scale, lineage)
    licence, reason = _licence(scale, datasets)
    rows = variants.PAPER[name].rows
    embedded = scale.base.model == EMBEDDED
    return environment.get_template("card.md").render(
        title=rows[min(rows)],
        variant=name,
        scale=escape_code(scale.name),
        description=escape_markdown(scale.description.strip()),
        base="the embedded world's" if embedded else escape_markdown(scale.base.model),
        # JSON is YAML, whatever the names hold.
        hub_base="" if embedded else json.dumps(one_line(scale.base.model)),
        hub_sets=[]
        if embedded
        else [json.dumps(name) for name in dict.fromkeys(found["used"] for found in datasets)],
        lineage=lineage,
        link=link(runs.first(MODEL, name)),
        datasets=datasets,
        template=f"The tokenizer holds the chat template `{escape_code(scale.data.template)}`."
        if datasets
        else f"The text of continued pretraining is `{escape_code(scale.data.corpus.id)}`.",
        columns=SCORE_COLUMNS,
        scores=_scores(runs, name),
        licence=licence,
        licence_reason=reason,
        command=mlflow_command("evaluate", scale.name, {}, variant=name),
    )


def _datasets(runs: Runs, scale: Scale, lineage: tuple[variants.Variant, ...]) -> list[dict[str, Any]]:
    """List the sets that the model and its parents were tuned on, with the number of tokenised rows."""
    reports = {report["name"]: report for report in data_cards(runs)}
    names = dict.fromkeys(name for made in lineage for name in made.datasets)
    found = []
    for name in names:
        source = DATASETS[name]
        used = escape_code(scale.data.stand_ins.get(name, source.hub_id))
        licence = source.licence if used == source.hub_id else "see its card"
        if scale.data.mirror == EMBEDDED:
            used, licence = f"{used} (the embedded world's)", OURS
        rows = f"{reports[name]['tokenised']:,}" if name in reports else "–"
        found.append({"name": source.title, "used": used, "rows": rows, "licence": licence})
    return found


def _licence(scale: Scale, datasets: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the strictest licence among base and data, as an id for the front matter, and why it applies."""
    base = BASE_LICENCES.get(scale.base.model, "see its card")
    licences = {base, *(found["licence"] for found in datasets)}
    listed = f"Base: {base}. " + " ".join(f"{found['name']}: {found['licence']}." for found in datasets)
    closed = sorted(licence for licence in licences if "-nc" in licence)
    if closed:
        return closed[0], f"{listed} The strictest of these applies: no commercial use."
    if "see its card" in licences:
        return "other", f"{listed} Read that card before you use the model."
    return OURS, f"{listed} The weights may be used under {OURS}."


def _scores(runs: Runs, name: str) -> list[tuple[str, list[str]]]:
    printed = []
    for table, title in sorted(variants.PAPER[name].rows.items()):
        (row,) = [row for row in TABLES[f"table_{table}"]["rows"] if row["model"] == title]
        scores = [number(row["scores"].get(column)) for column in SCORE_COLUMNS]
        printed.append((f"paper, Table {table}", scores))
    ours = [score(runs, name, column) for column in SCORE_COLUMNS]
    return [*printed, ("ours", [f"{number(value)} ± {number(stderr)}" for value, stderr in ours])]
