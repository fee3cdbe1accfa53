"""How far a base's training is: kept on disk now and then, as safetensors, so that it can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Logged = list[tuple[dict[str, float], int]]


def write_state(
    file: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], step: int, logged: Logged
) -> None:
    """Weights, the optimizers' memory of each, the steps done and what was logged; whole or not at all."""
    from safetensors.torch import save_file

    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for kind, value in _optimizer_of(weight, optimizers).state[weight].items():
            tensors[f"{kind}/{name}"] = value
    beside = file.with_suffix(".new")
    save_file(tensors, beside, metadata={"step": str(step), "logged": json.dumps(logged)})
    os.replace(beside, file)


def read_state(
    file: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, Logged]:
    """Put a state back into a model and its fresh optimizers; the steps done and what was logged."""
    import torch
    from safetensors import safe_open

    with safe_open(file, "pt") as state, torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(state.get_tensor(f"weight/{name}"))
        weights = dict(model.named_parameters())
        for key in state.keys():  # noqa: SIM118 (no mapping)
            kind, _, name = key.partition("/")
            if kind != "weight":
                weight = weights[name]
                _optimizer_of(weight, optimizers).state[weight][kind] = state.get_tensor(key)
        logged = [(metrics, step) for metrics, step in json.loads(state.metadata()["logged"])]
        return int(state.metadata()["step"]), logged


def _optimizer_of(
    weight: torch.nn.Parameter, optimizers: list[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    for optimizer in optimizers:
        if any(weight is one for group in optimizer.param_groups for one in group["params"]):
            return optimizer
    raise ValueError("a weight that no optimizer trains")
