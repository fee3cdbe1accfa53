"""How far a base's training is: as safetensors, so that it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

STATE_FILE = "state.safetensors"


def write_state(
    file: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Weights, the optimizers' memory of each, and the steps done."""
    from safetensors.torch import save_file

    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for kind, value in _optimizer_of(weight, optimizers).state[weight].items():
            tensors[f"{kind}/{name}"] = value
    save_file(tensors, file, metadata={"step": str(step)})


def read_state(file: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Put a state back into a model and its fresh optimizers; the steps done."""
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
        return int(state.metadata()["step"])


def _optimizer_of(
    weight: torch.nn.Parameter, optimizers: list[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    for optimizer in optimizers:
        if any(weight is one for group in optimizer.param_groups for one in group["params"]):
            return optimizer
    raise ValueError("a weight that no optimizer trains")
