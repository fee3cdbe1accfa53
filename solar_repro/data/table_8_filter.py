"""Table 8's filter, which removes the rows of benchmarks' tasks from OpenOrca, in one of three ways.

OpenOrca dropped the names of FLAN's tasks. The filter reads them from a column `task_name` where rows have
one; else it joins the rows' text with FLAN's rows, which have them; else it does what it can without names,
and removes rows whose prompt shares a 13-gram with a training or test text of the benchmarks that Table 8
names. Its report says which way was taken.
"""

import dataclasses
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from solar_repro.data.benchmark_sets import table_8_fingerprints
from solar_repro.data.cache import cache_key
from solar_repro.data.canonical import FlatRows
from solar_repro.data.decontamination import benchmark_index, overlap_reasons
from solar_repro.data.locate import Location, fingerprint
from solar_repro.data.ngrams import N, hash_texts
from solar_repro.data.report import RowReport
from solar_repro.data.row_batches import read_batches
from solar_repro.data.sources import RowFilter
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import BENCHMARKS, TABLE_8_BENCHMARKS
from solar_repro.paper.data_sets import TEXT

MISSED_BY_TABLE_8 = re.compile(r"task(026|027|028|029|03[0-5]|1391)_")
"""Natural Instructions' DROP tasks 026–028 and Winogrande tasks 029–035 and 1391. Table 8 does not name them,
so they are counted in the report and stay."""


VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""


def table_8_filter(
    location: Location,
    mirror: Path | None,
    task_names: Sequence[str],
    *,
    flan: Location | None = None,
    cache_dir: Path | None = None,
) -> RowFilter:
    """The filter in the first way that is possible: by task names, FLAN's rows, or n-grams of benchmarks.

    Where only some rows have a task name, the others are filtered in the next way.
    """
    named, unnamed = _rows_with_task_name(location.files("train"))
    if named and not unnamed:
        return by_task_name(task_names)
    if flan is not None:
        others = by_flan_join(flan, task_names, cache_dir=cache_dir)
    else:
        others = by_ngrams(mirror, cache_dir=cache_dir)
    return by_task_name(task_names, others) if named else others


def _rows_with_task_name(files: Sequence[Path]) -> tuple[bool, bool]:
    """Whether any usable row has a task name, and whether any lacks one."""
    named = unnamed = False
    for file in files:
        for batch in read_batches(file, {}, {"task_name": TEXT}):
            with_name = sum(map(bool, batch.table.column(0).to_pylist()))
            named = named or with_name > 0
            unnamed = unnamed or with_name + len(batch.faults) < batch.table.num_rows
    return named, unnamed


def by_task_name(task_names: Sequence[str], others: RowFilter | None = None) -> RowFilter:
    """A filter that removes rows whose `task_name` is one of `task_names`.

    Rows without a task name are left to `others`; UserError is raised for them if that is None.
    """
    report: RowReport = {"way": "task_name", "removed": {}, "missed_by_table_8": {}}
    if others is not None:
        report = others.report | report | {"way": f"task_name, without one {others.report['way']}"}
        report["without_task_name"] = 0

    def reasons(flat: FlatRows, report: RowReport) -> list[str | None]:
        names = [None] * len(flat.reasons) if flat.task_names is None else flat.task_names.to_pylist()
        by_name = _by_names(flat, names, set(task_names), report)
        # The other filter passes over rows that have a reason.
        taken = [own or (name and "has a name") for name, own in zip(names, flat.reasons, strict=True)]
        if all(taken):
            return by_name
        if others is None:
            raise UserError("filter by task name: there are rows without 'task_name'; filter another way")
        report["without_task_name"] += taken.count(None)
        other = others.reasons(dataclasses.replace(flat, reasons=taken), report)
        return [first or second for first, second in zip(by_name, other, strict=True)]

    key = _key(way="task_name", tasks=list(task_names), others=others and others.key)
    return RowFilter("filter", key, reasons, report)


