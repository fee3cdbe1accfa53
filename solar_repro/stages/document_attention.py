"""Causal attention for training on a CPU: document by document, a block of queries at a time.

PyTorch's CPU kernel computes the whole square of a sequence's scores at these lengths, also those that a mask
takes out. Products of matrices within each document, up to each block's own end, take much less.
"""

import functools
import itertools
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from solar_repro.stages.checkpoints import device

NAME = "cpu_documents"
BLOCK = 128
LONGEST = 1024
"""Tokens of a document up to which the scores, kept for the backward pass, are small."""


def use_document_attention(model: PreTrainedModel) -> None:
    """Let a model that attends through SDPA and is trained on the CPU use this; leave others as they are."""
    if device() != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(**arguments: Any) -> torch.Tensor | None:
    """None where documents can be told by their positions alone: without padding mask or cache."""
    whole = arguments["q_length"] == arguments["kv_length"] and arguments["q_offset"] == 0
    return None if whole and arguments["attention_mask"] is None else sdpa_mask(**arguments)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size].

    A document begins at the start of a row and wherever `position_ids` [rows or 1, n] is 0.
    """
    rows, heads, n, size = query.shape
    if attention_mask is not None or key.shape[2] != n:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = size**-0.5 if scaling is None else scaling
    begins = torch.zeros(rows, n, dtype=torch.bool)
    if position_ids is not None:
        begins |= position_ids == 0
    begins[:, 0] = True
    key, value = (repeat_kv(states, heads // key.shape[1]) for states in (key, value))
    if int(begins.sum()) == rows:
        return _causal(query, key, value, scale).transpose(1, 2).contiguous(), None
    starts = [*begins.flatten().nonzero().flatten().tolist(), rows * n]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    # One split is undone by one concatenation on the way back; slices would each fill a whole gradient.
    parts = (states.transpose(0, 1).reshape(heads, rows * n, size) for states in (query, key, value))
    documents = zip(*(states.split(lengths, dim=1) for states in parts), strict=True)
    attended = [_causal(*document, scale) for document in documents]
    return torch.cat(attended, dim=1).transpose(0, 1).reshape(rows, n, heads, size), None


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention over [..., n, size]: blocks of queries see the keys up to their own end alone."""
    if query.shape[-2] > LONGEST:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale
        )
    query, key, parts = query * scale, key.transpose(-2, -1), []
    for start in range(0, query.shape[-2], BLOCK):
        end = min(start + BLOCK, query.shape[-2])
        scores = query[..., start:end, :] @ key[..., :end]
        weights = (scores + _later_keys(start, end, scores.dtype)).softmax(-1)
        parts.append(weights @ value[..., :end, :])
    return torch.cat(parts, -2)


@functools.cache
def _later_keys(start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """[end - start, end]: minus infinity where a key stands behind the query, else 0."""
    with torch.inference_mode(False):  # kept for training too, where a tensor of inference is refused
        return torch.full((end - start, end), float("-inf"), dtype=dtype).triu(start + 1)
