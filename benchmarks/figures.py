"""Pictures of a comparison, each as PNG and SVG; the SVG takes the page's text colour, light or dark."""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bad_runs import passing_over, text
from benchmarks.runs import CONTAMINATION, EVALUATE, MODEL, Runs
from benchmarks.tables import score
from solar_repro.paper import variants
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.safety.escapes import escape_plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
COLOURS = ("#7c5cd6", "#d9822b", "#2a9d8f", "#d1495b", "#4a7fc1", "#8a8f3c", "#b0609e", "#7a7a7a")
"""Of middle lightness, to be read on white and on black."""
_TITLES = {
    "solar": "depth up-scaled (SOLAR)",
    "repeat_continued": "all layers repeated",
    "interleave_continued": "each layer twice in place",
    "block_expansion_continued": "block expansion",
    "scratch_continued": "from scratch",
    "base_continued": "the base itself",
}


def draw_all(runs: Runs, out: Path) -> dict[str, str]:
    """Write every figure that the runs allow as PNG and SVG into `out`; SVG text by name."""
    drawings = {
        "recovery": recovery,
        "h6": h6,
        "training": training,
        "contamination": contamination,
        "merges": merge_cosines,
        "plan": plan,
    }
    drawn = {name: write(out / name, draw, runs) for name, draw in drawings.items()}
    return {name: text for name, text in drawn.items() if text is not None}


