"""Scoring and decoding with fused layers: forward passes with or without a key-value cache."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from solar_repro.layers.fused import can_fuse, interleaved, normalised, rotate, rotations


def fuse_for_scoring(model: PreTrainedModel) -> None:
    """Let a model score with fused layers if `can_fuse` is true; its weights are fixed from here on."""
    if not can_fuse(model):
        return
    for layer in model.model.layers:
        layer.forward = functools.partial(_forward, layer, _weights(layer))
    model.fused_for_scoring = True


@contextmanager
def logits_at(model: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """In this context the model's logits are those of the given positions: [1, positions, vocabulary]."""
    if getattr(model, "fused_for_scoring", False):
        last = model.model.layers[-1]
        last.wanted = (rows, columns)
        try:
            yield
        finally:
            del last.wanted
        return

    def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][rows, columns][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def _weights(layer: LlamaDecoderLayer) -> tuple[Tensor, Tensor]:
    """The projections to queries, keys and values, and to gate and up, multiplied with the norms' weights."""
    attention, mlp = layer.self_attn, layer.mlp
    queries, keys, values = (
        projection.weight.detach() for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    size = attention.head_dim
    turned = [interleaved(queries, len(queries) // size), interleaved(keys, len(keys) // size)]
    attended = torch.cat([*turned, values]) * layer.input_layernorm.weight.detach()
    fed = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])
    return attended.t(), (fed * layer.post_attention_layernorm.weight.detach()).t()


def _forward(
    layer: LlamaDecoderLayer, weights: tuple[Tensor, Tensor], hidden_states: Tensor, **inputs: Any
) -> Tensor:
    """The forward pass of a decoder layer. The last one goes on with the positions of `logits_at` alone."""
    attention, mlp = layer.self_attn, layer.mlp
    rows, n, width = hidden_states.shape
    states, size = hidden_states.view(-1, width), attention.head_dim
    heads, kv_heads = (len(projection.weight) // size for projection in (attention.q_proj, attention.k_proj))
    qkv = normalised(states, layer.input_layernorm.variance_epsilon)[0] @ weights[0]
    qkv = qkv.view(rows * n, -1, size)
    cos, sin = inputs["position_embeddings"]
    rotate(qkv[:, : heads + kv_heads], rotations(cos, sin).expand(rows, n, -1).reshape(rows * n, 1, -1))
    parts = qkv.view(rows, n, -1, size).transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
    queries, keys, values = parts
    cache = inputs.get("past_key_values")
    if cache is not None:
        keys, values = cache.update(keys, values, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    found, _ = attend(
        attention, queries, keys, values, inputs.get("attention_mask"), dropout=0.0, scaling=attention.scaling
    )
    found = found.reshape(-1, heads * size)
    if hasattr(layer, "wanted"):
        chosen = layer.wanted[0] * n + layer.wanted[1]
        states, found, rows = states[chosen], found[chosen], 1
    states = torch.addmm(states, found, attention.o_proj.weight.t())
    gated, raised = (
        normalised(states, layer.post_attention_layernorm.variance_epsilon)[0] @ weights[1]
    ).chunk(2, 1)
    states = torch.addmm(states, silu(gated, inplace=True).mul_(raised), mlp.down_proj.weight.t())
    return states.view(rows, -1, width)
