"""Batches of rows as they are read from data files: text columns, columns of turns, and faults."""

from dataclasses import dataclass

import pyarrow as pa

from solar_repro.paper.data_sets import TEXT, TURNS

ARROW_TYPES = {
    TEXT: pa.string(),
    TURNS: pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
}
BATCH_ROWS = 8192
BATCH_BYTES = 1 << 28
"""About the most bytes of text in a batch: a batch of long rows is cut where there are more."""


@dataclass(frozen=True)
class Batch:
    """Some rows of a file, with null for every value that could not be read."""

    table: pa.Table
    faults: dict[int, str]
    """What is wrong with a row, by its number in the batch."""
