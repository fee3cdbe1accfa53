"""How a decoder names its tensors: the prefix of its layers and the config keys, found instead of listed.

This covers every decoder whose layers are numbered under one prefix (`model.layers.7.`, `gpt_neox.layers.7.`,
`transformer.h.7.`, `h.7.`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

_NUMBERED = re.compile(r"((?:[^.0-9][^.]*\.)*?)(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)
COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEAD = re.compile(r"(lm_head|embed_out)\.weight")
_EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|embed_in|word_embeddings|embed)\.weight")
# These buffers were stored by old versions of transformers, and every version recomputes them: rotary
# frequencies, and the causal mask with its fill value.
_FREQUENCIES = re.compile(r"(.*\.)?inv_freq", re.DOTALL)
_MASK = re.compile(r"(.*\.)?(attn|attention|self_attn|self_attention)\.(masked_)?bias", re.DOTALL)
# Modules with these names write into the residual stream in the decoders of transformers.
_OUTPUT_PROJECTIONS = frozenset(
    [
        "o_proj",
        "out_proj",
        "c_proj",
        "dense",
        "wo",
        "down_proj",
        "dense_4h_to_h",
        "fc2",
        "fc_out",
        "w2",
        "output_linear",
        "Wo",
    ]
)


@dataclass(frozen=True)
class LayerNames:
    """How layers are named: layer 7 has the tensors `<prefix>7.*`; `count_keys` are keys of the config."""

    prefix: str
    count: int
    count_keys: tuple[str, ...]

    def split(self, name: str) -> tuple[int, str] | None:
        """Return layer index and the rest of a tensor's name; None for a tensor outside the layers."""
        match = _NUMBERED.fullmatch(name)
        return (int(match[2]), match[3]) if match and match[1] == self.prefix else None

    def join(self, layer: int, rest: str) -> str:
        return f"{self.prefix}{layer}.{rest}"


def find_layers(folder: Path, config: Mapping[str, Any], names: Iterable[str]) -> LayerNames:
    """Find the prefix under which layers are numbered 0 … n−1 and the config keys that say n.

    Raises UserError.
    """
    indices: dict[str, set[int]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            indices.setdefault(match[1], set()).add(int(match[2]))
    if len(indices) != 1:
        found = ", ".join(sorted(map(repr, indices))[:5]) or "none"
        raise UserError(
            f"{folder}: layers must be numbered under one prefix, found {found}; only decoders are "
            "supported: of another model, save the language model by itself and give that"
        )
    ((prefix, layers),) = indices.items()
    missing = sorted(set(range(max(layers) + 1)) - layers)
    if missing:
        raise UserError(
            f"{folder}: tensors of layer {prefix}{missing[0]} are missing; download the checkpoint again"
        )
    keys = tuple(key for key in COUNT_KEYS if config.get(key) == len(layers))
    counts = {key: config[key] for key in COUNT_KEYS if type(config.get(key)) is int}
    if not keys and counts and all(count < len(layers) for count in counts.values()):
        key, count = next(iter(counts.items()))
        extra = config.get("num_nextn_predict_layers")
        why = f" (num_nextn_predict_layers = {extra}: it predicts further tokens)" if extra else ""
        raise UserError(
            f"{folder}: holds tensors of layer {prefix}{count}, one beyond {key} = {count} of "
            f"config.json{why}; such layers are not supported: load the model with transformers, which "
            "leaves them out, and save it to another folder"
        )
    if not keys:
        counts = {key: config[key] for key in COUNT_KEYS if key in config}
        raise UserError(
            f"{folder / 'config.json'}: the tensors have {len(layers)} layers under {prefix!r}, "
            f"but the config says {counts or 'nothing'}; set {COUNT_KEYS[0]} to that number"
        )
    return LayerNames(prefix, len(layers), keys)


def head_name(names: Iterable[str]) -> str | None:
    """Return the name of the output head's weight, None if none is stored."""
    return next((name for name in names if _HEAD.fullmatch(name)), None)


def embedding_name(names: Iterable[str]) -> str | None:
    """Return the name of the token embedding's weight, None if none is stored."""
    return next((name for name in names if _EMBEDDING.fullmatch(name)), None)


def is_recomputed(name: str, shape: Sequence[int]) -> bool:
    """Whether a stored tensor is a buffer that every version of transformers recomputes."""
    mask = len(shape) == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3]
    return _FREQUENCIES.fullmatch(name) is not None or (
        _MASK.fullmatch(name) is not None and (mask or all(size == 1 for size in shape))
    )


def output_projections(rests: Sequence[str]) -> list[str]:
    """Return the names, of one layer's `rests`, whose tensors write into the residual stream."""
    return [
        rest
        for rest in rests
        if _OUTPUT_PROJECTIONS & {part.removesuffix("_bias") for part in rest.split(".")}
    ]