def by_flan_join(
    flan: Location,
    task_names: Sequence[str],
    *,
    split: str = "train",
    text_column: str = "inputs",
    name_column: str = "_task_name",
    cache_dir: Path | None = None,
) -> RowFilter:
    """A filter that removes rows whose question is, word for word, an input of one of `task_names` in FLAN.

    It holds a hash of 8 bytes for each FLAN row of the tasks that Table 8 names or misses.
    """
    names = sorted(task_names)
    hashes: dict[str, list[np.ndarray]] = {}
    for file in flan.files(split):
        for batch in read_batches(file, {text_column: TEXT, name_column: TEXT}):
            found = np.array(batch.table.column(name_column).to_pylist(), object)
            of_interest = np.array([name in names or _is_missed(name) for name in found])
            if not of_interest.any():
                continue
            texts = batch.table.column(text_column).combine_chunks().filter(of_interest)
            found = found[of_interest]
            for name in set(found):
                hashes.setdefault(name, []).append(hash_texts(texts.filter(found == name)))
    tasks = sorted(hashes)
    known = np.concatenate([np.zeros(0, np.uint64), *(part for task in tasks for part in hashes[task])])
    owner = np.repeat(np.arange(len(tasks)), [sum(map(len, hashes[task])) for task in tasks])
    order = np.argsort(known, kind="stable")
    known, owner = known[order], owner[order]
    report: RowReport = {"way": "flan_join", "flan": flan.used, "flan_rows": len(known)}
    report |= {"removed": {}, "missed_by_table_8": {}}

    def reasons(flat: FlatRows, report: RowReport) -> list[str | None]:
        texts = hash_texts(flat.columns["user"])
        places = np.minimum(np.searchsorted(known, texts), max(len(known) - 1, 0))
        joined = known[places] == texts if len(known) else np.zeros(len(texts), bool)
        found = [tasks[owner[at]] if hit else None for at, hit in zip(places, joined, strict=True)]
        return _by_names(flat, found, set(names), report)

    key = _key(way="flan_join", tasks=names, flan=fingerprint(flan, cache_dir), split=split)
    return RowFilter("filter", key, reasons, report)


def by_ngrams(mirror: Path | None, *, cache_dir: Path | None = None) -> RowFilter:
    """A filter that removes rows whose prompt shares a 13-gram with any text of Table 8's benchmarks.

    A benchmark that neither mirror nor hub has is left out, and the report says so. Raises UserError where
    they have none of them.
    """
    used = table_8_fingerprints(mirror, cache_dir)
    ids = {name: BENCHMARKS[name].hub_id for name in TABLE_8_BENCHMARKS}
    names = [name for name, hub_id in ids.items() if hub_id in used]
    missing = [hub_id for hub_id in ids.values() if hub_id not in used]
    if not used:
        raise UserError(
            f"filter by n-grams: none of {', '.join(missing)} is in the mirror {mirror} or on the hub; "
            "give a mirror that has them (data.mirror)"
        )
    report: RowReport = {"way": "ngrams", "n": N, "benchmarks": names, "benchmarks_missing": missing}
    report["removed"] = {}

    def reasons(flat: FlatRows, report: RowReport) -> list[str | None]:
        found = index().owners(flat.columns["user"])
        return overlap_reasons(flat, found, index(), "Table 8", report)

    index = cache(partial(benchmark_index, mirror, names, test_only=False))
    key = _key(way="ngrams", n=N, benchmarks=used)
    return RowFilter("filter", key, reasons, report)


def _key(**parts: Any) -> str:
    return cache_key(version=VERSION, **parts)


def _by_names(
    flat: FlatRows, names: Sequence[str | None], removed: set[str], report: RowReport
) -> list[str | None]:
    """For each row, whose task `names` gives, why it is removed; None for a row that stays."""
    reasons: list[str | None] = [None] * len(names)
    for number, name in enumerate(names):
        if flat.reasons[number] is not None:
            continue  # counted under its own fault
        if name in removed:
            reasons[number] = f"Table 8: {name}"
            report["removed"][name] = report["removed"].get(name, 0) + 1
        elif _is_missed(name):
            report["missed_by_table_8"][name] = report["missed_by_table_8"].get(name, 0) + 1
    return reasons


def _is_missed(name: str | None) -> bool:
    """Whether a task is one that Table 8 should name and does not."""
    return name is not None and MISSED_BY_TABLE_8.match(name) is not None
