"""Reading data files in bounded memory, past damaged rows: parquet, json lines, JSON arrays, text.

A damaged value never raises in the middle of a set: it is read as null, and its row carries a fault.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.hub_card import read_card
from solar_repro.data.text_rows import (
    BROKEN,
    COMPRESSIONS,
    Fault,
    json_rows,
    most_unfolded,
    open_bytes,
    text_rows,
    unfolds,
)
from solar_repro.errors import UserError
from solar_repro.safety.redact import one_line
from solar_repro.safety.regular_files import refuse_foreign_links

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 8192
BATCH_BYTES = 1 << 28
"""Of a batch of long rows, about: it is cut where there are more."""
TEXT, TURNS = "text", "list of {role, content}"
KINDS = {".parquet": "parquet", ".txt": "txt", **dict.fromkeys([".jsonl", ".json", ".ndjson"], "json")}


@dataclass(frozen=True)
class Batch:
    """Rows as read: text or turn columns with nulls for what could not be read, and why."""

    table: "pa.Table"
    faults: dict[int, str]
    """Row number in the batch → what is wrong with it."""


def data_files(folder: Path, split: str, config: str | None = None) -> list[Path]:
    """Files of a split in a folder of hub layout, those of all configs in order where none is given.

    A config or split that is not there: UserError with the ones that are; a file of a kind that is not read
    here, or a link that leaves the folder: UserError with what to do.
    """
    import datasets

    refuse_foreign_links(folder)
    read_card(folder)
    with _listed(folder):
        configs = datasets.get_dataset_config_names(str(folder))
    if config is not None and config not in configs:
        raise UserError(f"data set {folder} has no config {config!r}; it has {', '.join(configs)}")
    found: list[Path] = []
    splits: list[str] = []
    for name in [config] if config else configs:
        with _listed(folder):
            files = datasets.load_dataset_builder(str(folder), name).config.data_files or {}
        splits += [str(known) for known in files if str(known) not in splits]
        found += [Path(file) for file in files.get(split, [])]
    if not found:
        raise UserError(
            f"data set {folder} has no split {split!r}; it has {', '.join(splits) or 'no data files'}"
        )
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise UserError(
            f"data set {folder}: its README names {missing[0]}, which does not exist; copy the file there"
        )
    for file in found:
        _require_readable(file)
    return found


@contextmanager
def _listed(folder: Path) -> Iterator[None]:
    """Names what keeps `datasets` from listing a folder's files."""
    try:
        yield
    except Exception as error:  # whatever a malformed card makes it stumble over
        if isinstance(error, ValueError) and not (folder / "README.md").exists():  # files of several kinds
            raise UserError(f"data set {folder}: {one_line(str(error))[:300]}; mend it") from None
        reason = f"{one_line(str(error))[:300]}; " if (folder / "README.md").exists() else ""
        raise UserError(
            f"data set {folder} has no data files; {reason}give a folder of parquet, jsonl or txt files"
        ) from None


def _kind(file: Path) -> str | None:
    """`parquet`, `json` or `txt`, by the name without the suffix of a compression; None for any other."""
    if file.suffix not in COMPRESSIONS:
        return KINDS.get(file.suffix)
    inner = KINDS.get(Path(file.stem).suffix)
    return None if inner == "parquet" else inner


def _require_readable(file: Path) -> None:
    kind = _kind(file)
    if kind is None:
        suffixes = "".join(file.suffixes[-2:] if file.suffix in COMPRESSIONS else file.suffixes[-1:])
        raise UserError(
            f"data file {file}: {suffixes or 'no suffix'} cannot be read; use parquet, jsonl or txt, the "
            "last two also as .gz, .bz2 or .zst"
        )
    if kind == "parquet":
        return
    with open_bytes(file) as source:
        start = source.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise UserError(
            f"data file {file} begins as UTF-16 or UTF-32 text does; convert it: iconv -f utf-16 -t utf-8"
        )