def write(path: Path, draw: "Callable[..., Figure | None]", *arguments: Any) -> str | None:
    """Write a figure as `<path>.png` on white and `<path>.svg`; the SVG's text, its ink the page's colour.

    Nothing, and None, where there is nothing to draw.
    """
    import matplotlib

    with matplotlib.rc_context({**_style(), "svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure = draw(*arguments)
        if figure is None:
            return None
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout holds for both files
        # Without date and version in it the same runs give the same bytes.
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = svg.getvalue()
    path.with_suffix(".svg").write_text(drawn, encoding="utf-8")
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")


def recovery(runs: Runs) -> "Figure | None":
    """Held-out loss against tokens of continued pretraining (Sec. 2), the first seed; the base's a line.

    Training from scratch has a panel of its own above, on another scale.
    """
    curves = {
        name: points
        for name in runs.found.get(MODEL, {})
        if _stage(runs, name) == "continue_pretrain" and (points := _recovery_points(runs, name))
    }
    if not curves:
        return None
    apart = "scratch_continued" in curves and len(curves) > 1
    figure, panels = _figure(7.5, 4.8, 2, heights=[1, 3]) if apart else _figure(7.5, 4)
    for colour, (name, points) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes = panels[0] if name == "scratch_continued" else panels[-1]
        tokens, losses = zip(*points, strict=True)
        thousands = [token / 1000 for token in tokens]
        axes.plot(
            thousands,
            losses,
            marker="o",
            markersize=4,
            color=colour,
            label=escape_plot_text(_TITLES.get(name, name)),
        )
    base = runs.mean(EVALUATE, "base", "held_out_loss")
    if base is not None:
        panels[-1].axhline(base, linestyle="--", linewidth=1, color=INK, label="base, before")
    for axes in panels:
        axes.legend(frameon=False)
    panels[0].set_title("Recovery after up-scaling (Sec. 2)")
    panels[-1].set(
        xlabel="tokens of continued pretraining (thousands)", ylabel="held-out loss (nats per token)"
    )
    return figure


def _stage(runs: Runs, name: str) -> str:
    return runs.first(MODEL, name).data.tags["solar.stage"]


def _recovery_points(runs: Runs, name: str) -> list[tuple[int, float]]:
    run = runs.first(MODEL, name)
    parameters = run.data.params
    tokens = int(parameters["continue_pretrain.global_batch_size"]) * int(
        parameters["continue_pretrain.max_length"]
    )
    return [(step * tokens, loss) for step, loss in runs.history(run, "recovery/held_out_loss")]


def h6(runs: Runs) -> "Figure | None":
    """H6 of every variant with its 95 % interval."""
    scores = {name: score(runs, name, "H6") for name in runs.found.get(EVALUATE, {})}
    found = {name: found for name, found in scores.items() if found[0] is not None}
    names = [name for name in (*variants.PAPER, *variants.CONTROLS) if name in found]
    names += [name for name in found if name not in names]
    if not names:
        return None
    figure, (axes,) = _figure(7.5, 0.27 * len(names) + 1.1)
    axes.barh(
        [escape_plot_text(name) for name in names],
        [found[name][0] for name in names],
        xerr=[1.96 * (found[name][1] or math.nan) for name in names],
        color=COLOURS[0],
        alpha=0.75,
        ecolor=INK,
        capsize=2,
    )
    axes.invert_yaxis()
    axes.set(xlabel="H6 (percent, with 95 % interval)")
    return figure


def training(runs: Runs) -> "Figure | None":
    """Training loss by step, a panel a stage, the first seed; DPO's loss starts at log 2."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name in runs.found.get(MODEL, {}):
        stage = _stage(runs, name)
        if stage in ("continue_pretrain", "sft", "dpo"):
            points = runs.history(runs.first(MODEL, name), "loss")
            if points:
                panels.setdefault(stage, {})[name] = points
    if not panels:
        return None
    figure, panel_axes = _figure(7.5, 2.9 * len(panels), rows=len(panels))
    titles = {"continue_pretrain": "continued pretraining", "sft": "instruction tuning", "dpo": "DPO"}
    for axes, (stage, curves) in zip(panel_axes, panels.items(), strict=True):
        for colour, (name, points) in zip(_colours(len(curves)), curves.items(), strict=True):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=escape_plot_text(name))
        axes.set(xlabel="optimiser step", ylabel="loss", title=titles[stage])
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def contamination(runs: Runs) -> "Figure | None":
    """Histograms of the neighbour test's result by text, a panel a task (Table 9), the first seed."""
    tested = runs.of(CONTAMINATION, "merge_v1")
    if not tested:
        return None
    tests = _tests(runs, next(iter(tested.values())))
    if not tests:
        return None
    figure, panel_axes = _figure(7.5, 2.3 * math.ceil(len(tests) / 2), math.ceil(len(tests) / 2), 2)
    for axes, test in zip(panel_axes, tests, strict=False):
        axes.hist(test["scores"], bins=[tenth / 10 for tenth in range(11)], color=COLOURS[0], alpha=0.75)
        axes.axvline(test["threshold"], linestyle="--", linewidth=1, color=INK)
        axes.set(
            title=f"{escape_plot_text(test['task'])}: {test['share']:.2f} below {test['threshold']}",
            ylabel="texts",
        )
        axes.set(xlabel="share of neighbours with a lower loss")
    for axes in panel_axes[len(tests) :]:
        axes.remove()
    return figure


def _tests(runs: Runs, run: Any) -> list[dict[str, Any]]:
    """Task, scores, threshold and share of each of a run's contamination tests."""
    tests = []
    with passing_over(run, "result"):
        folder = runs.folder(run)
        for file in [folder / f"{task}.json" for task in H6_NAMES]:
            if file.is_file():
                test = json.loads(file.read_text(encoding="utf-8"))
                figures = [test["threshold"], test["share"], *test["scores"]]
                if not all(math.isfinite(figure) and 0 <= figure <= 1 for figure in figures):
                    raise ValueError(f"{file.name}: has figures that are no shares")
                tests.append({**test, "task": text(test["task"])})
    return tests


def merge_cosines(runs: Runs) -> "Figure | None":
    """One minus the cosine between a merge's parents by layer, the first seed; a line for each pair."""
    curves: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for name in runs.found.get(MODEL, {}):
        parents = variants.PAPER[name].parents if name in variants.PAPER else ()
        if len(parents) == 2 and parents not in curves:
            curves[parents] = runs.history(runs.first(MODEL, name), "parents_cosine")
    curves = {parents: points for parents, points in curves.items() if points}
    if not curves:
        return None
    figure, (axes,) = _figure(7.5, 3.4)
    for colour, (parents, points) in zip(_colours(len(curves)), curves.items(), strict=True):
        layers, cosines = zip(*points, strict=True)
        distances = [1 - cosine for cosine in cosines]
        axes.plot(layers, distances, marker="o", markersize=4, color=colour, label=" and ".join(parents))
    axes.set(
        xlabel="layer (the last point: embeddings, head, final norm)",
        ylabel="1 − cosine between the parents",
        title="How far apart the merged models are",
        yscale="log",
    )
    axes.legend(frameon=False)
    return figure


def plan(_: Runs) -> "Figure":
    """What each variant of `main` is made from, left to right."""
    names = [found.name for found in variants.lineage(*variants.MAIN)]
    columns = _columns(names)
    figure, (axes,) = _figure(11, 4.4)
    stages = list(dict.fromkeys(variants.variant(name).stage for name in names))
    colour = dict(zip(stages, _colours(len(stages)), strict=True))
    boxes = {}
    for column in sorted(set(columns.values())):
        members = [name for name in names if columns[name] == column]
        for row, name in enumerate(members):
            box = {"boxstyle": "round,pad=0.4", "facecolor": "none"}
            box["edgecolor"] = colour[variants.variant(name).stage]
            place = (column, (len(members) - 1) / 2 - row)
            boxes[name] = axes.text(*place, name, ha="center", va="center", fontsize=8, bbox=box)
    for name, box in boxes.items():
        for parent in variants.variant(name).parents:
            ends = {"patchA": boxes[parent].get_bbox_patch(), "patchB": box.get_bbox_patch()}
            arrow = {"arrowstyle": "->", "color": INK, "alpha": 0.4, "shrinkA": 1, "shrinkB": 1, **ends}
            axes.annotate("", box.get_position(), boxes[parent].get_position(), arrowprops=arrow)
    for stage in stages:
        axes.plot([], [], color=colour[stage], linewidth=2, label=stage)
    axes.legend(frameon=False, ncols=len(stages), loc="upper center", bbox_to_anchor=(0.5, 1.08), fontsize=8)
    most = max(list(columns.values()).count(column) for column in columns.values())
    axes.set(xlim=(-0.5, max(columns.values()) + 0.5), ylim=(-most / 2, most / 2))
    axes.axis("off")
    return figure


def _columns(names: Sequence[str]) -> dict[str, int]:
    """Column of each variant: as far right as its children allow; merges without any, in the last."""
    parents = {name: variants.variant(name).parents for name in names}
    columns: dict[str, int] = {}
    for name in names:  # parents come first
        columns[name] = 1 + max((columns[parent] for parent in parents[name]), default=-1)
    last = max(columns.values())
    for name in reversed(names):
        children = [columns[child] - 1 for child in names if name in parents[child]]
        if children:
            columns[name] = min(children)
        elif variants.variant(name).stage == "merge":
            columns[name] = last
    return columns


def bars(values: Mapping[str, tuple[float, float]], label: str) -> "Figure":
    """Points with error bars, one a name: value and half the width of its interval."""
    figure, (axes,) = _figure(7.5, 0.35 * len(values) + 1.1)
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


def layer_maps(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Held-out loss before any training against m, m = 0 for all layers repeated; other maps are lines.

    The axis above tells the layers that each m leaves.
    """
    figure, (axes,) = _figure(7.5, 4)
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
        color=COLOURS[0],
        ecolor=INK,
        capsize=2,
        label=label,
    )
    axes.axhline(base["loss"], linestyle="--", linewidth=1, color=INK, label=f"base, {base['layers']} layers")
    others = [
        row for row in rows if row["map"] not in ("base", "repeat") and not row["map"].startswith("m = ")
    ]
    for colour, row in zip(COLOURS[1:], others, strict=False):
        name = escape_plot_text(_TITLES.get(f"{row['map']}_continued", row["map"]))
        axes.axhline(row["loss"], linestyle=":", color=colour, label=f"{name}, {row['layers']} layers")
    axes.set(xlabel="m: layers cut from each copy", ylabel="held-out loss (nats per token)")
    axes.set_title("Right after scaling, before any training (Sec. 2)")
    layers = base["layers"]
    above = axes.secondary_xaxis(
        "top", functions=(lambda m: 2 * (layers - m), lambda deep: layers - deep / 2)
    )
    above.set_xlabel("layers of the deeper model")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _colours(number: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(number)]


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> "tuple[Figure, list[Axes]]":
    # No pyplot: its global state picks a window system and keeps every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)


def _style() -> dict[str, Any]:
    inked = ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")
    return {f"{part}color": INK for part in inked} | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
    }
