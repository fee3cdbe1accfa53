"""Attention on a GPU that computes each document of a packed or padded row by itself.

PyTorch's usual kernels are fast for whole rows alone. With a mask that tells documents apart they compute
all pairs of tokens of a row. Here all rows are one sequence of documents for its kernel of variable lengths
(FlashAttention), which computes a document's own pairs and shares keys and values among heads.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

PACKED = "packed"
"""The name under which transformers knows it."""
TOLERANCE = 0.02
"""The most by which bfloat16 may differ from float32 in the comparison of kernels, of the largest number."""


@dataclass(frozen=True)
class Boundaries:
    """Where documents begin in a batch whose rows stand one behind the other."""

    starts: Tensor
    """Cumulative lengths [documents + 1] (int32)."""
    longest: int


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model train on this GPU with `packed_attention`, if its kernel is right."""
    if kernel_is_right():
        AttentionInterface.register(PACKED, packed_attention)
        AttentionMaskInterface.register(PACKED, boundaries)
        model.set_attn_implementation(PACKED)


def boundaries(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Boundaries:
    """transformers' mask interface: a document begins where a token does not see the one before it.

    Padding is made of documents that nobody looks at. There is no cache.
    """
    if q_length != kv_length:
        raise ValueError(f"{q_length} queries for {kv_length} keys: training uses no cache")
    rows = torch.arange(batch_size, device=device)[:, None]
    tokens = torch.arange(1, q_length, device=device)[None]
    sees = mask_function(rows, torch.zeros_like(rows), tokens, tokens - 1).expand(batch_size, -1)
    if attention_mask is not None:
        sees = sees & attention_mask[:, :-1].bool()
    begins = torch.nn.functional.pad(~sees, (1, 0), value=True).flatten()
    starts = torch.nn.functional.pad(begins.nonzero()[:, 0], (0, 1), value=begins.numel())
    return Boundaries(starts.int(), int(starts.diff().max()))


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Boundaries,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [rows, heads, n, size] to output [rows, n, heads, size]."""
    rows, _, n, _ = query.shape
    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    if torch.is_autocast_enabled(query.device.type):  # the kernel takes half precision alone
        flat = [states.to(torch.get_autocast_dtype(query.device.type)) for states in flat]
    output = varlen_attn(
        *flat,
        attention_mask.starts,
        attention_mask.starts,
        attention_mask.longest,
        attention_mask.longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=True,
    )
    return output.unflatten(0, (rows, n)), None


@functools.cache
def kernel_is_right() -> bool:
    """Whether the kernel is there, and agrees with PyTorch's plain attention in output and gradients."""
    try:
        difference = _difference()
    except (RuntimeError, ValueError, NotImplementedError, ImportError) as error:
        why = str(error).splitlines()[0]
    else:
        if difference < TOLERANCE:
            return True
        why = f"it differs by {difference:.3g} from attention with a mask"
    print(
        f"attention of packed documents: PyTorch {torch.__version__} has no kernel for it here ({why}); "
        "masks are used",
        file=sys.stderr,
        flush=True,
    )
    return False


def _difference() -> float:
    """The largest difference to masked attention in float32, of two documents with grouped queries."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 48, 64), (1, 2, 48, 64), (1, 2, 48, 64), (1, 48, 4, 64))
    *states, towards = (torch.randn(shape, generator=generator).bfloat16().cuda() for shape in shapes)
    halves = [part.requires_grad_() for part in states]
    singles = [part.detach().float().requires_grad_() for part in states]
    starts = torch.tensor([0, 17, 48], dtype=torch.int32, device="cuda")
    query, key, value = halves
    found, _ = packed_attention(torch.nn.Module(), query, key, value, Boundaries(starts, 31))
    document = torch.bucketize(torch.arange(48, device="cuda"), starts[1:-1], right=True)
    mask = (document[:, None] == document).tril()[None, None]
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    expected, _ = sdpa_attention_forward(module, *singles, mask)
    found.backward(towards)
    expected.backward(towards.float())
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(halves, singles, strict=True))]
    with torch.no_grad():
        return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)
