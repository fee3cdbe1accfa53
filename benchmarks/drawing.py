"""Draws a picture and writes it as PNG and SVG; the SVG takes the page's text colour, light or dark."""

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
COLOURS = ("#7c5cd6", "#d9822b", "#2a9d8f", "#d1495b", "#4a7fc1", "#8a8f3c", "#b0609e", "#7a7a7a")
"""Have a middle lightness, so that they can be read on white and on black."""
TITLES = {
    "solar": "depth up-scaled (SOLAR)",
    "repeat_continued": "all layers repeated",
    "interleave_continued": "each layer twice in place",
    "block_expansion_continued": "block expansion",
    "scratch_continued": "from scratch",
    "base_continued": "the base itself",
}
"""Titles of the continued models that a reader knows under another name."""


def write(path: Path, draw: Callable[..., Figure | None], *arguments: Any) -> str | None:
    """Write the figure that `draw` returns as `<path>.png` on white and as `<path>.svg`.

    Returns the text of the SVG, which takes the page's text colour. Where `draw` returns None there is
    nothing to draw: nothing is written, and None is returned.
    """
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


def variant_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name: of those in TITLES always the same, of the others one that is left."""
    known = dict(zip(TITLES, COLOURS, strict=False))
    names = list(names)
    left = itertools.cycle([colour for colour in COLOURS if colour not in map(known.get, names)])
    return {name: known.get(name) or next(left) for name in names}


def colours(number: int) -> list[str]:
    """Return so many colours; they repeat after eight."""
    return [COLOURS[index % len(COLOURS)] for index in range(number)]


def figure_of(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Make an empty figure, sizes in inches, and its panels row by row."""
    # No pyplot: its global state picks a window system and keeps every figure alive.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)


def _style() -> dict[str, Any]:
    inked = ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")
    return {f"{part}color": INK for part in inked} | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
    }
