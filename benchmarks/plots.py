"""Pictures of the comparison. Each is written as PNG and returned as SVG text for the HTML page."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.compare import Runs

_TITLES = {
    "solar": "depth up-scaled, then continued (SOLAR)",
    "repeat_continued": "layers repeated, then continued",
}


def recovery(runs: "Runs", out: Path) -> str:
    """Held-out loss against tokens of continued pretraining; the base's loss as a line (Sec. 2)."""
    figure, axes = _figure(7, 4)
    for name, points in runs.curves.items():
        tokens, losses = zip(*points, strict=True)
        axes.plot([token / 1000 for token in tokens], losses, marker="o", label=_TITLES.get(name, name))
    if "held_out_loss" in runs.scores.get("base", {}):
        axes.axhline(runs.scores["base"]["held_out_loss"], linestyle="--", color="grey", label="base")
    axes.set_xlabel("tokens of continued pretraining (thousands)")
    axes.set_ylabel("held-out loss (nats a token)")
    axes.set_title("Held-out loss through continued pretraining (Sec. 2)")
    axes.legend()
    return _save(figure, out / "recovery.png")


def scores(runs: "Runs", out: Path) -> str:
    """H6 of every variant with its standard error."""
    found = {name: metrics for name, metrics in runs.scores.items() if "H6" in metrics}
    figure, axes = _figure(7, 0.28 * len(found) + 1.2)
    axes.barh(
        list(found),
        [metrics["H6"] for metrics in found.values()],
        xerr=[metrics.get("H6_stderr", math.nan) for metrics in found.values()],
        color="tab:purple",
        alpha=0.7,
    )
    axes.invert_yaxis()
    axes.set_xlabel("H6 (percent, ± one standard error over items)")
    return _save(figure, out / "h6.png")


def _figure(width: float, height: float) -> tuple["Figure", ...]:
    # No pyplot: its global state picks a window system and keeps every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: "Figure", path: Path) -> str:
    import matplotlib

    figure.savefig(path, dpi=150)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "solar", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
