"""Causal attention for training a small model on a CPU: the scores of a block of queries as plain products.

At these lengths PyTorch's CPU kernel computes the whole square of scores, and spends most of a small model's
training there. Products of matrices up to each block's own end take about a third less of all time.
"""

import functools

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

NAME = "cpu_causal_training"
BLOCK = 128
LONGEST = 1024
"""Tokens of a sequence up to which the scores, kept for the backward pass, are small."""


def use_training_attention(model: PreTrainedModel, length: int) -> None:
    """Let a model on the CPU attend through this in sequences of `length` tokens, where it attends by SDPA.

    Every token must see at least one, as in packed blocks; there may be no key-value cache.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa" or length > LONGEST:
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size]."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    query, parts = query * scaling, []
    for start in range(0, query.shape[2], BLOCK):
        end = min(start + BLOCK, query.shape[2])
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(2, 3)
        if attention_mask is None:
            scores = scores + _later_keys(start, end, scores.dtype)
        else:
            scores = scores.masked_fill(~attention_mask[:, :, start:end, :end], float("-inf"))
        parts.append(scores.softmax(-1) @ value[:, :, :end])
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


@functools.cache
def _later_keys(start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """[end - start, end]: minus infinity where a key stands behind the query, else 0."""
    with torch.inference_mode(False):  # kept for training too, where a tensor of inference is refused
        return torch.full((end - start, end), float("-inf"), dtype=dtype).triu(start + 1)
