"""Reading data files in bounded memory, past damaged rows: parquet, json lines, JSON arrays, text.

A damaged value never raises in the middle of a set: it is read as null, and its row carries a fault.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.text_rows import BROKEN, Fault, json_rows, text_rows
from solar_repro.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 8192
TEXT, TURNS = "text", "list of {role, content}"


@dataclass(frozen=True)
class Batch:
    """Rows as read: text or turn columns with nulls for what could not be read, and why."""

    table: "pa.Table"
    faults: dict[int, str]
    """Row number in the batch → what is wrong with it."""


def data_files(folder: Path, split: str, config: str | None = None) -> list[Path]:
    """Files of a split in a folder of hub layout, those of all configs in order where none is given.

    A config or split that is not there: UserError with the ones that are.
    """
    import datasets

    configs = datasets.get_dataset_config_names(str(folder))
    if config is not None and config not in configs:
        raise UserError(f"data set {folder} has no config {config!r}; it has {', '.join(configs)}")
    found: list[Path] = []
    splits: list[str] = []
    for name in [config] if config else configs:
        files = datasets.load_dataset_builder(str(folder), name).config.data_files or {}
        splits += [str(known) for known in files if str(known) not in splits]
        found += [Path(file) for file in files.get(split, [])]
    if not found:
        raise UserError(
            f"data set {folder} has no split {split!r}; it has {', '.join(splits) or 'no data files'}"
        )
    root = os.path.abspath(folder)
    outside = [file for file in found if not Path(os.path.abspath(file)).is_relative_to(root)]
    if outside:
        raise UserError(f"data set {folder}: its README names {outside[0]}, outside the folder; mend it")
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise UserError(
            f"data set {folder}: its README names {missing[0]}, which is no file here; copy it there"
        )
    return found


def columns_of(file: Path) -> list[str]:
    """Column names of a data file (of its first row where it is JSON)."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return _read_parquet(file, lambda: pq.read_schema(file)).names
    if file.suffix == ".txt":
        return ["text"]
    for row in json_rows(file):
        if isinstance(row, dict):
            return list(row)
    return []


def rows_of(file: Path) -> int | None:
    """Rows of a parquet file; None for the others, which have to be read to tell."""
    if file.suffix != ".parquet":
        return None
    import pyarrow.parquet as pq

    return _read_parquet(file, lambda: pq.read_metadata(file)).num_rows


def read_batches(file: Path, columns: dict[str, str]) -> Iterator[Batch]:
    """The named columns (name → `TEXT` or `TURNS`) of a file, `BATCH_ROWS` rows at a time.

    A column that is missing, or whose type is another one throughout: UserError.
    """
    if file.suffix == ".parquet":
        yield from _parquet_batches(file, columns)
    elif file.suffix in (".jsonl", ".json", ".txt"):
        source = text_rows(file) if file.suffix == ".txt" else json_rows(file)
        found: set[str] = set()
        while rows := list(itertools.islice(source, BATCH_ROWS)):
            if not found:
                found = {name for row in rows if isinstance(row, dict) for name in row}
                _require(columns, sorted(found), file)
            yield _json_batch(rows, columns)
    else:
        raise UserError(
            f"data file {file}: {file.suffix or 'no suffix'} cannot be read; use parquet, jsonl or txt"
        )


def _read_parquet(file: Path, read: Any) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data file {file} is no readable parquet file ({reason}); fetch it again") from None


def _parquet_batches(file: Path, columns: dict[str, str]) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {TEXT: pa.string(), TURNS: turns_type()}
    source = _read_parquet(file, lambda: pq.ParquetFile(file))
    _require(columns, source.schema_arrow.names, file)
    batches = source.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False)
    while (read := _read_parquet(file, lambda: next(batches, None))) is not None:
        faults: dict[int, str] = {}
        arrays = []
        for name, kind in columns.items():
            array = read.column(name)
            if pa.types.is_null(array.type):
                array = pa.nulls(len(array), wanted[kind])
            elif not _fits(array.type, kind):
                raise UserError(
                    f"data file {file}: column {name!r} is {array.type}, not {kind}; mend the file"
                )
            try:
                # Parquet readers do not look at the bytes of a string; decoding it later would raise.
                array.validate(full=True)
            except pa.ArrowInvalid:
                array = _sound_values(array, faults)
            arrays.append(array.cast(wanted[kind]))
        yield Batch(pa.table(arrays, names=list(columns)), faults)


def turns_type() -> "pa.DataType":
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _fits(found: "pa.DataType", kind: str) -> bool:
    import pyarrow as pa

    if kind == TEXT:
        return pa.types.is_string(found) or pa.types.is_large_string(found)
    return (
        (pa.types.is_list(found) or pa.types.is_large_list(found))
        and pa.types.is_struct(found.value_type)
        and {"role", "content"} <= {field.name for field in found.value_type}
    )


def _sound_values(array: "pa.Array", faults: dict[int, str]) -> "pa.Array":
    import pyarrow as pa

    values = []
    for number, value in enumerate(array):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError:
            faults.setdefault(number, BROKEN)
            values.append(None)
    return pa.array(values, array.type)


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


def _require(columns: dict[str, str], found: Sequence[str], file: Path) -> None:
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(
            f"data file {file} has no column {missing[0]!r}; it has {', '.join(found)}; is it the right set?"
        )
