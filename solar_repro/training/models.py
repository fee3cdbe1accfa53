"""Loading and saving checkpoints with transformers, as the stages that compute with a model do."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.pretrained import pretrained_model, pretrained_tokenizer
from solar_repro.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    folder: Path, dtype: str = "float32", **settings: Any
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A checkpoint's model, by default in float32 master weights, and its tokenizer."""
    import torch

    tokenizer = load_tokenizer(folder)
    return pretrained_model(folder, dtype=getattr(torch, dtype), **settings), tokenizer


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """A checkpoint's tokenizer, with a token to pad with; none, or one without BOS or EOS: UserError."""
    tokenizer = pretrained_tokenizer(folder)
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            token = name.removesuffix("_id")
            raise UserError(f"{folder.name}: the tokenizer has no {token}; set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Padding never reaches the loss; unk keeps a padded answer from looking like one that ended.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def save(
    model: "PreTrainedModel", weights: "dict[str, Tensor]", tokenizer: "PreTrainedTokenizerBase", out: Path
) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer with its chat template."""
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
