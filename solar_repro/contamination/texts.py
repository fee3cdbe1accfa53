"""The texts on which contamination is tested (Table 9): questions and right answers of benchmark items."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from solar_repro.data.benchmark_sources import benchmark_source, mirror_configs
from solar_repro.data.locate import mirror_folder
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import column_named

TESTED_SPLITS = {
    "ARC": "test",
    "MMLU": "test",
    "TruthfulQA": "validation",
    "GSM8K": "test",
    "HellaSwag": "validation",
    "Winogrande": "validation",
}
"""The split that H6 scores."""
REFERENCE_SPLITS = {
    "ARC": "train",
    "MMLU": "validation",
    "GSM8K": "train",
    "HellaSwag": "train",
    "Winogrande": "train",
}
"""A split of the same kind that H6 does not score. TruthfulQA has none."""


def contamination_texts(column: str, mirror: Path | None, *, reference: bool = False) -> tuple[str, ...]:
    """All texts of a column's split that H6 scores, or of its `reference` split, in the file's order.

    A column without a reference split has no such texts. Raises UserError for an unknown column and for a
    benchmark that neither mirror nor hub has.
    """
    if column not in TESTED_SPLITS:
        raise UserError(f"benchmark {column!r}: is not a column of H6; use one of {', '.join(TESTED_SPLITS)}")
    if reference and column not in REFERENCE_SPLITS:
        return ()
    split = (REFERENCE_SPLITS if reference else TESTED_SPLITS)[column]
    return tuple(text_of(column, row) for row in _rows(column, mirror, split))


def _rows(column: str, mirror: Path | None, split: str) -> Iterator[Mapping[str, Any]]:
    hub_id = column_named(column).hub_id
    try:
        configs = [column_named(column).config]
        if column == "MMLU":
            folder = mirror_folder(hub_id, mirror)
            names = mirror_configs(folder) if folder else ["all"]
            configs = ["all"] if "all" in names else sorted(names)
        for config in configs:
            yield from datasets.load_dataset(**benchmark_source(hub_id, config, mirror), split=split)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"benchmark {hub_id} ({column}), split {split}: can be read neither from the mirror nor from the "
            f"hub ({reason})"
        ) from error


def text_of(column: str, row: Mapping[str, Any]) -> str:
    """A benchmark row as one text: question, a space, the right answer."""
    if column == "ARC":
        return f"{row['question']} {row['choices']['text'][row['choices']['label'].index(row['answerKey'])]}"
    if column == "MMLU":
        return f"{row['question']} {row['choices'][row['answer']]}"
    if column == "TruthfulQA":
        return f"{row['question']} {row['mc1_targets']['choices'][row['mc1_targets']['labels'].index(1)]}"
    if column == "GSM8K":
        return f"{row['question']} {row['answer']}"
    if column == "HellaSwag":
        return f"{row['ctx']} {row['endings'][int(row['label'])]}"
    return row["sentence"].replace("_", row[f"option{row['answer']}"])