def has_column(file: Path, name: str) -> bool:
    """Whether a data file has a column; of JSON, whether any row has the key (read up to the first one)."""
    kind = _kind(file)
    if kind == "json":
        return any(isinstance(row, dict) and name in row for row in json_rows(file))
    return name in columns_of(file)


def columns_of(file: Path) -> list[str]:
    """Column names of a data file, of JSON the keys of its first `BATCH_ROWS` rows."""
    kind = _kind(file)
    if kind == "parquet":
        return _open_parquet(file).schema_arrow.names
    if kind == "txt":
        return ["text"]
    rows = itertools.islice(json_rows(file), BATCH_ROWS)
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def require_columns(file: Path, names: Iterable[str], advice: str = "is it the right set?") -> None:
    """UserError for a file without one of the columns; an empty file of rows lacks none."""
    for name in names:
        if not has_column(file, name) and (_kind(file) != "json" or next(json_rows(file), None) is not None):
            found = ", ".join(columns_of(file)) or "none"
            raise UserError(f"data file {file} has no column {name!r}; it has {found}; {advice}")


def rows_of(file: Path) -> int | None:
    """Rows of a parquet file; None for the others, which have to be read to tell."""
    return _open_parquet(file).metadata.num_rows if _kind(file) == "parquet" else None


def read_batches(
    file: Path, columns: dict[str, str], optional: Mapping[str, str] | None = None
) -> Iterator[Batch]:
    """The named columns (name → `TEXT` or `TURNS`) of a file, `BATCH_ROWS` rows at a time.

    A row without one of them, and every row of a file without an `optional` one, has a null there. A column
    that is missing, or whose type is another one throughout: UserError.
    """
    require_columns(file, columns)
    columns = columns | dict(optional or {})
    if _kind(file) == "parquet":
        yield from _parquet_batches(file, columns)
        return
    source = text_rows(file) if _kind(file) == "txt" else json_rows(file)
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
    return (
        sum(_characters(turn) for turn in value if isinstance(turn, dict)) if isinstance(value, list) else 0
    )


def _read_parquet(file: Path, read: Any) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data file {file} cannot be read as a parquet file ({reason}); fetch it again"
        ) from None


def _parquet_batches(file: Path, columns: dict[str, str]) -> Iterator[Batch]:
    import pyarrow as pa

    wanted = {TEXT: pa.string(), TURNS: turns_type()}
    stored = [name for name in columns if name in _open_parquet(file).schema_arrow.names]
    for read in _bounded_batches(file, stored):
        faults: dict[int, str] = {}
        arrays = []
        for name, kind in columns.items():
            array = read.column(name) if name in stored else pa.nulls(read.num_rows)
            # Writers give a column without a value any type.
            if array.null_count == len(array):
                arrays.append(pa.nulls(len(array), wanted[kind]))
                continue
            if not _fits(array.type, kind):
                found = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
                raise UserError(f"data file {file}: column {name!r} is {found}, not {kind}; correct the file")
            arrays.append(_plain_text(array, faults) if kind == TEXT else _plain_turns(array, faults))
        yield Batch(pa.table(arrays, names=list(columns)), faults)


def _open_parquet(file: Path, **settings: Any) -> "pq.ParquetFile":
    """The file, whose footer claims no more rows and bytes than can be believed of one of its size."""
    import pyarrow.parquet as pq

    source = _read_parquet(file, lambda: pq.ParquetFile(file, **settings))
    about = source.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    claimed = about.num_rows + sum(chunk.num_values + chunk.total_uncompressed_size for chunk in chunks)
    if claimed > most_unfolded(file):
        raise unfolds(file)
    return source


