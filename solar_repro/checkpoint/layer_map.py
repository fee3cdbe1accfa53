"""Layer maps: which base layer each layer of the deeper model copies (paper, Sec. 2, Fig. 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from solar_repro.errors import UserError


@dataclass(frozen=True)
class Seam:
    """New layers `position` and `position` + 1 copy base layers `below` and `above`, no neighbours."""

    position: int
    below: int
    above: int

    @property
    def distance(self) -> int:
        """Layer distance |below − above| in the base (paper, Sec. 2); 1 inside a block."""
        return abs(self.below - self.above)


@dataclass(frozen=True)
class LayerMap:
    """New layer i copies base layer `layers[i]`; new layers in `zeroed` have zero output projections."""

    name: str
    base_layers: int
    layers: tuple[int, ...]
    zeroed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers or not all(0 <= layer < self.base_layers for layer in self.layers):
            raise UserError(f"layer map {self.name}: every layer must lie in 0 … {self.base_layers - 1}")

    @property
    def seams(self) -> tuple[Seam, ...]:
        """Where the new model leaves the base's order. Zeroed layers change nothing, so they make no seam."""
        active = [(new, base) for new, base in enumerate(self.layers) if new not in self.zeroed]
        return tuple(
            Seam(new, below, above) for (new, below), (_, above) in pairwise(active) if above != below + 1
        )

    def __str__(self) -> str:
        seams = ", ".join(f"{s.below}→{s.above} (distance {s.distance})" for s in self.seams) or "none"
        zeroed = f", {len(self.zeroed)} of them zeroed copies" if self.zeroed else ""
        return f"{self.name}: {self.base_layers} → {len(self.layers)} layers{zeroed}; seams: {seams}"


def dus(n: int, m: int) -> LayerMap:
    """Depth up-scaling: drop the last `m` layers of one copy and the first `m` of the other (paper, Sec. 2).

    The result has 2(n − m) layers with one seam of distance n − 2m − 1; n=32, m=8 gives SOLAR 10.7B.
    """
    if not 0 < m < n / 2:
        raise UserError(f"dus: m must lie between 1 and {(n - 1) // 2} for a base of {n} layers, not {m}")
    return LayerMap(f"dus m={m}", n, (*range(n - m), *range(m, n)))


def repeat(n: int) -> LayerMap:
    """Stack the whole model twice, n → 2n, as the paper's counterexample: one seam of distance n − 1 (Sec.

    2).
    """
    return LayerMap("repeat", n, (*range(n), *range(n)))


def interleave(n: int) -> LayerMap:
    """Repeat each layer in place, 0 0 1 1 …, n → 2n: between neighbours the distance is 0 or 1."""
    return LayerMap("interleave", n, tuple(layer for layer in range(n) for _ in range(2)))


def ranges(text: str, n: int) -> LayerMap:
    """Stack ranges of layers as mergekit's `layer_range` does, ends excluded: "0-24,8-32" is `dus(32, 8)`."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, end = part.strip().partition("-")
        if not (dash and first.isdecimal() and end.isdecimal() and int(first) < int(end) <= n):
            raise UserError(f"ranges {text!r}: {part.strip()!r} must be first-end with 0 ≤ first < end ≤ {n}")
        layers += range(int(first), int(end))
    return LayerMap(f"ranges {text}", n, tuple(layers))


def block_expansion(n: int, every: int) -> LayerMap:
    """Insert after each `every` layers a copy of the last one that changes nothing.

    The copy's output projections are zero (LLaMA-Pro, arXiv 2401.02415, Sec. 3.2).
    """
    if every < 1 or n % every:
        raise UserError(f"block expansion: 'every' must divide the base's {n} layers, {every} does not")
    layers: list[int] = []
    zeroed: list[int] = []
    for layer in range(n):
        layers.append(layer)
        if (layer + 1) % every == 0:
            zeroed.append(len(layers))
            layers.append(layer)
    return LayerMap(f"block expansion every={every}", n, tuple(layers), tuple(zeroed))


def parameters_of(config: Mapping[str, Any]) -> int:
    """Return the number of parameters of a Llama-shaped config (llama, mistral, qwen2, gemma).

    Mistral 7B has 7,241,732,096 and SOLAR 10.7B has 10,731,524,096. Tied embeddings count once. Raises
    UserError for another model type or a missing key.
    """
    family = config.get("model_type")
    if family not in ("llama", "mistral", "qwen2", "gemma"):
        raise UserError(
            f"config.json: model_type {family!r} is not Llama-shaped; open the checkpoint to count it"
        )
    try:
        hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    except KeyError as error:
        raise UserError(f"config.json: {error} is missing; a {family} config needs it") from error
    head_width = config.get("head_dim") or hidden // heads
    queries = heads * head_width
    keys = (config.get("num_key_value_heads") or heads) * head_width
    attention = hidden * (2 * queries + 2 * keys)
    if family == "qwen2":
        attention += queries + 2 * keys
    elif config.get("attention_bias"):
        attention += queries + 2 * keys + hidden
    feed_forward = 3 * hidden * inner + (2 * inner + hidden if config.get("mlp_bias") else 0)
    tied = config.get("tie_word_embeddings", family == "gemma")
    return layers * (attention + feed_forward + 2 * hidden) + hidden + vocab * hidden * (1 if tied else 2)


def variant_map(kind: str, n: int, m: int | None = None) -> LayerMap:
    """Return the layer map that a variant names, for a base of n layers.

    `kind` is `dus` (with `m`), `dus:<m>`, `ranges:<text>`, `repeat`, `interleave`, or `block_expansion`,
    which adds a layer to every two.
    """
    kind, _, detail = kind.partition(":")
    if kind == "dus":
        return dus(n, int(detail) if detail else m)
    if kind == "ranges":
        return ranges(detail, n)
    if kind == "repeat":
        return repeat(n)
    if kind == "interleave":
        return interleave(n)
    return block_expansion(n, 2 if n % 2 == 0 else 1)
