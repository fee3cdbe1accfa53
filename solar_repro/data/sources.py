"""The six data sets of Table 1 as canonical rows, from a local mirror or the hub.

Instruction sets become `row_id`, `messages` = [system?, user, assistant]. Alignment sets become `row_id`,
`prompt` = [system?, user], `chosen` and `rejected` = [assistant], as Zephyr's preprocessing does; the empty
system turn that it adds is left out, for the chat templates here render nothing for it. A row that cannot be
used never raises: it is dropped, counted and named in the report. Memory holds one batch at a time.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from solar_repro.data.cache import arrow_rows, cache_key
from solar_repro.data.canonical import FlatRows, canonical_table, flatten
from solar_repro.data.locate import Location, fingerprint
from solar_repro.data.report import RowReport, drop
from solar_repro.data.row_batches import read_batches, rows_of
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import DATASETS
from solar_repro.terminal.progress import Progress

VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""


@dataclass(frozen=True)
class Rows:
    """Canonical rows of one set."""

    dataset: Dataset
    """The rows, memory-mapped."""
    key: str
    """A digest of all that decides the rows: set, fingerprint, split, filters, cap, seed, code."""
    report: RowReport
    """`set`, `hub_id`, `used`, `fingerprint`, `split`, `rows_in`, `dropped` (counts by reason), `examples`
    (row ids by reason), `usable`, `kept`, and each filter's own report under its name."""


@dataclass(frozen=True)
class RowFilter:
    """Says of each row of a batch why it is removed."""

    name: str
    """The name under which the report of the rows holds the filter's own."""
    key: str
    """A digest of the filter and of all that its verdict depends on."""
    reasons: Callable[[FlatRows, RowReport], list[str | None]]
    """Gives each row's reason, None for a row that stays, and counts them in the report that it is given."""
    report: RowReport
    """The filter's report before the first row; `reasons` gets a copy of it."""


def load_instruction(
    name: str,
    location: Location,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    row_filters: Sequence[RowFilter] = (),
    cache_dir: Path | None = None,
) -> Rows:
    """Rows of `alpaca_gpt4`, `openorca` or `synth_math_instruct`.

    `row_filters` (Table 8, decontamination) are applied first. Of the rows that stay, a random sample of
    `max_samples` is taken, in the set's order; None takes all. Raises UserError where no row is left.
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
    """Rows of `orca_dpo_pairs`, `ultrafeedback` or `synth_math_alignment`, sampled as by `load_instruction`.

    Identical pairs are dropped and counted, as are the prompts that UltraFeedback took from TruthfulQA (its
    column `source` says so).
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
    if name not in DATASETS or DATASETS[name].stage != stage:
        known = ", ".join(known for known, found in DATASETS.items() if found.stage == stage)
        raise UserError(f"data set {name!r} is not one of the {stage} sets of Table 1; these are: {known}")
    digest = fingerprint(location, cache_dir)
    key = cache_key(
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

    def tables(report: RowReport) -> Iterator[pa.Table]:
        files = location.files(split)
        yield from _canonical_tables(files, name, max_samples, seed, row_filters, report)

    dataset, report = arrow_rows(key, tables, cache_dir)
    if not len(dataset):
        raise UserError(
            f"data set {location.used} ({location.path or 'on the hub'}): no usable row is left (dropped: "
            f"{report['dropped']})"
        )
    return Rows(dataset, key, about | report)


def _canonical_tables(
    files: list[Path],
    name: str,
    max_samples: int | None,
    seed: int,
    row_filters: Sequence[RowFilter],
    report: RowReport,
) -> Iterator[pa.Table]:
    """The sampled rows, in two passes over the files: one finds the usable rows, one makes the tables."""
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
    if not usable:
        raise UserError(f"data set {name}: no row is in {', '.join(map(str, files))}; fetch it again")
    chosen = _sample(np.concatenate(usable), max_samples, seed)
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


def _sample(usable: np.ndarray, max_samples: int | None, seed: int) -> np.ndarray:
    """A mask of at most `max_samples` of the usable rows."""
    places = np.flatnonzero(usable)
    if max_samples is None or len(places) <= max_samples:
        return usable
    chosen = np.zeros_like(usable)
    chosen[np.random.default_rng(seed).permutation(places)[:max_samples]] = True
    return chosen


def _flat_batches(files: list[Path], name: str, label: str) -> Iterator[FlatRows]:
    source = DATASETS[name]
    first_row = 0
    with Progress(label, sum(file.stat().st_size for file in files), "B") as progress:
        for file in files:
            size, rows = file.stat().st_size, rows_of(file)
            for batch in read_batches(file, source.columns, source.optional_columns):
                flat = flatten(name, batch, first_row)
                first_row += len(flat.reasons)
                yield flat
                if rows:
                    progress.advance(size * len(flat.reasons) // rows)
            progress.advance(0 if rows else size)
