"""What a merge did: effective weights, cosines between the parents, tensors merged linearly after all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from solar_repro.checkpoint.merge_methods import SLERP_LINEAR_ABOVE, cosine, effective_weights
from solar_repro.checkpoint.merge_schedule import TensorMerge
from solar_repro.checkpoint.tensor_names import LayerNames
from solar_repro.safety.json_files import write_json

OUTSIDE_LAYERS = "outside the layers"


@dataclass(frozen=True)
class MergeReport:
    """Report of a merge; `effective_weights` and `cosines` are by tensor, `layer_cosines` by layer.

    Weights are in the order of the parents, then the base if there is one. Cosines are between the parents of
    each of `pairs` (indices of sources), over all elements of the tensor or layer, and None if a parent is
    zero; tensors outside the layers share one entry. `digests` are the SHA-256 of the shards by file name,
    and `config_differences` the keys in which the parents' configs differ.
    """

    method: str
    sources: tuple[str, ...]
    base: str | None
    pairs: tuple[tuple[int, int], ...]
    effective_weights: Mapping[str, tuple[float, ...]]
    cosines: Mapping[str, tuple[float | None, ...]]
    layer_cosines: Mapping[str, tuple[float | None, ...]]
    linear_fallbacks: tuple[str, ...]
    config_differences: tuple[str, ...]
    digests: Mapping[str, str]

    def write(self, file: Path) -> None:
        """Write the report as JSON."""
        write_json(file, asdict(self))

    def plot(self, file: Path) -> None:
        """Plot the cosine between the parents by layer."""
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        layers = [key for key in self.layer_cosines if key != OUTSIDE_LAYERS]
        for number, (i, j) in enumerate(self.pairs):
            values = [self.layer_cosines[layer][number] for layer in layers]
            line = [math.nan if value is None else value for value in values]
            axes.plot(range(len(layers)), line, marker="o", markersize=3, label=f"{i} and {j}")
        axes.set(xlabel="layer", ylabel="cosine between the parents", title=self.method)
        if len(self.pairs) > 1:
            axes.legend(title="parents")
        figure.savefig(file, dpi=150)


def report_on(
    tensors: Sequence[TensorMerge],
    names: LayerNames,
    sources: Sequence[Path],
    base: Path | None,
    config_differences: Sequence[str],
    digests: Mapping[str, str],
) -> MergeReport:
    """Collect what the passes over the tensors found."""
    recipe = tensors[0].recipe
    pairs = tuple(combinations(range(len(sources)), 2))
    grams: dict[str, dict[tuple[int, int], float]] = {}
    for tensor in tensors:
        place = names.split(tensor.name)
        of_layer = grams.setdefault(OUTSIDE_LAYERS if place is None else str(place[0]), {})
        for pair, product in tensor.findings.gram.items():
            of_layer[pair] = of_layer.get(pair, 0.0) + product
    by_layer = sorted(grams, key=lambda key: math.inf if key == OUTSIDE_LAYERS else int(key))
    cosines = {t.name: tuple(cosine(t.findings.gram, i, j) for i, j in pairs) for t in tensors}
    return MergeReport(
        method=recipe.method,
        sources=tuple(map(str, sources)),
        base=None if base is None else str(base),
        pairs=pairs,
        effective_weights={t.name: effective_weights(t.recipe, t.findings) for t in tensors},
        cosines=cosines,
        layer_cosines={key: tuple(cosine(grams[key], i, j) for i, j in pairs) for key in by_layer},
        linear_fallbacks=tuple(name for name, found in cosines.items() if _is_linear(found))
        if recipe.method == "slerp"
        else (),
        config_differences=tuple(config_differences),
        digests=dict(digests),
    )


def _is_linear(cosines: tuple[Any, ...]) -> bool:
    return cosines[0] is None or abs(cosines[0]) > SLERP_LINEAR_ABOVE
