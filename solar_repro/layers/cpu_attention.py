"""Faster attention on a CPU, for scoring and for training: products of matrices, block by block of queries.

A causal model needs half of the square of scores. PyTorch's CPU kernel computes the whole of it below 512
keys and wherever it gets a mask, slowly in bfloat16. Here each block of queries is multiplied with the keys
up to its own end alone. Scoring goes row by row of the batch, so that a row's keys, values and scores stay in
the processor's cache. Training takes all rows at once, for autograd's sake, and tells the documents of a row
apart by the mask.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from solar_repro.layers.fused import can_fuse
from solar_repro.layers.fused_training import fuse_for_training

SCORING, TRAINING = "cpu_scoring", "cpu_training"
"""Names under which transformers knows the two."""
BLOCK = 128
"""Queries of a block. Shorter prompts are left to PyTorch's kernel when a model scores."""
LONGEST = 1024
"""Tokens of a row up to which training's scores, which the backward pass needs, take little memory."""


def use_scoring_attention(model: PreTrainedModel) -> None:
    """Let a model on the CPU that attends through SDPA score with `scoring_attention`; leave others alone."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(SCORING, scoring_attention)
        AttentionMaskInterface.register(SCORING, sdpa_mask)
        model.set_attn_implementation(SCORING)


def use_cpu_training_attention(model: PreTrainedModel) -> None:
    """Let a model train on the CPU with `training_attention`.

    A model whose layers can be fused attends in those, document by document, where it computes in float32.
    """
    if can_fuse(model):
        fuse_for_training(model)
    AttentionInterface.register(TRAINING, training_attention)
    AttentionMaskInterface.register(TRAINING, _training_mask)
    model.set_attn_implementation(TRAINING)


def scoring_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size].

    Only prompts without a mask and without a cache are computed here. There is no gradient.
    """
    rows, heads, n, size = query.shape
    if attention_mask is not None or key.shape[2] != n or n < BLOCK:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    shared = key.shape[1]  # heads of keys and values, each for several of the queries
    scale = size**-0.5 if scaling is None else scaling
    output = query.new_empty(rows, n, heads, size)
    for row in range(rows):
        queries = (query[row] * scale).view(shared, heads // shared, n, size)
        keys, values = key[row].transpose(1, 2), value[row]
        for start in range(0, n, BLOCK):
            end = min(start + BLOCK, n)
            block = queries[:, :, start:end].reshape(shared, -1, size)
            scores = torch.bmm(block, keys[:, :, :end]).view(shared, -1, end - start, end)
            scores[..., start:] += _future(BLOCK)[: end - start, : end - start]
            weights = torch.softmax(scores.float(), dim=-1).to(scores.dtype).view(shared, -1, end)
            found = torch.bmm(weights, values[:, :end]).view(heads, end - start, size)
            output[row, start:end] = found.transpose(0, 1)
    return output, None


@functools.cache
def _future(size: int) -> Tensor:
    """[size, size]: minus infinity where a key lies behind its query, else 0."""
    return torch.full((size, size), float("-inf")).triu(1)


def training_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size].

    Only rows of at most LONGEST tokens, with a mask and without a cache, are computed here.
    """
    heads, n, size = query.shape[1:]
    if attention_mask is None or key.shape[2] != n or n > LONGEST:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query = (query * (size**-0.5 if scaling is None else scaling)).to(dtype)
    key, value = (repeat_kv(states, heads // key.shape[1]).to(dtype) for states in (key, value))
    # The lowest number, not minus infinity: a padding query sees nothing, and must not become NaN.
    unseen = torch.zeros(attention_mask.shape, dtype=dtype)
    unseen.masked_fill_(~attention_mask, torch.finfo(dtype).min)
    key, parts = key.transpose(-2, -1), []
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        scores = query[..., start:end, :] @ key[..., :end]
        scores += unseen[..., start:end, :end]
        parts.append(scores.softmax(-1) @ value[..., :end, :])
    return torch.cat(parts, -2).transpose(1, 2).contiguous(), None


def _training_mask(**arguments: Any) -> Tensor | None:
    """SDPA's mask [rows, 1, n, keys], true where a query sees a key, which rows up to LONGEST always get."""
    whole = arguments["q_length"] == arguments["kv_length"] <= LONGEST
    return sdpa_mask(**arguments | ({"allow_is_causal_skip": False} if whole else {}))
