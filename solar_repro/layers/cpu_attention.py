"""Causal attention of a prompt on a CPU: one row of the batch and one block of queries at a time.

A causal model needs half of the square of scores; PyTorch's CPU kernel computes the whole of it below 512
keys. Here each block of queries sees the keys up to its own end alone, and a row's keys, values and scores
stay in the processor's cache meanwhile.
"""

import functools

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "cpu_causal"
BLOCK = 128
"""Queries at a time; prompts below this length are left to PyTorch's kernel."""


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Let a model on the CPU that attends through SDPA use this; leave others as they are."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, cpu_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def cpu_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size]."""
    whole = attention_mask is None and key.shape[2] == query.shape[2]
    if whole and query.shape[2] >= BLOCK:
        return _causal_blocks(query, key, value, query.shape[3] ** -0.5 if scaling is None else scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _causal_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    rows, heads, length, size = query.shape
    shared = key.shape[1]  # heads of keys and values, each for several of the queries
    output = query.new_empty(rows, length, heads, size)
    for row in range(rows):
        queries = (query[row] * scale).view(shared, heads // shared, length, size)
        keys, values = key[row].transpose(1, 2), value[row]
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            block = queries[:, :, start:end].reshape(shared, -1, size)
            scores = torch.bmm(block, keys[:, :, :end]).view(shared, -1, end - start, end)
            scores[..., start:] += _future(BLOCK)[: end - start, : end - start]
            weights = torch.softmax(scores.float(), dim=-1).to(scores.dtype).view(shared, -1, end)
            found = torch.bmm(weights, values[:, :end]).view(heads, end - start, size)
            output[row, start:end] = found.transpose(0, 1)
    return output


@functools.cache
def _future(size: int) -> torch.Tensor:
    """[size, size]: minus infinity where a key lies behind its query, else 0."""
    return torch.full((size, size), float("-inf")).triu(1)
