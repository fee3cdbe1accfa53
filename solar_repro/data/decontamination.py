"""Decontamination: which rows of a set share a 13-gram with which benchmark.

The benchmarks' n-grams are held once a process (`NgramIndex`); the rows stream past in batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.benchmark_texts import BENCHMARKS, benchmark_location, benchmark_texts
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.parallel import batches, in_order
from solar_repro.terminal.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    from solar_repro.data.sources import Rows

H6_BENCHMARKS = tuple(name for name in BENCHMARKS if name != "DROP")
EXAMPLES_SHOWN = 3
EXAMPLE_CHARACTERS = 200
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Overlap:
    """One line of the report's table: a set against a benchmark."""

    set: str
    benchmark: str
    rows: int
    hit: int
    examples: tuple[tuple[str, str], ...]
    """(row id, start of its text) of the first rows hit."""


def benchmark_index(mirror: Path | None, benchmarks: Sequence[str] = H6_BENCHMARKS) -> NgramIndex:
    """The n-grams of what H6 scores in each benchmark, from mirror or hub."""
    return NgramIndex(
        {name: benchmark_texts(name, benchmark_location(name, mirror), test_only=True) for name in benchmarks}
    )


def overlap(rows: "Rows", index: NgramIndex, *, num_proc: int = 1) -> tuple[list[Overlap], "np.ndarray"]:
    """A line per benchmark, and for each row of the set whether it is hit (to `select` the clean ones).

    Every turn of a row is compared by itself; an n-gram never reaches from one turn into the next.
    """
    import numpy as np

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


def _part_owners(dataset: "Dataset", index: NgramIndex, part: slice) -> "np.ndarray":
    return row_owners(dataset[part], index)


def row_owners(batch: "pa.Table", index: NgramIndex) -> "np.ndarray":
    """For each canonical row the benchmarks (bits) that any of its turns shares an n-gram with."""
    import numpy as np
    import pyarrow.compute as pc

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
