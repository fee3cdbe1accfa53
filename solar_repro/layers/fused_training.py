"""Training with fused layers: each decoder layer is one autograd function, with its gradients written out."""

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from solar_repro.layers.documents import Documents, LengthGroup, documents_of
from solar_repro.layers.fused import deinterleaved, interleaved, normalised, rotate, rotations


class Batch:
    """Finds the documents of a batch in its mask, once for all layers of a model."""

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._documents: Documents | None = None

    def documents(self, layer: LlamaDecoderLayer, mask: Any, inputs: dict[str, Any]) -> Documents | None:
        """The batch's documents; None if fused layers cannot compute it, as in bfloat16 or with a cache."""
        whole = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape[-1] == mask.shape[-2]
        # Autocast of one process shows as such; FSDP2 casts weights and what the layer is given.
        other = torch.is_autocast_enabled("cpu") or inputs["position_embeddings"][0].dtype != torch.float32
        if not whole or inputs.get("past_key_values") is not None or other:
            return None
        if mask is not self._mask:
            config = layer.self_attn.config
            turns = rotations(*inputs["position_embeddings"])
            found = documents_of(mask, turns, config.num_attention_heads, config.num_key_value_heads)
            self._mask, self._documents = mask, found
        return self._documents


def fuse_for_training(model: LlamaForCausalLM) -> None:
    """Let a model for which `can_fuse` is true train with fused layers.

    They compute batches of whole sequences with a mask [rows, 1, n, n], true where a query sees a key; other
    batches are left to transformers.
    """
    batch, last = Batch(), len(model.model.layers) - 1
    for number, layer in enumerate(model.model.layers):
        layer.forward = functools.partial(_forward, layer, batch, number == 0, number == last)


def _forward(
    layer: LlamaDecoderLayer, batch: Batch, first: bool, last: bool, hidden_states: Tensor, **inputs: Any
) -> Tensor:
    """The forward pass of a decoder layer; from the first to the last layer, padding is left out."""
    mask = inputs["attention_mask"]
    documents = batch.documents(layer, mask, inputs)
    if documents is None:
        return type(layer).forward(layer, hidden_states, **inputs)
    rows, n = mask.shape[0], mask.shape[-1]
    states = hidden_states.flatten(0, 1)
    if first and documents.real is not None:
        states = states[documents.real]
    attention, mlp = layer.self_attn, layer.mlp
    states = FusedLayer.apply(
        states,
        layer.input_layernorm.weight,
        *(attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, attention.o_proj.weight),
        layer.post_attention_layernorm.weight,
        *(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight),
        documents,
        (attention.head_dim, attention.scaling),
        (layer.input_layernorm.variance_epsilon, layer.post_attention_layernorm.variance_epsilon),
    )
    if not last:
        return states[None]
    if documents.real is not None:
        whole = states.new_zeros(rows * n, states.shape[-1])
        states = whole.index_copy(0, documents.real, states)
    return states.view(rows, n, -1)


