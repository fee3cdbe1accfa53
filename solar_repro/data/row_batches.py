"""Data files read in batches, in bounded memory, past damaged rows: parquet, json lines, JSON arrays, text.

A damaged value never raises in the middle of a set: it is read as null, and its row gets a fault.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from solar_repro.data.batch import ARROW_TYPES, BATCH_BYTES, BATCH_ROWS, Batch
from solar_repro.data.parquet_rows import open_parquet, parquet_batches
from solar_repro.data.split_files import kind_of
from solar_repro.data.text_rows import BROKEN, Fault, json_rows, text_rows
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT


def has_column(file: Path, name: str) -> bool:
    """Whether a data file has a column; of JSON, whether any row has the key."""
    if kind_of(file) == "json":
        return any(isinstance(row, dict) and name in row for row in json_rows(file))
    return name in columns_of(file)


def columns_of(file: Path) -> list[str]:
    """Column names of a data file; of JSON, the keys of its first `BATCH_ROWS` rows."""
    kind = kind_of(file)
    if kind == "parquet":
        return open_parquet(file).schema_arrow.names
    if kind == "txt":
        return ["text"]
    rows = itertools.islice(json_rows(file), BATCH_ROWS)
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def require_columns(file: Path, names: Iterable[str], advice: str = "is it the right set?") -> None:
    """Raise UserError for a file without one of the columns; a JSON file without rows lacks none."""
    for name in names:
        if not has_column(file, name) and (
            kind_of(file) != "json" or next(json_rows(file), None) is not None
        ):
            found = ", ".join(columns_of(file)) or "none"
            raise UserError(f"data file {file} has no column {name!r}; it has {found}; {advice}")


def rows_of(file: Path) -> int | None:
    """Number of rows of a parquet file; None for other kinds, whose rows are known once they are read."""
    return open_parquet(file).metadata.num_rows if kind_of(file) == "parquet" else None


def read_batches(
    file: Path, columns: dict[str, str], optional: Mapping[str, str] | None = None
) -> Iterator[Batch]:
    """The named columns (name → `TEXT` or `TURNS`) of a file, `BATCH_ROWS` rows at a time.

    A row that lacks one of them, and every row of a file without an `optional` one, has a null there. Raises
    UserError for a column that the file lacks, or that has another type throughout.
    """
    require_columns(file, columns)
    columns = columns | dict(optional or {})
    if kind_of(file) == "parquet":
        yield from parquet_batches(file, columns)
        return
    source = text_rows(file) if kind_of(file) == "txt" else json_rows(file)
    rows: list[Any] = []
    size = 0
    for row in source:
        rows.append({name: row.get(name) for name in columns} if isinstance(row, dict) else row)
        size += _characters(rows[-1])
        if len(rows) == BATCH_ROWS or size > BATCH_BYTES:
            yield _json_batch(rows, columns)
            rows, size = [], 0
    if rows:
        yield _json_batch(rows, columns)


def _characters(value: Any) -> int:
    """Characters of all texts in a row, down to the turns of a conversation."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    turns = value if isinstance(value, list) else []
    return sum(_characters(turn) for turn in turns if isinstance(turn, dict))


def _json_batch(rows: Sequence[Any], columns: dict[str, str]) -> Batch:
    faults: dict[int, str] = {}
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            faults[number] = row.what if isinstance(row, Fault) else "no JSON object"
            row = {}
        for name, kind in columns.items():
            value = row.get(name)
            fault = None if value is None else _fault(value, kind)
            if fault:
                faults.setdefault(number, f"{fault}: {name}" if fault != BROKEN else BROKEN)
            values[name].append(None if fault else value)
    arrays = {name: pa.array(values[name], ARROW_TYPES[kind]) for name, kind in columns.items()}
    return Batch(pa.table(arrays), faults)


def _fault(value: Any, kind: str) -> str | None:
    """What keeps a JSON value from being read as this kind of column; None where nothing does."""
    if kind == TEXT:
        texts = [value]
    elif isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        texts = [turn.get(part) for turn in value for part in ("role", "content")]
    else:
        return "wrong type"
    if not all(isinstance(text, str) for text in texts):
        return "wrong type"
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return BROKEN
    return None
