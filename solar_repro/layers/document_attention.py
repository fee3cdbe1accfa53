"""Attention for training on a CPU: plain products of matrices, a block of queries at a time.

PyTorch's CPU kernel computes the whole square of a sequence's scores when it gets a mask, slowly in bfloat16.
Blocks of queries, each with the keys up to its own end, take half the products; documents packed into one row
are told apart by the mask.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from solar_repro.device import device
from solar_repro.layers.fused import can_fuse
from solar_repro.layers.fused_training import fuse_for_training

NAME = "cpu_documents"
BLOCK = 128
LONGEST = 1024
"""Tokens of a row up to which the scores, kept for the backward pass, are small."""


def use_document_attention(model: PreTrainedModel) -> None:
    """Let a model that attends through SDPA and is trained on the CPU use this; leave others as they are.

    One whose layers can be fused attends by document in those, where it computes in float32.
    """
    if device() != "cpu" or model.config._attn_implementation != "sdpa":
        return
    if can_fuse(model):
        fuse_for_training(model)
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(**arguments: Any) -> torch.Tensor | None:
    """As for SDPA: [rows, 1, n, keys], true where a query sees a key. Rows in reach always get one."""
    whole = arguments["q_length"] == arguments["kv_length"] <= LONGEST
    return sdpa_mask(**arguments | ({"allow_is_causal_skip": False} if whole else {}))


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size]."""
    heads, n, size = query.shape[1:]
    if attention_mask is None or key.shape[2] != n or n > LONGEST:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query = (query * (size**-0.5 if scaling is None else scaling)).to(dtype)
    key, value = (repeat_kv(states, heads // key.shape[1]).to(dtype) for states in (key, value))
    # The lowest number, not minus infinity: a padding query sees nothing, and shall not become NaN.
    unseen = torch.zeros(attention_mask.shape, dtype=dtype)
    unseen.masked_fill_(~attention_mask, torch.finfo(dtype).min)
    key, parts = key.transpose(-2, -1), []
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        scores = query[..., start:end, :] @ key[..., :end]
        scores += unseen[..., start:end, :end]
        parts.append(scores.softmax(-1) @ value[..., :end, :])
    return torch.cat(parts, -2).transpose(1, 2).contiguous(), None
