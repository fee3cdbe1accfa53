"""Checkpoints of a base's training, from which it resumes, as safetensors."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim import Optimizer
from transformers import PreTrainedModel

STATE_FILE = "state.safetensors"


def write_state(file: Path, model: PreTrainedModel, optimizers: list[Optimizer], step: int) -> None:
    """Write the weights, the optimizers' state for each of them, and the number of steps done."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for kind, value in _optimizer_of(weight, optimizers).state[weight].items():
            tensors[f"{kind}/{name}"] = value
    save_file(tensors, file, metadata={"step": str(step)})


def read_state(file: Path, model: PreTrainedModel, optimizers: list[Optimizer]) -> int:
    """Load a checkpoint into a model and its fresh optimizers, and return the number of steps done."""
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


def _optimizer_of(weight: torch.nn.Parameter, optimizers: list[Optimizer]) -> Optimizer:
    for optimizer in optimizers:
        if any(weight is one for group in optimizer.param_groups for one in group["params"]):
            return optimizer
    raise ValueError("no optimizer trains this weight")
