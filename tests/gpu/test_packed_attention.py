"""PyTorch's kernel of variable lengths itself: no document of a packed row has a share in another one.

The reference is every document by itself through PyTorch's attention in float32. How far packed rows may be
from it in bfloat16 is measured, not chosen: `ALLOWED` times as far as the documents by themselves are from it
in bfloat16, whose errors have the same sources but other orders of sums.
"""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, set_seed

from solar_repro.data.packing import PackedCollator
from solar_repro.layers import packed_attention, training_attention
from solar_repro.layers.packed_attention import PACKED, Boundaries, boundaries
from solar_repro.layers.training_attention import use_training_attention
from tests.layers.test_packed_attention import by_document

ALLOWED = 2.0
LENGTHS = ([37, 129, 1, 89], [256], [200, 40])
"""Of the documents in each row; the last row is padded."""
VOCABULARY = 512
SIZES = {
    "cuda": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4},
    "cpu": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2},
}
# Weights larger than usual let attention tell tokens apart: with random ones it would be the mean of all.
HEADS = {
    "vocab_size": VOCABULARY, "num_attention_heads": 8, "num_key_value_heads": 2, "initializer_range": 0.08,
}  # fmt: skip
MODELS = {
    "grouped queries": lambda sizes: LlamaForCausalLM(LlamaConfig(**sizes, **HEADS)),
    "a sliding window": lambda sizes: MistralForCausalLM(MistralConfig(**sizes, **HEADS, sliding_window=48)),
}


@pytest.fixture(params=MODELS)
def models(request, place, monkeypatch):
    """A model, and a copy that attends to packed rows by the kernel; in a rehearsal by its stand-in."""
    if place == "cpu":
        monkeypatch.setattr(training_attention, "device", lambda: "cuda")
        monkeypatch.setattr(packed_attention, "kernel_is_right", lambda: True)
        monkeypatch.setattr(packed_attention, "varlen_attn", by_document)
    set_seed(0)
    plain = MODELS[request.param](SIZES[place]).to(place)
    packed = copy.deepcopy(plain)
    use_training_attention(packed, "bfloat16")
    assert packed.config._attn_implementation == PACKED
    return plain, packed


@pytest.fixture
def rows(place):
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for lengths in LENGTHS:
        tokens = torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator)
        blocks.append({"input_ids": tokens.tolist(), "seq_lengths": lengths})
    return {
        name: value.to(place) if isinstance(value, torch.Tensor) else value
        for name, value in PackedCollator(0)(blocks).items()
    }


def documents(rows):
    """Row, first token and end of each document."""
    for row, lengths in enumerate(LENGTHS):
        first = 0
        for length in lengths:
            yield row, first, first + length
            first += length


def losses(model, rows, half):
    """Losses [rows, n - 1] of all tokens but the first, from packed rows; those without a label are 0."""
    with torch.autocast(rows["input_ids"].device.type, torch.bfloat16, enabled=half):
        logits = model(**{name: value for name, value in rows.items() if name != "labels"}).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), rows["labels"][:, 1:], reduction="none"
    )


def losses_by_themselves(model, rows, half):
    """The same, each document computed by itself."""
    found = torch.zeros_like(rows["labels"][:, 1:], dtype=torch.float32)
    for row, first, end in documents(rows):
        if end - first == 1:
            continue
        ids = rows["input_ids"][row : row + 1, first:end]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
            logits = model(input_ids=ids, use_cache=False).logits
        one = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")
        found = found.index_put((torch.tensor(row), torch.arange(first, end - 1, device=ids.device)), one)
    return found


def with_gradient(model, told):
    """Losses, and the gradient of their sum by all weights as one vector."""
    model.zero_grad()
    told.sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return told.detach(), gradient


def distances(models, rows):
    """How far packed rows, and documents by themselves in bfloat16, are from the reference.

    Each is a pair: of the losses' and of the gradient's norm.
    """
    plain, packed = models
    exact = with_gradient(plain, losses_by_themselves(plain, rows, False))
    found = with_gradient(packed, losses(packed, rows, True))
    alone = with_gradient(plain, losses_by_themselves(plain, rows, True))
    return [
        [float((a - b).norm() / b.norm()) for a, b in zip(one, exact, strict=True)] for one in (found, alone)
    ]


def test_packed_rows_have_the_losses_and_gradients_of_their_documents(models, rows):
    found, alone = distances(models, rows)
    print(f"packed: {found}, by themselves in bfloat16: {alone} (losses, gradient)")
    assert found[0] < ALLOWED * alone[0]
    assert found[1] < ALLOWED * alone[1]


def test_the_comparison_tells_a_leak(models, rows, monkeypatch):
    def one_document_a_row(*arguments, **settings):
        whole = boundaries(*arguments, **settings)
        count, width = rows["input_ids"].shape
        starts = torch.arange(0, (count + 1) * width, width, dtype=torch.int32, device=whole.starts.device)
        return Boundaries(starts, width)

    monkeypatch.setitem(packed_attention.AttentionMaskInterface._global_mapping, PACKED, one_document_a_row)
    found, alone = distances(models, rows)
    assert found[0] > ALLOWED * alone[0]
    assert found[1] > ALLOWED * alone[1]


def test_other_documents_neither_change_a_token_nor_get_its_gradient(models, rows):
    _, packed = models
    states = []

    def keep(module, inputs, output):
        output.retain_grad()
        states.append(output)

    hook = packed.get_input_embeddings().register_forward_hook(keep)
    before = losses(packed, rows, True)
    hook.remove()
    row, first, end = 0, 37, 37 + 129
    before[row, first : end - 1].sum().backward()
    reached = states[0].grad.abs().sum(-1) > 0
    inside = torch.zeros_like(reached)
    inside[row, first : end - 1] = True
    assert reached.equal(inside)
    changed = {**rows, "input_ids": rows["input_ids"].clone()}
    changed["input_ids"][row, first:end] = 7
    with torch.no_grad():
        after = losses(packed, {**changed, "labels": rows["labels"]}, True)
    assert not after[row, first : end - 1].equal(before[row, first : end - 1])
    outside = ~inside[:, :-1]
    outside[row, end - 1] = False  # its label is the first token of the next document: it has none
    assert after[outside].equal(before.detach()[outside])


def test_padding_on_either_side_changes_nothing(models, place):
    """As in preference pairs, whose rows have a mask of what is padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (3, 128), generator=generator).to(place)
    plain, packed = models
    for right in (True, False):
        mask = (torch.arange(128) < torch.tensor([[128], [51], [1]])).long()
        mask = (mask if right else mask.flip(1)).to(place)
        real = mask.bool()
        settings = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        with torch.no_grad():
            exact = plain(**settings).logits[real]
            with torch.autocast(place, torch.bfloat16):
                found, masked = packed(**settings).logits[real], plain(**settings).logits[real]
        assert (found.float() - exact).norm() < ALLOWED * (masked.float() - exact).norm()
