"""Writing a trained model as a Hugging Face checkpoint."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_checkpoint(
    model: "PreTrainedModel", weights: "dict[str, Tensor]", tokenizer: "PreTrainedTokenizerBase", out: Path
) -> None:
    """Write a Hugging Face folder to `out`: config, safetensors, tokenizer with its chat template.

    The config names the format of `weights`, float32 or bfloat16, whatever the model was trained in.

    Raises UserError if `weights` hold NaN or infinity, and OSError with its errno if the disk is full.
    """
    from safetensors import SafetensorError

    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError("training diverged: the weights hold NaN or infinity; lower the learning rate")
    half = any(weight.element_size() == 2 for weight in weights.values())
    try:
        model.save_pretrained(out, state_dict=weights)
        if half:  # the library writes down the format that the model has in memory
            model.config.dtype = "bfloat16"
            model.config.save_pretrained(out)
        tokenizer.save_pretrained(out)
    except SafetensorError as error:
        # The library hides the errno by which a full disk is told from other faults.
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(out)) from error
        raise


def to_bfloat16(weights: "dict[str, Tensor]", seed: int) -> "dict[str, Tensor]":
    """Round float32 weights to one of their two neighbours in bfloat16, with the chance that keeps the mean.

    The nearest neighbour of a weight is the old one where its update is much smaller than the gap between
    the two, as in DPO: the update would vanish. A number that bfloat16 has stays as it is.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    rounded = {}
    for name in sorted(weights):
        bits = weights[name].float().contiguous().cpu().view(torch.int32)
        chance = torch.randint(0, 1 << 16, bits.shape, generator=generator, dtype=torch.int32)
        rounded[name] = ((bits + chance) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
    return {name: rounded[name] for name in weights}
