"""What the evaluation benchmark measured: both adapters by benchmark, as a table and as a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


@dataclass
class Measured:
    """What one adapter took on one benchmark; `peak_mib` is None where the machine cannot tell."""

    seconds: float
    tokens: int
    peak_mib: float | None


@dataclass
class BenchmarkRow:
    """One benchmark: both adapters, the tokens that any method must compute, and how answers differ."""

    column: str
    stock: Measured
    ours: Measured
    needed_tokens: int
    items: int
    largest_relative_difference: float
    different_argmax: int
    different_texts: int


def totals(rows: list[BenchmarkRow]) -> BenchmarkRow:
    """Add all benchmarks together."""

    def add(side: str) -> Measured:
        parts = [getattr(row, side) for row in rows]
        peaks = [part.peak_mib for part in parts if part.peak_mib is not None]
        return Measured(
            sum(part.seconds for part in parts), sum(part.tokens for part in parts), max(peaks, default=None)
        )

    return BenchmarkRow(
        column="all",
        stock=add("stock"),
        ours=add("ours"),
        needed_tokens=sum(row.needed_tokens for row in rows),
        items=sum(row.items for row in rows),
        largest_relative_difference=max(row.largest_relative_difference for row in rows),
        different_argmax=sum(row.different_argmax for row in rows),
        different_texts=sum(row.different_texts for row in rows),
    )


def table(rows: list[BenchmarkRow]) -> str:
    """Write the rows as text; `stock/s` and `ours/s` are items per second."""
    lines = [
        f"{'':11}{'items':>6}{'stock s':>9}{'ours s':>8}{'stock/s':>9}{'ours/s':>8}"
        f"{'times':>7}{'tokens':>8}{'limit':>7}"
        f"{'stock MiB':>11}{'ours MiB':>10}{'max diff':>10}{'argmax':>8}{'texts':>7}"
    ]
    for row in rows:
        peaks = [f"{side.peak_mib:.0f}" if side.peak_mib else "-" for side in (row.stock, row.ours)]
        lines.append(
            f"{row.column:11}{row.items:6}{row.stock.seconds:9.1f}{row.ours.seconds:8.1f}"
            f"{row.items / row.stock.seconds:9.1f}{row.items / row.ours.seconds:8.1f}"
            f"{row.stock.seconds / row.ours.seconds:7.1f}{row.stock.tokens / row.ours.tokens:8.2f}"
            f"{row.stock.tokens / row.needed_tokens:7.2f}{peaks[0]:>11}{peaks[1]:>10}"
            f"{row.largest_relative_difference:10.1e}{row.different_argmax:8}{row.different_texts:7}"
        )
    return "\n".join(lines)


def plot(rows: list[BenchmarkRow], path: Path) -> None:
    """Draw the seconds of both adapters for each benchmark."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, side, label in ((-0.2, "stock", "stock adapter"), (0.2, "ours", "shared prefixes")):
        bars = axes.bar(places + shift, [getattr(row, side).seconds for row in rows], 0.4, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(places, [row.column for row in rows])
    axes.set_ylabel("seconds")
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