def _bounded_batches(file: Path, columns: list[str]) -> "Iterator[pa.RecordBatch]":
    """Batches of a parquet file, cut where their texts are long.

    A text that a dictionary holds once may stand in every row: texts are read as such dictionaries, and
    looked at before they are written out.
    """
    import numpy as np

    about = _open_parquet(file).metadata
    leaves = [about.schema.column(number) for number in range(about.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    source = _open_parquet(file, read_dictionary=texts)
    batches = source.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
    left = most_unfolded(file)
    while (read := _read_parquet(file, lambda: next(batches, None))) is not None:
        sizes = sum((_text_bytes(column) for column in read.columns), np.zeros(read.num_rows, np.int64))
        left -= int(sizes.sum())
        if left < 0:
            raise unfolds(file)
        part = np.cumsum(sizes) // BATCH_BYTES
        starts = [0, *(np.flatnonzero(np.diff(part)) + 1), read.num_rows]
        for start, stop in itertools.pairwise(starts):
            yield read.slice(start, stop - start)


def _text_bytes(array: "pa.Array") -> "np.ndarray":
    """Bytes of all texts in each row, written out."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        return (
            _text_bytes(array.dictionary)[pc.fill_null(array.indices, 0).to_numpy()]
            if len(array.dictionary)
            else np.zeros(len(array), np.int64)
        )
    if pa.types.is_struct(kind):
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


def turns_type() -> "pa.DataType":
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _fits(found: "pa.DataType", kind: str) -> bool:
    import pyarrow as pa

    if kind == TEXT:
        return _is_text(found)
    if not isinstance(found, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        return False
    parts = found.value_type if pa.types.is_struct(found.value_type) else ()
    # Lists of views PyArrow cannot take apart.
    texts = {part.name for part in parts if _is_text(part.type) and not _is_view(part.type)}
    return {"role", "content"} <= texts | {part.name for part in parts if pa.types.is_null(part.type)}


def _is_text(found: "pa.DataType") -> bool:
    """Whether a column holds text, in any form: pandas' categories, Polars' views, Spark's bytes."""
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_dictionary(found):
        found = found.value_type
    tests = (is_a.is_string, is_a.is_large_string, is_a.is_binary, is_a.is_large_binary, _is_view)
    return any(test(found) for test in tests)


def _is_view(found: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string_view(found) or pa.types.is_binary_view(found)


def _plain_text(array: "pa.Array", faults: dict[int, str]) -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_view(array.type):
        array = array.cast(pa.large_binary())
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = array.view(pa.string() if pa.types.is_binary(array.type) else pa.large_string())
    try:
        # Parquet readers do not look at the bytes of a string; decoding it later would raise.
        array.validate(full=True)
    except pa.ArrowInvalid:
        array = pa.array(_sound_values(array, faults), array.type)
    return array.cast(pa.string())


def _plain_turns(array: "pa.Array", faults: dict[int, str]) -> "pa.Array":
    import pyarrow as pa

    try:
        array.validate(full=True)
        return array.cast(turns_type())
    except pa.ArrowException:  # broken text, or a form of list or text that is not cast
        values = _sound_values(array, faults)
    for number, turns in enumerate(values):
        try:
            values[number] = turns and [turn and _decoded(turn) for turn in turns]
        except UnicodeDecodeError:
            faults.setdefault(number, BROKEN)
            values[number] = None
    return pa.array(values, turns_type())


def _decoded(turn: dict[str, Any]) -> dict[str, Any]:
    parts = {part: turn[part] for part in ("role", "content")}
    return {part: text.decode() if isinstance(text, bytes) else text for part, text in parts.items()}


def _sound_values(array: "pa.Array", faults: dict[int, str]) -> list[Any]:
    values = []
    for number, value in enumerate(array):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError:
            faults.setdefault(number, BROKEN)
            values.append(None)
    return values


def _json_batch(rows: Sequence[Any], columns: dict[str, str]) -> Batch:
    import pyarrow as pa

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
    wanted = {TEXT: pa.string(), TURNS: turns_type()}
    return Batch(
        pa.table({name: pa.array(values[name], wanted[kind]) for name, kind in columns.items()}), faults
    )


def _fault(value: Any, kind: str) -> str | None:
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
