"""What the checkpoint benchmark measured: medians, ratios beside the targets, a table, a bar plot."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.performance.processes import Contender, Run
from benchmarks.text_table import text_table


def summarise(runs: Sequence[tuple[Contender, list[Run]]], checks: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures as they go to JSON. Times are those until the output was on the disk."""
    contenders = [
        {
            "task": contender.task,
            "name": contender.name,
            "bytes": contender.bytes,
            "median_seconds": statistics.median(run.seconds_on_disk for run in of_contender),
            "peak_resident_bytes": max(run.peak_resident_bytes for run in of_contender),
            "runs": [asdict(run) for run in of_contender],
        }
        for contender, of_contender in runs
    ]
    return {"contenders": contenders, "targets": _targets(contenders), "checks": checks}


def _targets(contenders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seconds = {(c["task"], c["name"]): c["median_seconds"] for c in contenders}
    peak = {(c["task"], c["name"]): c["peak_resident_bytes"] for c in contenders}
    ours, hashing, up = "solar_repro", "solar_repro, hashing", "up-scaling"
    floor = max(seconds[up, "dd, reading"], seconds[up, "dd, writing"])
    at_most = [
        ("up-scaling: time / cp", seconds[up, ours] / seconds[up, "cp"], 0.55),
        ("up-scaling: time / floor by dd", seconds[up, ours] / floor, 1.3),
        ("up-scaling: time with hashing / without", seconds[up, hashing] / seconds[up, ours], 1.4),
        ("up-scaling: peak resident MB", max(peak[up, ours], peak[up, "solar_repro, hashing"]) / 1e6, 150),
        *((f"{task}: peak resident MB", peak[task, ours] / 1e6, 1500) for task in ("average", "slerp")),
    ]
    at_least = [
        (f"{task}: mergekit's time / ours", seconds[task, "mergekit"] / seconds[task, ours], limit)
        for task, limit in ((up, 2.5), ("average", 1.5), ("slerp", 2.2))
        if (task, "mergekit") in seconds
    ]
    return [
        *({"what": w, "value": v, "at_most": limit, "met": v <= limit} for w, v, limit in at_most),
        *({"what": w, "value": v, "at_least": limit, "met": v >= limit} for w, v, limit in at_least),
    ]


def table(results: dict[str, Any]) -> str:
    """Markdown: a row per contender, a row per target, a line per check."""
    measured = [
        (
            c["task"],
            c["name"],
            f"{c['median_seconds']:.2f}",
            f"{c['bytes'] / c['median_seconds'] / 1e9:.2f}",
            f"{c['peak_resident_bytes'] / 1e6:,.0f}",
        )
        for c in results["contenders"]
    ]
    targets = [
        (
            target["what"],
            f"{target['value']:.2f}",
            f"≤ {target['at_most']}" if "at_most" in target else f"≥ {target['at_least']}",
            "yes" if target["met"] else "no",
        )
        for target in results["targets"]
    ]
    checks = [
        f"- {'passed' if check['passed'] else 'FAILED'}: {check['what']}"
        + (f" ({check['error']:.3e})" if "error" in check else "")
        for check in results["checks"]
    ]
    of_contenders = ("task", "contender", "seconds (median)", "GB/s", "peak memory MB")
    of_targets = ("target (set for `--size full`, idle machine)", "measured", "limit", "met")
    return "\n\n".join(
        [
            text_table(of_contenders, measured).markdown(),
            text_table(of_targets, targets).markdown(),
            "\n".join(checks),
        ]
    )


def plot(results: dict[str, Any], file: Path) -> None:
    """Bars of time and of peak memory, by task."""
    tasks = list(dict.fromkeys(c["task"] for c in results["contenders"]))
    rows = [[c for c in results["contenders"] if c["task"] == task] for task in tasks]
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(results["contenders"])), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False, height_ratios=[len(row) for row in rows])
    for (time_axes, memory_axes), task, row in zip(axes, tasks, rows, strict=True):
        colours = ["#4c72b0" if c["name"].startswith("solar_repro") else "#b0b0b0" for c in row]
        columns = (
            (time_axes, [c["median_seconds"] for c in row], "{:.1f}"),
            (memory_axes, [c["peak_resident_bytes"] / 1e9 for c in row], "{:.2f}"),
        )
        for panel, values, form in columns:
            bars = panel.barh([c["name"] for c in row], values, color=colours)
            panel.bar_label(bars, labels=[form.format(value) for value in values], padding=3)
            panel.margins(x=0.15)
            panel.invert_yaxis()
            panel.spines[["top", "right"]].set_visible(False)
        time_axes.set_title(task, loc="left", fontsize="medium")
        memory_axes.set_yticks([])
    axes[-1][0].set_xlabel("seconds until on the disk (median)")
    axes[-1][1].set_xlabel("peak resident memory, GB")
    figure.savefig(file, dpi=150)
