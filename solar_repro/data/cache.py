"""Prepared rows on disk, as memory-mapped Arrow files that are named by a key of what they were made from."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from solar_repro.data.report import RowReport
from solar_repro.safety.redact import printable
from solar_repro.store.fingerprint import default_cache_folder, file_digests
from solar_repro.store.hashing import sha256
from solar_repro.store.lock import locked
from solar_repro.store.publish import replace_file

_ADVICE = "free some, or set HF_DATASETS_CACHE to a folder on another disk"


def cache_key(**parts: Any) -> str:
    """The first 32 hex digits of the sha256 over JSON values that determine a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def arrow_rows(
    key: str, tables: Callable[[RowReport], Iterator[pa.Table]], folder: Path | None
) -> tuple[Dataset, RowReport]:
    """The rows stored under `key`, which `tables` makes where they are missing or damaged.

    `tables` gets an empty report to fill and yields at least one table; all have one schema. Rows and report
    are written beside their place and renamed, the report last, so that a killed run leaves nothing that
    passes for a result. Memory holds one table at a time. None for the folder means the user's cache.
    """
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
    shards: Callable[[dict[str, Any] | None], Iterator[tuple[pa.Table, dict[str, Any]]]],
    folder: Path | None,
) -> tuple[Dataset, dict[str, Any]]:
    """Rows in several files, so that the run after a killed one resumes behind the last whole file.

    `shards` gets the state behind the last whole shard (None at the start). It yields tables, each with the
    state behind it; the last state has `done` set. Returns all rows and the last state.
    """
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
    """Let one of several processes that want the same rows make them, while the others wait."""
    return locked(place, lambda owner: None)


def _sound(files: list[Path]) -> list[dict[str, Any]]:
    """The report or state of each file of rows, up to the first that is missing or not as it was written."""
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


def _write(file: Path, tables: Iterator[pa.Table], about: Callable[[], Any]) -> None:
    """Write rows, then a file with their digest and with what `about` gives once all are written."""
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
