"""Floating-point operations of a model, from its config (names as in `config.json`)."""

from collections.abc import Mapping
from typing import Any

from solar_repro.checkpoint.layer_map import parameters_of


def training_flops(config: Mapping[str, Any], length: int) -> float:
    """FLOPs per token of a training step: 6N + 12·layers·width·length (PaLM, arXiv 2204.02311, App. B).

    N is the number of parameters, width is heads × head size. Recomputed activations do not count, as in MFU.
    """
    return float(
        6 * parameters_of(config) + 12 * config["num_hidden_layers"] * attention_width(config) * length
    )


def forward_flops(config: Mapping[str, Any], length: int) -> float:
    """FLOPs per token of a forward pass, a third of those of a training step."""
    return training_flops(config, length) / 3


def attention_width(config: Mapping[str, Any]) -> int:
    """Heads × head size."""
    heads = config["num_attention_heads"]
    return int(heads * (config.get("head_dim") or config["hidden_size"] // heads))
