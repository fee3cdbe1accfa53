"""The layers of a narrow Llama on a CPU in few, large operations, for training and for scoring.

transformers computes a decoder layer in some forty operations. On a CPU each of them reads and writes its
whole input, which for narrow layers takes as long as the products of matrices do. Here queries, keys and
values are one product, gate and up projections another, the norms' weights are part of the products, and
nothing is computed for padding or across packed documents. The figures agree with transformers' own up to
rounding.
"""

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

WIDEST = 1024
"""Hidden size up to which this pays; above, products of matrices take nearly all of the time."""


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether a model is a float32 Llama on the CPU, narrow, and without anything beside its plain layers."""
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
    """The rows of a query or key projection [heads × size, width] in another order: the two numbers that a
    rotation turns lie side by side, as the real and the imaginary part of a complex number."""
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def as_it_was(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `interleaved`."""
    return weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def rotations(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embeddings [..., size], as transformers has them, as complex numbers [..., size / 2]."""
    half = cos.shape[-1] // 2
    return torch.complex(cos[..., :half].contiguous(), sin[..., :half].contiguous())


def rotate(states: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn interleaved queries and keys [tokens, heads, size] in place by rotations [tokens, 1, size / 2]."""
    torch.view_as_complex(states.unflatten(-1, (-1, 2))).mul_(turns)


def normalised(states: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States [tokens, width] over their root mean square, without the norm's weight, and its inverse."""
    inverse = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    inverse = inverse.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
    return states * inverse, inverse
