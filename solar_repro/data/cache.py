"""Prepared rows on disk: Arrow files named by the content they were made from, memory-mapped when read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.lock import locked
from solar_repro.data.report import Report

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def default_folder() -> Path:
    """Where prepared rows lie unless a caller says otherwise: beside the Arrow files of `datasets`."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser() / "solar_repro"


def key_of(**parts: Any) -> str:
    """sha256 (first 32 hex digits) over JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def arrow_rows(
    key: str, tables: Callable[[Report], "Iterator[pa.Table]"], folder: Path | None
) -> "tuple[Dataset, Report]":
    """The rows stored under `key`, made by `tables` where they are not there yet.

    `tables` gets an empty report to fill and yields tables of one schema, at least one (it may be empty).
    Rows and report are written beside their place and renamed, the report last: a killed run leaves nothing
    that is taken for a result. Memory is bound by one table; the result is memory-mapped.
    """
    from datasets import Dataset

    folder = folder or default_folder()
    rows_file, report_file = folder / f"{key}.arrow", folder / f"{key}.json"
    with _made_once(report_file):
        if not report_file.is_file():
            report: Report = {}
            _write_arrow(rows_file, tables(report))
            write_json(report_file, report)
    rows = Dataset.from_file(str(rows_file))
    return rows, json.loads(report_file.read_text(encoding="utf-8"))


def arrow_shards(
    key: str,
    shards: "Callable[[dict[str, Any] | None], Iterator[tuple[pa.Table, dict[str, Any]]]]",
    folder: Path | None,
) -> "tuple[Dataset, dict[str, Any]]":
    """As `arrow_rows`, in several files: a run that is killed goes on after its last whole one.

    `shards` gets the state after the last whole shard (None at the start) and yields tables, each with the
    state after it, the last of which has `done` set. Returns all rows and the last state.
    """
    from datasets import Dataset, concatenate_datasets

    folder = folder or default_folder()
    with _made_once(folder / key):
        number, last = 0, None
        while (state_file := folder / f"{key}-{number:05}.json").is_file():
            number, last = number + 1, json.loads(state_file.read_text(encoding="utf-8"))
        if last is None or not last["done"]:
            for table, state in shards(last):
                _write_arrow(folder / f"{key}-{number:05}.arrow", iter([table]))
                write_json(folder / f"{key}-{number:05}.json", state)
                number, last = number + 1, state
    files = [str(folder / f"{key}-{place:05}.arrow") for place in range(number)]
    return concatenate_datasets([Dataset.from_file(file) for file in files]), last


def _made_once(place: Path) -> AbstractContextManager[str | None]:
    """Of the processes that want the same rows at once, one makes them and the others wait."""
    return locked(place, lambda owner: None)


def _write_arrow(file: Path, tables: "Iterator[pa.Table]") -> None:
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as out:
        partial = Path(out.name)
        try:
            writer = None
            for table in tables:
                writer = writer or pa.ipc.new_stream(out, table.schema)
                writer.write_table(table)
            writer.close()
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            partial.unlink()
            raise
    os.replace(partial, file)


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place, then rename."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8"
    ) as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
    os.replace(out.name, path)
