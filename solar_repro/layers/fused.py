"""The layers of a narrow Llama on a CPU, computed in few, large operations, for training and for scoring.

transformers computes a decoder layer in some forty operations. On a CPU each of them reads and writes its
whole input, which for narrow layers takes as long as the products of matrices. Here one product gives
queries, keys and values, another gives gate and up projections, the norms' weights are part of these
products, and nothing is computed for padding or across packed documents. Results agree with those of
transformers up to rounding.
"""

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

WIDEST = 1024
"""Hidden size up to which fusing pays; in wider layers products of matrices take nearly all of the time."""


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether a model is a narrow float32 Llama with plain layers, on the CPU, that attends through SDPA."""
    return (
        type(model) is LlamaForCausalLM
        and model.config._attn_implementation == "sdpa"
        and model.config.hidden_size <= WIDEST
        and all(_is_plain(layer) for layer in model.model.layers)
    )


def _is_plain(layer: LlamaDecoderLayer) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    linears = (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )
    return (
        type(layer) is LlamaDecoderLayer
        and isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)
        and attention.attention_dropout == 0
        and all(type(linear) is nn.Linear and linear.bias is None for linear in linears)
        and all(
            weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in layer.parameters()
        )
    )


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a query or key projection [heads × size, width].

    The two numbers that a rotation turns then lie side by side, as the parts of a complex number.
    """
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def deinterleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo `interleaved`."""
    return weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def rotations(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """transformers' rotary embeddings [..., size] as complex numbers [..., size / 2]."""
    half = cos.shape[-1] // 2
    return torch.complex(cos[..., :half].contiguous(), sin[..., :half].contiguous())


def rotate(states: torch.Tensor, turns: torch.Tensor) -> None:
    """Rotate interleaved queries and keys [tokens, heads, size] in place by `turns` [tokens, 1, size / 2]."""
    torch.view_as_complex(states.unflatten(-1, (-1, 2))).mul_(turns)


def normalised(states: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States [tokens, width] divided by their root mean square, and the inverse of that [tokens, 1].

    The norm's weight is not applied.
    """
    inverse = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    inverse = inverse.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
    return states * inverse, inverse
