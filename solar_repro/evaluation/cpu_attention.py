"""Causal attention on a CPU in blocks of queries, for prompts of 128 to 767 tokens.

PyTorch's CPU kernel reads keys in blocks of 512, so below that length it computes the whole square of
scores, of which a causal model needs half. Here each block of queries sees the keys up to its own end
alone.
"""

import functools

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "cpu_causal"
BLOCK = 64
LENGTHS = range(2 * BLOCK, 768)
"""From 768 queries on the kernel's own blocks skip most of what is masked."""


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
    if query.shape[2] in LENGTHS and attention_mask is None and key.shape[2] == query.shape[2]:
        return _causal_blocks(query, key, value, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _causal_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    output = torch.empty_like(query)
    for start in range(0, query.shape[2], BLOCK):
        end = min(start + BLOCK, query.shape[2])
        output[:, :, start:end] = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, :end],
            value[:, :, :end],
            attn_mask=block_mask(start, end),
            scale=scale,
        )
    return output.transpose(1, 2).contiguous()


@functools.cache
def block_mask(start: int, end: int) -> torch.Tensor:
    """[1, 1, end - start, end]: each query sees the keys up to its own position."""
    return torch.ones(end - start, end, dtype=torch.bool).tril(start)[None, None]
