"""The six data sets of Table 1 as canonical rows, from a local mirror or the hub.

Instruction sets become `row_id`, `messages` = [system?, user, assistant]; alignment sets `row_id`, `prompt` =
[system?, user], `chosen` and `rejected` = [assistant], which is Zephyr's preprocessing (the empty system turn
that it adds is left out: the chat templates here render nothing for it). A row that cannot be used is
dropped, counted and named in the report, never raised. Memory is bound by one batch; rows are memory-mapped.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.cache import arrow_rows, key_of
from solar_repro.data.canonical import COLUMNS, Flat, canonical_table, flatten
from solar_repro.data.files import data_files, read_batches, rows_of
from solar_repro.data.locate import Location, fingerprint, folder_location, locate
from solar_repro.data.report import Report, drop
from solar_repro.data.text import load_text
from solar_repro.errors import UserError
from solar_repro.terminal.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

__all__ = [
    "Location",
    "RowFilter",
    "Rows",
    "folder_location",
    "load_instruction",
    "load_preferences",
    "load_text",
    "locate",
]


VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""


@dataclass(frozen=True)
class Rows:
    dataset: "Dataset"
    key: str
    """Names the content: set, fingerprint, split, filter, cap, seed, code."""
    report: Report
    """`set`, `hub_id`, `used`, `fingerprint`, `split`, `rows_in`, `dropped` (reason → count), `examples`
    (reason → row ids), `usable`, `kept`, and what a filter reports."""


@dataclass(frozen=True)
class RowFilter:
    """Names, for each row of a batch, why it goes; None for the rows that stay."""

    name: str
    """Where its report stands in that of the rows."""
    key: str
    """Names the filter and all that its verdict rests on."""
    reasons: Callable[[Flat, Report], list[str | None]]
    """Counts what it removes in the report it is given: its own copy of `report`."""
    report: Report
    """What the filter says of itself before the first row."""


def load_instruction(
    name: str,
    location: Location,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    row_filters: Sequence[RowFilter] = (),
    cache_dir: Path | None = None,
) -> Rows:
    """Rows of `alpaca_gpt4`, `openorca` or `synth_math_instruct`, at most `max_samples` of them.

    `row_filters` (Table 8, decontamination) go before the cap. The rows under the cap are a seeded sample in
    the set's order.
    """
    return _load(name, "instruction", location, "train", max_samples, seed, row_filters, cache_dir)


def load_preferences(
    name: str,
    location: Location,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    row_filters: Sequence[RowFilter] = (),
    cache_dir: Path | None = None,
) -> Rows:
    """Rows of `orca_dpo_pairs`, `ultrafeedback` or `synth_math_alignment`, at most `max_samples` of them.

    Dropped and counted: identical pairs; prompts that UltraFeedback took from TruthfulQA (column `source`).
    """
    split = "train_prefs" if name == "ultrafeedback" else "train"
    return _load(name, "alignment", location, split, max_samples, seed, row_filters, cache_dir)


def _load(
    name: str,
    stage: str,
    location: Location,
    split: str,
    max_samples: int | None,
    seed: int,
    row_filters: Sequence[RowFilter],
    cache_dir: Path | None,
) -> Rows:
    columns = COLUMNS.get(name)
    if columns is None or columns.stage != stage:
        known = ", ".join(known for known, found in COLUMNS.items() if found.stage == stage)
        raise UserError(f"data set {name!r} is not one of the {stage} sets of Table 1; these are: {known}")
    digest = fingerprint(location, cache_dir)
    key = key_of(
        set=name,
        content=digest,
        split=split,
        max_samples=max_samples,
        seed=seed,
        filters=[found.key for found in row_filters],
        version=VERSION,
    )
    about = {
        "set": name,
        "hub_id": location.hub_id,
        "used": location.used,
        "fingerprint": digest,
        "split": split,
    }

    def tables(report: Report) -> Iterator[Any]:
        files = data_files(location.folder, split)
        yield from _canonical_tables(files, name, max_samples, seed, row_filters, report)

    dataset, report = arrow_rows(key, tables, cache_dir)
    if not len(dataset):
        raise UserError(
            f"data set {location.used} ({location.folder}): no usable row is left (dropped: "
            f"{report['dropped']})"
        )
    return Rows(dataset, key, about | report)


def _canonical_tables(
    files: list[Path],
    name: str,
    max_samples: int | None,
    seed: int,
    row_filters: Sequence[RowFilter],
    report: Report,
) -> Iterator[Any]:
    """First pass: which rows are usable. Second pass: the sample of them, written."""
    import numpy as np

    report |= {"dropped": {}, "examples": {}}
    for row_filter in row_filters:
        report[row_filter.name] = copy.deepcopy(row_filter.report)
    usable = []
    for flat in _flat_batches(files, name, f"{name}: reading"):
        reasons = flat.reasons
        for row_filter in row_filters:
            filtered = row_filter.reasons(flat, report[row_filter.name])
            reasons = [own or other for own, other in zip(reasons, filtered, strict=True)]
        keep = np.ones(len(reasons), bool)
        for number, reason in enumerate(reasons):
            if reason is not None:
                keep[number] = False
                drop(report, reason, flat.columns["row_id"][number].as_py())
        usable.append(keep)
    chosen = _sample(np.concatenate(usable) if usable else np.zeros(0, bool), max_samples, seed)
    report |= {
        "rows_in": len(chosen),
        "usable": int(sum(keep.sum() for keep in usable)),
        "kept": int(chosen.sum()),
    }
    start = 0
    for flat in _flat_batches(files, name, f"{name}: writing"):
        stop = start + len(flat.reasons)
        yield canonical_table(flat, chosen[start:stop])
        start = stop


def _sample(usable: "np.ndarray", max_samples: int | None, seed: int) -> "np.ndarray":
    import numpy as np

    places = np.flatnonzero(usable)
    if max_samples is None or len(places) <= max_samples:
        return usable
    chosen = np.zeros_like(usable)
    chosen[np.random.default_rng(seed).permutation(places)[:max_samples]] = True
    return chosen


def _flat_batches(files: list[Path], name: str, label: str) -> Iterator[Flat]:
    columns = COLUMNS[name]
    first_row = 0
    with Progress(label, sum(file.stat().st_size for file in files), "B") as progress:
        for file in files:
            size, rows = file.stat().st_size, rows_of(file)
            for batch in read_batches(file, columns.required, columns.optional):
                flat = flatten(name, batch, first_row)
                first_row += len(flat.reasons)
                yield flat
                if rows:
                    progress.advance(size * len(flat.reasons) // rows)
            progress.advance(0 if rows else size)
