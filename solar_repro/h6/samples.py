"""A model's answers to a benchmark's items, as parquet: question, choices, scores, prediction, gold."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import FLEXIBLE

if TYPE_CHECKING:  # readers of results do without lm-eval
    from lm_eval.api.instance import Instance

    from solar_repro.h6.tasks import LoadedTask

LOSSES_FILE = "held_out.json"
"""The file of an evaluation that holds tokens and summed loss (nats) of each held-out text."""


def item_row(
    loaded: "LoadedTask",
    item: int,
    doc: dict[str, Any],
    requests: Sequence["Instance"],
    measured: dict[str, float],
) -> dict[str, Any]:
    """The row of one item; `measured` holds its metrics by `<metric>,<filter>`."""
    column = loaded.column
    row: dict[str, Any] = {
        "task": loaded.name,
        "item": item,
        "question": doc[column.question],
        "metric": measured[column.metric],
    }
    if column.generates:
        strict = column.metric.split(",")[1]
        return {
            **row,
            "response": requests[0].resps[0],
            "prediction": str(requests[0].filtered_resps[strict]),
            "gold": [str(loaded.task.doc_to_target(doc))],
            "flexible": measured[FLEXIBLE],
        }
    scored = loaded.task.doc_to_choice(doc)
    # MMLU scores letters, but the texts that they stand for tell a reader more.
    shown = doc["choices"] if column.name == "MMLU" else scored
    values = [request.resps[0][0] for request in requests]
    weights = (
        [len(choice) for choice in scored] if column.metric.startswith("acc_norm") else [1] * len(values)
    )
    best = max(range(len(values)), key=lambda index: values[index] / weights[index])
    return {
        **row,
        "choices": list(shown),
        "log_likelihoods": values,
        "prediction": shown[best],
        "gold": [shown[index] for index in _gold(loaded, doc, shown)],
    }


def _gold(loaded: "LoadedTask", doc: dict[str, Any], choices: Sequence[str]) -> list[int]:
    """Places of the right choices: a single one, or several of TruthfulQA."""
    if loaded.column.name == "TruthfulQA":
        return [index for index, label in enumerate(doc["mc2_targets"]["labels"]) if label == 1]
    # Winogrande has its choices in the context and its answer where other tasks have the question.
    gold = loaded.task.doc_to_text(doc) if loaded.task.multiple_input else loaded.task.doc_to_target(doc)
    return [gold if isinstance(gold, int) else choices.index(gold)]


def write_samples(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows of one benchmark, in order."""

    fields = [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("response", pa.string()),
        ("prediction", pa.string()),
        ("gold", pa.list_(pa.string())),
        ("metric", pa.float64()),
        ("flexible", pa.float64()),
    ]
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(fields)), path)


def read_samples(folder: Path | str) -> dict[str, list[dict[str, Any]]]:
    """An evaluation's rows by benchmark (`arc_challenge`, …, `mmlu`); UserError if it has none."""
    paths = sorted((Path(folder) / "samples").glob("*.parquet"))
    if not paths:
        raise UserError(f"{Path(folder) / 'samples'}: no item results here; run evaluate on this model first")
    return {path.stem: pq.read_table(path).to_pylist() for path in paths}
