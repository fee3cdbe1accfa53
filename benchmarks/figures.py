"""The pictures of the report, each drawn from the runs of a comparison."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.bad_runs import passing_over, text
from benchmarks.drawing import COLOURS, INK, TITLES, colours, figure_of, variant_colours, write
from benchmarks.runs import CONTAMINATION, EVALUATE, MODEL, Runs
from benchmarks.tables import interval, score
from solar_repro.paper import variants
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.safety.escapes import escape_plot_text


def draw_all(runs: Runs, out: Path) -> dict[str, str]:
    """Write every figure that the runs allow as PNG and SVG into `out`. Returns the SVG's text by name."""
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


def recovery(runs: Runs) -> Figure | None:
    """Draw the first seed's held-out loss against tokens of continued pretraining (Sec. 2), above the base's.

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
    figure, panels = figure_of(7.5, 4.8, 2, heights=[1, 3]) if apart else figure_of(7.5, 4)
    chosen = variant_colours(curves)
    for name, points in curves.items():
        axes = panels[0] if name == "scratch_continued" else panels[-1]
        tokens, losses = zip(*points, strict=True)
        thousands = [token / 1000 for token in tokens]
        axes.plot(
            thousands,
            losses,
            marker="o",
            markersize=4,
            color=chosen[name],
            label=escape_plot_text(TITLES.get(name, name)),
        )
    base = runs.mean(EVALUATE, "base", "held_out_loss")
    if base is not None:
        panels[-1].axhline(base, linestyle="--", linewidth=1, color=INK, label="base, before")
    for axes in panels:
        axes.legend(frameon=False)
    first = ", first seed" if len(runs.seeds) > 1 else ""
    scale = escape_plot_text(runs.scale)
    panels[0].set_title(f"Recovery after up-scaling (Sec. 2) at scale {scale}{first}")
    panels[-1].set_xlabel("tokens of continued pretraining (thousands)")
    figure.supylabel("held-out loss (nats per token)", fontsize="medium")
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


def h6(runs: Runs) -> Figure | None:
    """Draw H6 of every variant with its 95 % interval."""
    scores = {name: score(runs, name, "H6") for name in runs.found.get(EVALUATE, {})}
    found = {name: found for name, found in scores.items() if found[0] is not None}
    names = [name for name in (*variants.PAPER, *variants.CONTROLS) if name in found]
    names += [name for name in found if name not in names]
    if not names:
        return None
    figure, (axes,) = figure_of(7.5, 0.27 * len(names) + 1.1)
    values = [found[name][0] for name in names]
    ends = [interval(runs, name, "H6") or (math.nan, math.nan) for name in names]
    axes.barh(
        [escape_plot_text(name) for name in names],
        values,
        xerr=[
            [value - low for value, (low, _) in zip(values, ends, strict=True)],
            [high - value for value, (_, high) in zip(values, ends, strict=True)],
        ],
        color=COLOURS[0],
        alpha=0.75,
        ecolor=INK,
        capsize=2,
    )
    axes.invert_yaxis()
    axes.set(xlabel="H6 (percent, with 95 % interval)")
    return figure


def training(runs: Runs) -> Figure | None:
    """Draw the first seed's training loss by step, a panel per stage; DPO's loss starts at log 2."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name in runs.found.get(MODEL, {}):
        stage = _stage(runs, name)
        if stage in ("continue_pretrain", "sft", "dpo"):
            points = runs.history(runs.first(MODEL, name), "loss")
            if points:
                panels.setdefault(stage, {})[name] = points
    if not panels:
        return None
    figure, panel_axes = figure_of(7.5, 2.9 * len(panels), rows=len(panels))
    titles = {"continue_pretrain": "continued pretraining", "sft": "instruction tuning", "dpo": "DPO"}
    for axes, (stage, curves) in zip(panel_axes, panels.items(), strict=True):
        for colour, (name, points) in zip(colours(len(curves)), curves.items(), strict=True):
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=escape_plot_text(name))
        axes.set(xlabel="optimiser step", ylabel="loss", title=titles[stage])
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def contamination(runs: Runs) -> Figure | None:
    """Draw histograms of the first seed's neighbour tests (Table 9) over texts, a panel per task."""
    tested = runs.of(CONTAMINATION, "merge_v1")
    if not tested:
        return None
    tests = _tests(runs, next(iter(tested.values())))
    if not tests:
        return None
    figure, panel_axes = figure_of(7.5, 2.3 * math.ceil(len(tests) / 2), math.ceil(len(tests) / 2), 2)
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
    """Read the task, scores, threshold and share of each of a run's contamination tests."""
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


def merge_cosines(runs: Runs) -> Figure | None:
    """Draw one minus the cosine between a merge's parents by layer, for the first seed; a line per pair."""
    curves: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for name in runs.found.get(MODEL, {}):
        parents = variants.PAPER[name].parents if name in variants.PAPER else ()
        if len(parents) == 2 and parents not in curves:
            curves[parents] = runs.history(runs.first(MODEL, name), "parents_cosine")
    curves = {parents: points for parents, points in curves.items() if points}
    if not curves:
        return None
    figure, (axes,) = figure_of(7.5, 3.4)
    for colour, (parents, points) in zip(colours(len(curves)), curves.items(), strict=True):
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


def plan(_: Runs) -> Figure:
    """Draw what each variant of `main` is made from, from left to right."""
    names = [found.name for found in variants.lineage(*variants.MAIN)]
    columns = _columns(names)
    figure, (axes,) = figure_of(11, 4.4)
    stages = list(dict.fromkeys(variants.variant(name).stage for name in names))
    colour = dict(zip(stages, colours(len(stages)), strict=True))
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
    """Place each variant in a column as far right as its children allow, and childless merges in the last."""
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