class FusedLayer(torch.autograd.Function):
    """A decoder layer of Llama on the states [tokens, width] of all tokens but padding."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        norm_1: Tensor,
        wq: Tensor,
        wk: Tensor,
        wv: Tensor,
        wo: Tensor,
        norm_2: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        documents: Documents,
        head: tuple[int, float],
        epsilons: tuple[float, float],
    ) -> Tensor:
        size, scaling = head
        heads, kv_heads = len(wq) // size, len(wk) // size
        projections = torch.cat([interleaved(wq, heads), interleaved(wk, kv_heads), wv])
        attended, inverse_1 = normalised(states, epsilons[0])
        qkv = attended @ (projections * norm_1).t()
        rotate(qkv.view(len(states), -1, size)[:, : heads + kv_heads], documents.turns)
        outputs, shares = _attend(qkv.view(-1, size), documents, heads, kv_heads, scaling)
        outputs = outputs.view(len(states), -1)
        middle = torch.addmm(states, outputs, wo.t())
        fed, inverse_2 = normalised(middle, epsilons[1])
        gate_up = fed @ (torch.cat([gate, up]) * norm_2).t()
        gated, raised = gate_up.split(len(gate), 1)
        sigmoid = gated.sigmoid()
        result = torch.addmm(middle, (gated * sigmoid).mul_(raised), down.t())
        ctx.save_for_backward(
            attended, inverse_1, qkv, outputs, fed, inverse_2, gate_up, sigmoid,
            norm_1, wq, wk, wv, wo, norm_2, gate, up, down, *shares,
        )  # fmt: skip
        ctx.documents, ctx.sizes = documents, (heads, kv_heads, size, scaling)
        return result

    @staticmethod
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, ...]:
        attended, inverse_1, qkv, outputs, fed, inverse_2, gate_up, sigmoid, *others = ctx.saved_tensors
        norm_1, wq, wk, wv, wo, norm_2, gate, up, down, *shares = others
        heads, kv_heads, size, scaling = ctx.sizes

        gated, raised = gate_up.split(len(gate), 1)
        d_gate_up = torch.empty_like(gate_up)
        d_gated, d_raised = d_gate_up.split(len(gate), 1)
        activated = gated * sigmoid
        d_hidden = d_result @ down
        torch.mul(d_hidden, activated, out=d_raised)
        slope = torch.addcmul(sigmoid, activated, sigmoid, value=-1).add_(activated)  # of SiLU
        torch.mul(d_hidden.mul_(raised), slope, out=d_gated)
        d_down = d_result.t() @ activated.mul_(raised)
        gate_and_up = torch.cat([gate, up])
        d_gate_and_up = d_gate_up.t() @ fed
        d_norm_2 = (d_gate_and_up * gate_and_up).sum(0)
        d_gate, d_up = d_gate_and_up.mul_(norm_2).split(len(gate))
        d_middle = _through_norm(d_gate_up @ (gate_and_up * norm_2), fed, inverse_2).add_(d_result)

        d_wo = d_middle.t() @ outputs
        d_outputs = (d_middle @ wo).view(-1, size)
        d_qkv = _attend_backward(
            d_outputs, qkv.view(-1, size), shares, ctx.documents, heads, kv_heads, scaling
        ).view_as(qkv)
        turned = d_qkv.view(len(d_qkv), -1, size)[:, : heads + kv_heads]
        rotate(turned, ctx.documents.turns.conj().resolve_conj())
        projections = torch.cat([interleaved(wq, heads), interleaved(wk, kv_heads), wv])
        d_projections = d_qkv.t() @ attended
        d_norm_1 = (d_projections * projections).sum(0)
        d_wq, d_wk, d_wv = d_projections.mul_(norm_1).split([len(wq), len(wk), len(wv)])
        d_states = _through_norm(d_qkv @ (projections * norm_1), attended, inverse_1).add_(d_middle)
        d_wq, d_wk = deinterleaved(d_wq, heads), deinterleaved(d_wk, kv_heads)
        weights = (d_norm_1, d_wq, d_wk, d_wv, d_wo, d_norm_2, d_gate, d_up, d_down)
        return (d_states, *weights, None, None, None)


def _through_norm(gradient: Tensor, normalised_states: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of a norm's input from that of its output."""
    mean = torch.linalg.vecdot(gradient, normalised_states).div_(gradient.shape[-1])
    return torch.addcmul(gradient, normalised_states, mean[:, None], value=-1).mul_(inverse)


def _read(table: Tensor, group: LengthGroup, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """A group's queries [batch, heads per key-value head × length, size], keys, values [batch, length, size].

    The batch is that of all documents × key-value heads.
    """
    batch = group.documents * kv_heads
    return tuple(
        table.index_select(0, places).view(batch, -1, table.shape[-1])
        for places in (group.queries, group.keys, group.values)
    )


def _attend(
    table: Tensor, documents: Documents, heads: int, kv_heads: int, scaling: float
) -> tuple[Tensor, list[Tensor]]:
    """The outputs [tokens × heads, size], and each group's weights [batch, heads × length, length]."""
    outputs = table.new_empty(len(table) // (heads + 2 * kv_heads) * heads, table.shape[-1])
    shares = []
    for group in documents.groups:
        queries, keys, values = _read(table, group, kv_heads)
        hidden = group.hidden.repeat(heads // kv_heads, 1)
        share = torch.baddbmm(hidden, queries, keys.transpose(1, 2), alpha=scaling).softmax(-1)
        found = (share @ values).view(-1, table.shape[-1])
        if group.real_queries is not None:
            found = found.index_select(0, group.real_queries)
        outputs.index_copy_(0, group.outputs, found)
        shares.append(share)
    return outputs, shares


def _attend_backward(
    d_outputs: Tensor,
    table: Tensor,
    shares: list[Tensor],
    documents: Documents,
    heads: int,
    kv_heads: int,
    scaling: float,
) -> Tensor:
    """The gradient of the table of queries, keys and values, from that of the outputs."""
    d_table = torch.empty_like(table)
    for group, share in zip(documents.groups, shares, strict=True):
        queries, keys, values = _read(table, group, kv_heads)
        d_found = d_outputs.index_select(0, group.outputs)
        if group.real_queries is not None:
            padded = d_found.new_zeros(len(group.queries), table.shape[-1])
            d_found = padded.index_copy_(0, group.real_queries, d_found)
        d_found = d_found.view_as(queries)
        d_share = d_found @ values.transpose(1, 2)
        d_scores = torch._softmax_backward_data(d_share, share, -1, share.dtype).mul_(scaling)
        for places, kept, gradient in (
            (group.queries, group.real_queries, d_scores @ keys),
            (group.keys, group.real_keys, d_scores.transpose(1, 2) @ queries),
            (group.values, group.real_keys, share.transpose(1, 2) @ d_found),
        ):
            gradient = gradient.view(-1, table.shape[-1])
            if kept is not None:
                places, gradient = places[kept], gradient.index_select(0, kept)
            d_table.index_copy_(0, places, gradient)
    return d_table
