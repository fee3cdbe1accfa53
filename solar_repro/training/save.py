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

    Raises UserError if `weights` hold NaN or infinity, and OSError with its errno if the disk is full.
    """
    from safetensors import SafetensorError

    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError("training diverged: the weights hold NaN or infinity; lower the learning rate")
    try:
        model.save_pretrained(out, state_dict=weights)
        tokenizer.save_pretrained(out)
    except SafetensorError as error:
        # The library hides the errno by which a full disk is told from other faults.
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(out)) from error
        raise
