"""Decontamination: which rows of a set share a 13-gram with which benchmark, and a filter that removes them.

The filter goes further than the paper. The benchmarks' n-grams are held once per process (`NgramIndex`); the
rows stream past in batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from solar_repro.data.benchmark_sets import benchmark_location
from solar_repro.data.benchmark_texts import benchmark_texts
from solar_repro.data.cache import cache_key
from solar_repro.data.canonical import FlatRows
from solar_repro.data.locate import fingerprint
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.ngrams import N
from solar_repro.data.parallel import batches, in_order
from solar_repro.data.report import RowReport
from solar_repro.data.sources import RowFilter, Rows
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.terminal.progress import Progress

VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""
EXAMPLES_SHOWN = 3
EXAMPLE_CHARACTERS = 200
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Overlap:
    """How many rows of a set share an n-gram with one benchmark."""

    set: str
    benchmark: str
    rows: int
    """Rows of the set."""
    hit: int
    """Rows that share an n-gram."""
    examples: tuple[tuple[str, str], ...]
    """Row id and the start of the text of the first rows that do."""


def benchmark_index(
    mirror: Path | None, benchmarks: Sequence[str] = H6_NAMES, *, test_only: bool = True
) -> NgramIndex:
    """The n-grams of benchmarks from mirror or hub: of what H6 scores, or of all their splits."""
    locations = {name: benchmark_location(name, mirror) for name in benchmarks}
    return NgramIndex(
        {name: benchmark_texts(name, place, test_only=test_only) for name, place in locations.items()}
    )


def decontamination(mirror: Path | None, *, cache_dir: Path | None = None) -> RowFilter:
    """A filter that removes rows of which any turn shares a 13-gram with an item that H6 scores."""
    used = {name: fingerprint(benchmark_location(name, mirror), cache_dir) for name in H6_NAMES}

    def reasons(flat: FlatRows, report: RowReport) -> list[str | None]:
        turns = [texts for name, texts in flat.columns.items() if name != "row_id"]
        found = np.bitwise_or.reduce([index().owners(texts) for texts in turns])
        return overlap_reasons(flat, found, index(), "decontamination", report)

    index = cache(partial(benchmark_index, mirror))
    report = {"n": N, "benchmarks": list(used), "removed": {}}
    return RowFilter("decontamination", cache_key(version=VERSION, n=N, benchmarks=used), reasons, report)


def overlap_reasons(
    flat: FlatRows, owners: np.ndarray, index: NgramIndex, what: str, report: RowReport
) -> list[str | None]:
    """For each row why `what` removes it, None for a row that stays; the removed rows are counted.

    `owners` are the benchmarks (bits, as `index` gives them) that the rows share an n-gram with. A row that
    cannot be used is counted under its own fault alone.
    """
    reasons: list[str | None] = [None] * len(owners)
    for row in owners.nonzero()[0]:
        if flat.reasons[row] is not None:
            continue
        name = " and ".join(index.owner_names(owners[row]))
        reasons[row] = f"{what}: {N}-gram of {name}"
        report["removed"][name] = report["removed"].get(name, 0) + 1
    return reasons


def overlap(rows: Rows, index: NgramIndex, *, num_proc: int = 1) -> tuple[list[Overlap], np.ndarray]:
    """How a set overlaps with each benchmark of the index, and a mask of the rows that overlap with any.

    Every turn of a row is compared by itself; an n-gram never reaches from one turn into the next.
    """
    name = rows.report["set"]
    counts = dict.fromkeys(index.names, 0)
    examples: dict[str, list[tuple[str, str]]] = {known: [] for known in index.names}
    hits = []
    with Progress(f"{name}: comparing with benchmarks", len(rows.dataset), "rows") as progress:
        parts = batches(len(rows.dataset), BATCH_ROWS)
        compare = partial(_part_owners, rows.dataset.with_format("arrow"), index)
        for part, owners in zip(parts, in_order(compare, parts, num_proc), strict=True):
            hits.append(owners != 0)
            for place in owners.nonzero()[0]:
                for benchmark in index.owner_names(owners[place]):
                    counts[benchmark] += 1
                    if len(examples[benchmark]) < EXAMPLES_SHOWN:
                        row = rows.dataset[part.start + int(place)]
                        examples[benchmark].append((row["row_id"], _start_of(row)))
            progress.advance(len(owners))
    lines = [
        Overlap(name, benchmark, len(rows.dataset), counts[benchmark], tuple(examples[benchmark]))
        for benchmark in index.names
    ]
    return lines, np.concatenate(hits) if hits else np.zeros(0, bool)


def _part_owners(dataset: Dataset, index: NgramIndex, part: slice) -> np.ndarray:
    return row_owners(dataset[part], index)


def row_owners(batch: pa.Table, index: NgramIndex) -> np.ndarray:
    """For each canonical row the benchmarks (bits) with which any of its turns shares an n-gram."""
    owners = np.zeros(batch.num_rows, np.uint64)
    for name in batch.column_names:
        if name == "row_id":
            continue
        turns = batch.column(name).combine_chunks()
        rows = pc.list_parent_indices(turns).to_numpy()
        np.bitwise_or.at(owners, rows, index.owners(pc.struct_field(pc.list_flatten(turns), "content")))
    return owners


def _start_of(row: dict[str, Any]) -> str:
    turns = row.get("messages") or row["prompt"]
    text = next(turn["content"] for turn in turns if turn["role"] == "user")
    return text[:EXAMPLE_CHARACTERS]
