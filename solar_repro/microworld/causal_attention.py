"""Causal attention for training a small model on a CPU: the scores of a block of queries as plain products.

PyTorch's CPU kernel computes the whole square of scores at these lengths and spends most of a small model's
training there; products of matrices up to each block's own end take about a third less of all time.
"""

import functools

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

NAME = "cpu_causal_training"
BLOCK = 128


def use_causal_attention(model: PreTrainedModel) -> None:
    """Let a model attend through this; only for sequences without padding, cache or packing."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
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
        shares = (scores + _later_keys(start, end, scores.dtype)).softmax(-1)
        parts.append(shares @ value[:, :, :end])
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


@functools.cache
def _later_keys(start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """[end - start, end]: minus infinity where a key stands behind the query, else 0."""
    return torch.full((end - start, end), float("-inf"), dtype=dtype).triu(start + 1)


def _no_mask(*args: object, **kwargs: object) -> None:
    return None
