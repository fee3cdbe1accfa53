"""What became of a set's rows: counts, and for each reason to drop a row the ids of the first such rows."""

from typing import Any

RowReport = dict[str, Any]
EXAMPLES_NAMED = 5


def drop(report: RowReport, reason: str, row_id: str | None = None) -> None:
    """Count a dropped row under `dropped`, and name the first ones of each reason under `examples`."""
    dropped = report.setdefault("dropped", {})
    dropped[reason] = dropped.get(reason, 0) + 1
    if row_id is not None:
        named = report.setdefault("examples", {}).setdefault(reason, [])
        if len(named) < EXAMPLES_NAMED:
            named.append(row_id)


def add(report: RowReport, part: RowReport) -> None:
    """Add the report of another part of the set: counts are summed, of `longest` the greater is kept."""
    for name, value in part.items():
        if name == "examples":
            for reason, row_ids in value.items():
                known = report[name].setdefault(reason, [])
                known += row_ids[: EXAMPLES_NAMED - len(known)]
        elif name == "dropped":
            for reason, count in value.items():
                report[name][reason] = report[name].get(reason, 0) + count
        else:
            report[name] = max(report[name], value) if name == "longest" else report[name] + value
