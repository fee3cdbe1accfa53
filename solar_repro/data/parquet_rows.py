"""Batches of parquet files in bounded memory, whatever types their writers stored texts in.

A footer or a dictionary may claim, or unfold to, far more than its file holds. Both are checked before memory
is taken.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from solar_repro.data.batch import ARROW_TYPES, BATCH_BYTES, BATCH_ROWS, Batch
from solar_repro.data.text_rows import BROKEN, most_unfolded, unfolds
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT, TURNS

Read = TypeVar("Read")


def open_parquet(file: Path, **settings: Any) -> pq.ParquetFile:
    """The file; UserError where its footer claims more rows and bytes than a file of its size can hold."""
    source = _reading(file, lambda: pq.ParquetFile(file, **settings))
    about = source.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    claimed = about.num_rows + sum(chunk.num_values + chunk.total_uncompressed_size for chunk in chunks)
    if claimed > most_unfolded(file):
        raise unfolds(file)
    return source


def parquet_batches(file: Path, columns: dict[str, str]) -> Iterator[Batch]:
    """The named columns (name → `TEXT` or `TURNS`) of a file, batch after batch.

    A column that the file lacks is null. Raises UserError for a column of another type.
    """
    stored = [name for name in columns if name in open_parquet(file).schema_arrow.names]
    for read in _bounded_batches(file, stored):
        faults: dict[int, str] = {}
        arrays = []
        for name, kind in columns.items():
            array = read.column(name) if name in stored else pa.nulls(read.num_rows)
            # Writers give a column without a value any type.
            if array.null_count == len(array):
                arrays.append(pa.nulls(len(array), ARROW_TYPES[kind]))
                continue
            if not _is_of_kind(array.type, kind):
                found = array.type.value_type if types.is_dictionary(array.type) else array.type
                raise UserError(f"data file {file}: column {name!r} is {found}, not {kind}; correct the file")
            arrays.append(_plain_text(array, faults) if kind == TEXT else _plain_turns(array, faults))
        yield Batch(pa.table(arrays, names=list(columns)), faults)


def _reading(file: Path, read: Callable[[], Read]) -> Read:
    """What `read` gives; UserError that names the file where PyArrow cannot read it."""
    try:
        return read()
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data file {file} cannot be read as a parquet file ({reason}); fetch it again"
        ) from None


def _bounded_batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of a parquet file, cut where their texts are long.

    A text that a dictionary holds once may stand in every row. Texts are therefore read as dictionaries,
    whose full size is computed before they are written out.
    """
    about = open_parquet(file).metadata
    leaves = [about.schema.column(number) for number in range(about.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    source = open_parquet(file, read_dictionary=texts)
    batches = source.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
    left = most_unfolded(file)
    while (read := _reading(file, lambda: next(batches, None))) is not None:
        sizes = sum((_text_bytes(column) for column in read.columns), np.zeros(read.num_rows, np.int64))
        left -= int(sizes.sum())
        if left < 0:
            raise unfolds(file)
        part = np.cumsum(sizes) // BATCH_BYTES
        starts = [0, *(np.flatnonzero(np.diff(part)) + 1), read.num_rows]
        for start, stop in itertools.pairwise(starts):
            yield read.slice(start, stop - start)


def _text_bytes(array: pa.Array) -> np.ndarray:
    """Bytes of all texts in each row [rows], once they are written out."""
    kind = array.type
    if types.is_dictionary(kind):
        return (
            _text_bytes(array.dictionary)[pc.fill_null(array.indices, 0).to_numpy()]
            if len(array.dictionary)
            else np.zeros(len(array), np.int64)
        )
    if types.is_struct(kind):
        return sum(map(_text_bytes, array.flatten()), np.zeros(len(array), np.int64))
    if isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
        before = np.concatenate([[0], np.cumsum(_text_bytes(array.flatten()))])
        ends = np.cumsum(counts)
        return before[ends] - before[ends - counts]
    if _is_text(kind):
        array = array.cast(pa.large_binary()) if _is_view(kind) else array
        return pc.fill_null(pc.binary_length(array), 0).to_numpy().astype(np.int64)
    return np.zeros(len(array), np.int64)


def _is_of_kind(found: pa.DataType, kind: str) -> bool:
    """Whether a column of this type can be read as `TEXT` or as `TURNS`."""
    if kind == TEXT:
        return _is_text(found)
    if not isinstance(found, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        return False
    parts = found.value_type if types.is_struct(found.value_type) else ()
    # PyArrow cannot take lists of views apart.
    texts = {part.name for part in parts if _is_text(part.type) and not _is_view(part.type)}
    return {"role", "content"} <= texts | {part.name for part in parts if types.is_null(part.type)}


def _is_text(found: pa.DataType) -> bool:
    """Whether a column holds text, in any form: pandas' categories, Polars' views, Spark's bytes."""
    if types.is_dictionary(found):
        found = found.value_type
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, _is_view)
    return any(test(found) for test in tests)


def _is_view(found: pa.DataType) -> bool:
    return types.is_string_view(found) or types.is_binary_view(found)


def _plain_text(array: pa.Array, faults: dict[int, str]) -> pa.Array:
    """A text column of any form as strings; a broken text becomes null, and a fault of its row."""
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_view(array.type):
        array = array.cast(pa.large_binary())
    if types.is_binary(array.type) or types.is_large_binary(array.type):
        array = array.view(pa.string() if types.is_binary(array.type) else pa.large_string())
    try:
        # Parquet readers do not look at the bytes of a string; decoding it later would raise.
        array.validate(full=True)
    except pa.ArrowInvalid:
        array = pa.array(_sound_values(array, faults), array.type)
    return array.cast(pa.string())


def _plain_turns(array: pa.Array, faults: dict[int, str]) -> pa.Array:
    """A column of turns of any form as lists of {role, content}; a broken one becomes null, and a fault."""
    try:
        array.validate(full=True)
        return array.cast(ARROW_TYPES[TURNS])
    except pa.ArrowException:  # broken text, or a form of list or text that is not cast
        values = _sound_values(array, faults)
    for number, turns in enumerate(values):
        try:
            values[number] = turns and [turn and _decoded(turn) for turn in turns]
        except UnicodeDecodeError:
            faults.setdefault(number, BROKEN)
            values[number] = None
    return pa.array(values, ARROW_TYPES[TURNS])


def _decoded(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose texts may be stored as bytes, with strings."""
    parts = {part: turn[part] for part in ("role", "content")}
    return {part: text.decode() if isinstance(text, bytes) else text for part, text in parts.items()}


def _sound_values(array: pa.Array, faults: dict[int, str]) -> list[Any]:
    """The array's values one by one; None, and a fault of its row, for one that is not UTF-8."""
    values = []
    for number, value in enumerate(array):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError:
            faults.setdefault(number, BROKEN)
            values.append(None)
    return values
