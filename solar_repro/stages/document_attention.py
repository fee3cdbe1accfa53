"""Attention over packed blocks on a CPU, document by document."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from solar_repro.evaluation.cpu_attention import BLOCK, LENGTHS, block_mask
from solar_repro.stages.checkpoints import device

NAME = "cpu_documents"


def use_document_attention(model: PreTrainedModel) -> None:
    """Let a model that attends through SDPA and is trained on the CPU use this; leave others as they are.

    The kernel takes a block-diagonal mask, but computes the whole square of a block's scores under it.
    """
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
    packed = attention_mask is None and position_ids is not None and key.shape[2] == n
    if packed:
        begins = (position_ids == 0).expand(rows, n).clone()
        begins[:, 0] = False
    if not packed or not begins.any():
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    begins[:, 0] = True
    starts = [*begins.flatten().nonzero().flatten().tolist(), rows * n]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    key, value = (repeat_kv(states, heads // key.shape[1]) for states in (key, value))
    # One split is undone by one concatenation on the way back; slices would each fill a whole gradient.
    parts = (states.transpose(0, 1).reshape(heads, rows * n, size) for states in (query, key, value))
    documents = zip(*(states.split(lengths, dim=1) for states in parts), strict=True)
    attended = [part for document in documents for part in _causal(*document, scaling)]
    return torch.cat(attended, dim=1).transpose(0, 1).reshape(rows, n, heads, size), None


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
) -> Iterator[torch.Tensor]:
    """One document, [heads, length, size]: in blocks of queries where the kernel would not leave out what is
    masked (see `evaluation.cpu_attention`)."""
    attend = torch.nn.functional.scaled_dot_product_attention
    length = query.shape[1]
    if length not in LENGTHS:
        yield attend(query[None], key[None], value[None], is_causal=True, scale=scale)[0]
        return
    for start, block in zip(range(0, length, BLOCK), query.split(BLOCK, dim=1), strict=True):
        end = start + block.shape[1]
        mask = block_mask(start, start + BLOCK)[:, :, : end - start, :end]
        yield attend(block[None], key[None, :, :end], value[None, :, :end], attn_mask=mask, scale=scale)[0]
