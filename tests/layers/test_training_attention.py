"""Packed blocks attended document by document, by the masked products and by fused layers."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from solar_repro.data.packing import PackedCollator
from solar_repro.layers import cpu_attention
from solar_repro.layers.cpu_attention import TRAINING, use_cpu_training_attention
from solar_repro.layers.fused import can_fuse
from solar_repro.layers.fused_training import FusedLayer

LENGTHS = [[5, 3, 202], [210], [1, 128, 80]]


@pytest.fixture(scope="module")
def plain():
    set_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


@pytest.fixture(params=["products", "fused"])
def by_document(plain, request, monkeypatch):
    model = copy.deepcopy(plain)
    if request.param == "products":
        monkeypatch.setattr(cpu_attention, "can_fuse", lambda model: False)
    use_cpu_training_attention(model)
    assert model.config._attn_implementation == TRAINING
    return model


@pytest.fixture
def applied(monkeypatch):
    """How often a fused layer has computed."""
    calls = []
    apply = FusedLayer.apply
    monkeypatch.setattr(FusedLayer, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    return calls


def test_fused_layers_are_for_float32_and_others_keep_the_products(plain, batch, applied, monkeypatch):
    model = copy.deepcopy(plain)
    use_cpu_training_attention(model)
    products = []
    repeat = cpu_attention.repeat_kv
    monkeypatch.setattr(cpu_attention, "repeat_kv", lambda *inputs: products.append(1) or repeat(*inputs))
    model(**batch)
    assert (len(applied), len(products)) == (2, 0)
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    assert (len(applied), len(products)) == (2, 4)  # keys and values of two layers


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    blocks = [
        {"input_ids": torch.randint(3, 64, (sum(lengths),), generator=generator), "seq_lengths": lengths}
        for lengths in LENGTHS
    ]
    return PackedCollator(0)(blocks)


def documents(batch, values):
    """Rows of `values` cut into the documents, without the padding."""
    return [
        part
        for row, lengths in zip(values, LENGTHS, strict=True)
        for part in row.split([*lengths, 210 - sum(lengths)])[: len(lengths)]
    ]


def test_each_document_as_if_alone(plain, by_document, batch):
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "use_cache")}
    found = documents(batch, by_document(**inputs).logits)
    for ids, logits in zip(documents(batch, batch["input_ids"]), found, strict=True):
        torch.testing.assert_close(logits, plain(ids[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_masked_kernel(plain, by_document, batch):
    for model in (plain, by_document):
        model.zero_grad()
        model(**batch).loss.backward()
    for one, other in zip(plain.parameters(), by_document.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_padding_and_cache(plain, by_document, batch):
    ids, mask = batch["input_ids"], torch.ones_like(batch["input_ids"])
    mask[1, :7] = 0
    found, expected = (model(ids, attention_mask=mask).logits[:, 7:] for model in (by_document, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert by_document.generate(ids, **settings).tolist() == plain.generate(ids, **settings).tolist()


def test_gradients_where_rows_are_padded(plain, by_document, batch):
    """As in DPO: rows of several lengths, padded on the right, with a loss on what is real alone."""
    ids, mask = batch["input_ids"], torch.ones_like(batch["input_ids"])
    mask[0, 150:], mask[1, 20:] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    for model in (plain, by_document):
        model.zero_grad()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
    for one, other in zip(plain.parameters(), by_document.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_activation_checkpointing_changes_nothing(by_document, batch):
    found = []
    for _ in range(2):
        by_document.zero_grad()
        by_document.train()
        by_document(**batch).loss.backward()
        found.append([parameter.grad.clone() for parameter in by_document.parameters()])
        by_document.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    "changes",
    [{"attention_bias": True}, {"hidden_act": "gelu"}, {"attention_dropout": 0.1}, {"hidden_size": 2048}],
)
def test_only_plain_narrow_layers_are_fused(changes):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=4)
    assert can_fuse(LlamaForCausalLM(config))
    assert not can_fuse(LlamaForCausalLM(config).to(torch.bfloat16))
    other = LlamaConfig(**{**sizes, **changes}, num_attention_heads=4)
    assert not can_fuse(LlamaForCausalLM(other))


def test_loss_on_the_answers_alone_is_trls_own(plain, batch, tmp_path):
    """The head of `AnswersTrainer` scores fewer positions, with the same loss and the same gradients."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from solar_repro.stages.sft import AnswersTrainer

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, "<unk>"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    labels = batch["labels"].clone()
    labels[:, ::3] = -100
    options = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "report_to": []}
    found = []
    for kind in (SFTTrainer, AnswersTrainer):
        trainer = kind(
            copy.deepcopy(plain),
            SFTConfig(str(tmp_path), use_cpu=True, bf16=False, **options),
            PackedCollator(0),
            train_dataset=Dataset.from_dict({"input_ids": [[1]]}),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, **special),
        )
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, {**batch, "labels": labels})
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
