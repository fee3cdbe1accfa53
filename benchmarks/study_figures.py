"""Pictures of the studies: points with error bars, and the loss of every layer map before any training."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.drawing import COLOURS, INK, TITLES, figure_of, variant_colours
from solar_repro.safety.escapes import escape_plot_text


def bars(values: Mapping[str, tuple[float, float]], label: str) -> Figure:
    """Draw a point with an error bar for each name: its value and half the width of its interval."""
    figure, (axes,) = figure_of(7.5, 0.35 * len(values) + 1.1)
    middles, halves = zip(*values.values(), strict=True)
    axes.errorbar(
        middles,
        [escape_plot_text(name) for name in values],
        xerr=halves,
        fmt="o",
        color=COLOURS[0],
        ecolor=INK,
        capsize=3,
    )
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.margins(y=0.1)
    return figure


def layer_maps(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the held-out loss before any training against m; m = 0 repeats all layers, other maps are lines.

    The axis above shows the number of layers of each m's model.
    """
    figure, (axes,) = figure_of(7.5, 4)
    swept = [(int(row["map"][4:]), row) for row in rows if row["map"].startswith("m = ")]
    swept += [(0, row) for row in rows if row["map"] == "repeat"]
    swept.sort(key=lambda pair: pair[0])
    base = next(row for row in rows if row["map"] == "base")
    ms, losses = [m for m, _ in swept], [row["loss"] for _, row in swept]
    errors = [
        [row["loss_above_base"] - row["loss_low"] for _, row in swept],
        [row["loss_high"] - row["loss_above_base"] for _, row in swept],
    ]
    label = "depth up-scaling (m = 0: all layers repeated)"
    axes.errorbar(
        ms,
        losses,
        yerr=errors,
        marker="o",
        markersize=4,
        color=variant_colours(["solar"])["solar"],
        ecolor=INK,
        capsize=2,
        label=label,
    )
    axes.axhline(base["loss"], linestyle="--", linewidth=1, color=INK, label=f"base, {base['layers']} layers")
    others = {
        f"{row['map']}_continued": row
        for row in rows
        if row["map"] not in ("base", "repeat") and not row["map"].startswith("m = ")
    }
    chosen = variant_colours(["solar", *others])
    for name, row in others.items():
        text = f"{escape_plot_text(TITLES.get(name, row['map']))}, {row['layers']} layers"
        axes.axhline(row["loss"], linestyle=":", linewidth=2, color=chosen[name], label=text)
    axes.margins(y=0.08)
    axes.set(xlabel="m: layers cut from each copy", ylabel="held-out loss (nats per token)")
    axes.set_title("Right after scaling, before any training (Sec. 2)", pad=14)
    layers = base["layers"]
    above = axes.secondary_xaxis(
        "top", functions=(lambda m: 2 * (layers - m), lambda deep: layers - deep / 2)
    )
    places = [2 * (layers - m) for m in ms[:: 1 + len(ms) // 9]]
    above.set_xticks(places, [_size(deep, base, swept[-1][1]) for deep in places])
    above.set_xlabel("layers and parameters of the deeper model")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _size(layers: float, base: Mapping[str, Any], deeper: Mapping[str, Any]) -> str:
    """A tick of the axis above: layers, and below them the parameters, of which each layer has as many."""
    known = [(row["layers"], int(row["parameters"].replace(",", ""))) for row in (base, deeper)]
    (few, least), (many, most) = known
    parameters = least + (layers - few) * (most - least) / (many - few)
    scaled = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:,.0f}M"
    return f"{layers:.0f}\n{scaled}"
