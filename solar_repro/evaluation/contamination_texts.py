"""The texts on which contamination is tested: question and right answer of each benchmark (paper Table 9)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError
from solar_repro.evaluation.columns import column_named
from solar_repro.evaluation.tasks import benchmark_path

TESTED = {
    "ARC": ("ARC-Challenge", "test"),
    "MMLU": (None, "test"),
    "TruthfulQA": ("multiple_choice", "validation"),
    "GSM8K": ("main", "test"),
    "HellaSwag": (None, "validation"),
    "Winogrande": ("winogrande_xl", "validation"),
}
"""Per column the configuration (None: the only one, or for MMLU all subjects) and the split scored."""
REFERENCE_SPLITS = {
    "ARC": "train",
    "MMLU": "validation",
    "GSM8K": "train",
    "HellaSwag": "train",
    "Winogrande": "train",
}
"""A split of the same kind that H6 does not score; TruthfulQA has none."""
NOT_IN_PAPER = ("HellaSwag", "Winogrande")
"""Columns Table 9 leaves as N/A."""


def contamination_texts(
    column: str, mirror: Path | None, *, reference: bool = False, beyond_paper: bool = False
) -> tuple[str, ...] | None:
    """All texts of a column's scored split (`reference`: of a like split that is not scored), in file order.

    None where the paper has N/A (HellaSwag and Winogrande, unless `beyond_paper`) and where there is no
    reference split. Raises UserError for an unknown column and for a benchmark in neither mirror nor hub.
    """
    if column not in TESTED:
        raise UserError(f"benchmark {column!r}: no column of H6; use one of {', '.join(TESTED)}")
    config, split = TESTED[column]
    if column in NOT_IN_PAPER and not beyond_paper:
        return None
    if reference and column not in REFERENCE_SPLITS:
        return None
    chosen = REFERENCE_SPLITS[column] if reference else split
    return tuple(text_of(column, row) for row in _rows(column, mirror, config, chosen))


def _rows(column: str, mirror: Path | None, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    import datasets

    hub_id = column_named(column).hub_id
    path = benchmark_path(hub_id, mirror)
    try:
        configs = [config]
        if column == "MMLU":
            names = datasets.get_dataset_config_names(path)
            configs = ["all"] if "all" in names else sorted(names)
        for name in configs:
            yield from datasets.load_dataset(path, name, split=split)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"benchmark {hub_id} ({column}), split {split}: readable from neither mirror nor hub ({reason})"
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
