"""Histograms of token counts and scores, as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_MARGINS = {"left": 0.12, "right": 0.97, "bottom": 0.17, "top": 0.89}
"""Margins as parts of the picture. A layout that matplotlib computes takes as long as the drawing."""


def draw_histogram(
    file: Path,
    groups: Mapping[str, Sequence[float] | np.ndarray],
    bins: int | Sequence[float],
    *,
    title: str,
    x: str,
    y: str,
) -> None:
    """Draw the values of each named group and write them as PNG; the same values give the same bytes."""
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots(gridspec_kw=_MARGINS)
    axes.hist(list(groups.values()), bins=bins, label=list(groups))
    axes.set(xlabel=x, ylabel=y, title=title)
    if len(groups) > 1:
        axes.legend()
    # The file does not name the library's version.
    figure.savefig(file, dpi=120, metadata={"Software": None})
