"""The tuning sets of Table 1 for the training stages: located, filtered, capped, tokenised, reported."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.contract import SetsSettings, TuningInputs, TuningSet
from solar_repro.data.card import write_card
from solar_repro.data.decontamination import decontamination
from solar_repro.data.locate import folder_location, locate
from solar_repro.data.report import RowReport
from solar_repro.data.sources import RowFilter, Rows, load_instruction, load_preferences
from solar_repro.data.table_8_filter import table_8_filter
from solar_repro.data.tokens import tokenise_preferences
from solar_repro.store.result import CARDS, Log

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from solar_repro.data.locate import Location


def instruction_rows(chosen: TuningSet, seed: int, inputs: TuningInputs) -> Rows:
    """Rows of one instruction set, without those of its `filtered_tasks` (Table 8, OpenOrca)."""
    location = _location(chosen, inputs, "instruct")
    filters = _filters(chosen, location, inputs.mirror)
    return load_instruction(
        chosen.name, location, max_samples=chosen.maximum_samples, seed=seed, row_filters=filters
    )


def preference_rows(chosen: TuningSet, seed: int, inputs: TuningInputs) -> Rows:
    """Rows of one preference set."""
    location = _location(chosen, inputs, "alignment")
    filters = _filters(chosen, location, inputs.mirror)
    return load_preferences(
        chosen.name, location, max_samples=chosen.maximum_samples, seed=seed, row_filters=filters
    )


def _location(chosen: TuningSet, inputs: TuningInputs, synthesised: str) -> "Location":
    """Where a chosen set lies: mirror, hub, or the folder that stage `synth_math` has written."""
    if chosen.id == "synth_math":
        return folder_location(inputs.synth_math / synthesised)
    return locate(chosen.id, inputs.mirror)


def _filters(chosen: TuningSet, location: "Location", mirror: Path | None) -> list[RowFilter]:
    filters = []
    if chosen.filtered_tasks:
        flan = locate(chosen.flan, mirror) if chosen.flan else None
        filters.append(table_8_filter(location, mirror, chosen.filtered_tasks, flan=flan))
    if chosen.decontaminate:
        filters.append(decontamination(mirror))
    return filters


def tokenised_sets(
    out: Path,
    log: Log,
    datasets: Sequence[TuningSet],
    load: Callable[[TuningSet], Rows],
    tokenise: "Callable[[Rows], tuple[Dataset, RowReport]]",
) -> "list[tuple[Dataset, RowReport, str]]":
    """Each set's tokenised rows, their report, and the key of its rows; cards and metrics are logged."""
    found = []
    for chosen in datasets:
        rows = load(chosen)
        tokenised, report = tokenise(rows)
        write_card(out / CARDS, chosen.name, rows.report, report, tokenised)
        log({f"data/{chosen.name}/{figure}": value for figure, value in figures(rows, report).items()})
        found.append((tokenised, report, rows.key))
    return found


def preference_pairs(
    out: Path,
    log: Log,
    settings: SetsSettings,
    max_length: int,
    inputs: TuningInputs,
    tokenizer: "PreTrainedTokenizerBase",
) -> "tuple[Dataset, int]":
    """The tokenised pairs of all preference sets, one set after the other, and the number of their tokens."""
    from datasets import concatenate_datasets

    sets = tokenised_sets(
        out,
        log,
        settings.datasets,
        lambda chosen: preference_rows(chosen, settings.seed, inputs),
        lambda rows: tokenise_preferences(rows, tokenizer, max_length, num_proc=inputs.num_proc),
    )
    return concatenate_datasets([rows for rows, _, _ in sets]), sum(report["tokens"] for _, report, _ in sets)


def figures(rows: Rows, tokens: RowReport) -> dict[str, int]:
    """The counts worth a metric, of rows as loaded and as tokenised."""
    counts = {"rows_in": rows.report["rows_in"], "kept": rows.report["kept"], "used": tokens["kept"]}
    counts |= {"tokens": tokens["tokens"], "answer_tokens": tokens["answer_tokens"]}
    counts["dropped"] = sum(rows.report["dropped"].values()) + sum(tokens["dropped"].values())
    for row_filter, label in (("filter", "removed"), ("decontamination", "decontaminated")):
        for name, count in rows.report.get(row_filter, {}).get("removed", {}).items():
            counts[f"{label}/{name}"] = count
    return counts
