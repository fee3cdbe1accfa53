"""Prepared rows on disk: Arrow files named by the content they were made from, memory-mapped when read."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.report import Report
from solar_repro.safety.redact import printable
from solar_repro.store.fingerprint import default_cache_folder, file_digests
from solar_repro.store.hashing import sha256
from solar_repro.store.lock import locked
from solar_repro.store.publish import replace_file

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_ADVICE = "free some, or set HF_DATASETS_CACHE to a folder on another disk"


def key_of(**parts: Any) -> str:
    """sha256 (first 32 hex digits) over JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def arrow_rows(
    key: str, tables: Callable[[Report], "Iterator[pa.Table]"], folder: Path | None
) -> "tuple[Dataset, Report]":
    """The rows stored under `key`, made by `tables` where they are not there yet, or are damaged.

    `tables` gets an empty report to fill and yields tables of one schema, at least one (it may be empty).
    Rows and report are written beside their place and renamed, the report last: a killed run leaves nothing
    that is taken for a result. Memory is bound by one table; the result is memory-mapped.
    """
    from datasets import Dataset

    folder = folder or default_cache_folder()
    rows_file, report_file = folder / f"{key}.arrow", folder / f"{key}.json"
    with _made_once(report_file):
        sound = _sound([rows_file])
        report = sound[0] if sound else {}
        if not sound:
            _write(rows_file, tables(report), lambda: report)
    return Dataset.from_file(str(rows_file)), report


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

    folder = folder or default_cache_folder()
    with _made_once(folder / key):
        files = []
        while (file := folder / f"{key}-{len(files):05}.arrow").with_suffix(".json").is_file():
            files.append(file)
        states = _sound(files)
        last = states[-1] if states else None
        files = files[: len(states)]
        if last is None or not last["done"]:
            for table, state in shards(last):
                files.append(folder / f"{key}-{len(files):05}.arrow")
                _write(files[-1], iter([table]), lambda state=state: state)
                last = state
    return concatenate_datasets([Dataset.from_file(str(file)) for file in files]), last


def _made_once(place: Path) -> AbstractContextManager[str | None]:
    """Of the processes that want the same rows at once, one makes them and the others wait."""
    return locked(place, lambda owner: None)


def _sound(files: list[Path]) -> list[dict[str, Any]]:
    """What is told of each file of rows, up to the first that is not there or not as it was written."""
    digests = file_digests([file for file in files if file.is_file()])
    found = []
    for file in files:
        note = file.with_suffix(".json")
        if not note.is_file():
            break
        try:
            told = json.loads(note.read_text(encoding="utf-8"))
            if told["sha256"] != digests.get(file):
                raise ValueError("its content is not what was written")
            found.append(told["about"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            print(
                printable(f"cached rows {file}: damaged ({error}); made again"), file=sys.stderr, flush=True
            )
            break
    return found


def _write(file: Path, tables: "Iterator[pa.Table]", about: Callable[[], Any]) -> None:
    """Write rows, then what there is to tell of them, and their digest."""
    import pyarrow as pa

    with replace_file(file, _ADVICE) as partial:
        with partial.open("wb") as out:
            writer = None
            for table in tables:
                writer = writer or pa.ipc.new_stream(out, table.schema)
                writer.write_table(table)
            writer.close()
        digest = sha256(partial)
    with replace_file(file.with_suffix(".json"), _ADVICE) as partial:
        text = json.dumps({"sha256": digest, "about": about()}, indent=1, ensure_ascii=False)
        partial.write_text(text, encoding="utf-8")
