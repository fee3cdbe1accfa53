"""Prepared rows on disk: Arrow files named by the content they were made from, memory-mapped when read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    import pyarrow as pa
    from datasets import Dataset

    folder = folder or default_folder()
    rows_file, report_file = folder / f"{key}.arrow", folder / f"{key}.json"
    if not report_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        report: Report = {}
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as out:
            partial = Path(out.name)
            try:
                writer = None
                for table in tables(report):
                    writer = writer or pa.ipc.new_stream(out, table.schema)
                    writer.write_table(table)
                writer.close()
                out.flush()
                os.fsync(out.fileno())
            except BaseException:
                partial.unlink()
                raise
        os.replace(partial, rows_file)
        write_json(report_file, report)
    rows = Dataset.from_file(str(rows_file))
    return rows, json.loads(report_file.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place, then rename."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8"
    ) as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
    os.replace(out.name, path)
