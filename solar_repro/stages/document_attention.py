"""Attention over packed blocks on a CPU, document by document."""

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
STEP = 64
"""Lengths are rounded up to its multiples; of one such length all documents are computed at once."""


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
    places, shapes = _layout(tuple(end - start for start, end in itertools.pairwise(starts)))
    sizes = [documents * length for documents, length in shapes]
    laid_out = []
    for states in (query, key, value):
        tokens = states.transpose(1, 2).reshape(rows * n, -1)
        padded = tokens.new_zeros(sum(sizes), tokens.shape[1]).index_copy(0, places, tokens)
        laid_out.append(padded.split(sizes))
    attended = []
    for shape, group in zip(shapes, zip(*laid_out, strict=True), strict=True):
        q, k, v = (states.view(*shape, -1, size).transpose(1, 2) for states in group)
        # What is behind a document is behind all that its tokens see: no mask is needed.
        k, v = (repeat_kv(states, heads // states.shape[1]) for states in (k, v))
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        attended.append(seen.transpose(1, 2).reshape(-1, heads * size))
    return _Taken.apply(torch.cat(attended), places).view(rows, n, heads, size), None


@functools.lru_cache(maxsize=1)
def _layout(lengths: tuple[int, ...]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Documents of like length side by side, padded to a multiple of `STEP`: where each token goes, and
    the groups' (documents, length). The layers of a model ask one after the other for the same."""
    padded = [-(-length // STEP) * STEP for length in lengths]
    order = sorted(range(len(lengths)), key=padded.__getitem__)
    ends = list(itertools.accumulate(padded[place] for place in order))
    begins = dict(zip(order, [0, *ends[:-1]], strict=True))
    places = [torch.arange(begins[place], begins[place] + length) for place, length in enumerate(lengths)]
    groups = itertools.groupby(order, key=padded.__getitem__)
    return torch.cat(places), [(len(list(group)), length) for length, group in groups]


class _Taken(torch.autograd.Function):
    """Rows by places that are all different: the way back is a copy, where PyTorch's own adds row by row."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(places)
        context.size = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,) = context.saved_tensors
        return gradient.new_zeros(context.size, gradient.shape[1]).index_copy_(0, places, gradient), None
