"""Attention of variable lengths, with a plain one in the place of the kernel, which GPUs alone have."""

import copy

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

from solar_repro.data.packing import PackedCollator
from solar_repro.layers import packed_attention, training_attention
from solar_repro.layers.packed_attention import PACKED, kernel_is_right
from solar_repro.layers.training_attention import use_training_attention

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, num_attention_heads=4)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SIZES, **HEADS, sliding_window=8)),
}


def by_document(
    query, key, value, starts, key_starts, longest, longest_key, *, scale, window_size, enable_gqa
):
    """What the kernel computes: queries [tokens, heads, size] of documents that begin at `starts`."""
    assert starts.equal(key_starts)
    assert (starts[0], starts[-1]) == (0, len(query))
    assert starts.dtype == torch.int32
    assert longest == longest_key == int(starts.diff().max())
    parts = []
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        one = [states[first:end].transpose(0, 1)[None] for states in (query, key, value)]
        place = torch.arange(end - first)
        behind = place[:, None] - place
        mask = (behind >= 0) & ((window_size[0] < 0) | (behind <= window_size[0]))
        found = torch.nn.functional.scaled_dot_product_attention(
            *one, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def on_gpu(monkeypatch):
    """A GPU with the kernel."""
    monkeypatch.setattr(training_attention, "device", lambda: "cuda")
    monkeypatch.setattr(packed_attention, "kernel_is_right", lambda: True)
    monkeypatch.setattr(packed_attention, "varlen_attn", by_document)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for lengths in ([5, 3, 22], [30], [1, 12, 10]):
        tokens = torch.randint(0, 64, (sum(lengths),), generator=generator)
        blocks.append({"input_ids": tokens.tolist(), "seq_lengths": lengths})
    return PackedCollator(0)(blocks)


@pytest.fixture(params=MODELS)
def models(request, on_gpu):
    """A model, and a copy that attends by documents."""
    set_seed(0)
    plain = MODELS[request.param]()
    packed = copy.deepcopy(plain)
    use_training_attention(packed, "bfloat16")
    assert packed.config._attn_implementation == PACKED
    return plain, packed


def test_packed_rows_have_the_loss_and_gradients_of_masks(models, batch):
    results = [(model, model(**batch)) for model in models]
    for _, result in results:
        result.loss.backward()
    (plain, expected), (packed, found) = results
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    real = batch["labels"] != -100
    assert found.logits[real].sub(expected.logits[real]).abs().max() < 1e-4
    for one, other in zip(packed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


def test_padded_rows_have_the_logits_of_masks(models):
    tokens = torch.randint(0, 64, (3, 20), generator=torch.Generator().manual_seed(1))
    for right in (True, False):
        mask = (torch.arange(20) < torch.tensor([[20], [7], [1]])).long()
        mask = mask if right else mask.flip(1)
        plain, packed = (
            model(input_ids=tokens, attention_mask=mask, use_cache=False).logits for model in models
        )
        assert (plain - packed)[mask.bool()].abs().max() < 1e-4


def test_nothing_leaks_from_one_document_to_the_next(models, batch):
    _, packed = models
    before = packed(**batch).logits
    batch["input_ids"][0, :5] = 63  # the first document of the first row
    after = packed(**batch).logits
    assert after[0, 5:].equal(before[0, 5:])
    assert after[1:].equal(before[1:])
    assert not after[0, :5].equal(before[0, :5])


def test_float32_and_a_wrong_kernel_keep_the_masks(on_gpu, monkeypatch):
    model = MODELS["llama"]()
    use_training_attention(model, "float32")
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(packed_attention, "kernel_is_right", lambda: False)
    use_training_attention(model, "bfloat16")
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("difference", [0.5, RuntimeError("no kernel image is available\nfor this GPU")])
def test_a_kernel_that_cannot_be_used_is_said_in_a_line(difference, monkeypatch, capsys):
    def measured():
        if isinstance(difference, Exception):
            raise difference
        return difference

    monkeypatch.setattr(packed_attention, "_difference", measured)
    kernel_is_right.cache_clear()
    assert not kernel_is_right()
    assert capsys.readouterr().err.count("\n") == 1
    kernel_is_right.cache_clear()


def test_the_comparison_of_kernels_tells_a_wrong_one(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    for name in ("tensor", "arange"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, make=make, **k: make(*a, **{**k, "device": "cpu"}))
    monkeypatch.setattr(packed_attention, "varlen_attn", by_document)
    assert packed_attention._difference() < packed_attention.TOLERANCE

    def leaks(query, key, value, starts, *rest, **settings):
        whole = starts[[0, -1]]
        return by_document(query, key, value, whole, whole, len(query), len(query), **settings)

    monkeypatch.setattr(packed_attention, "varlen_attn", leaks)
    assert packed_attention._difference() > packed_attention.TOLERANCE
