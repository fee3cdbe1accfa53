"""Packing keeps every token once, in documents that cannot see each other."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from solar_repro.data import packing
from solar_repro.data.locate import locate
from solar_repro.data.packing import PackedCollator, best_fit, pack_instruction, pack_text
from solar_repro.data.text_stream import load_text

LENGTH = 64


def documents(block) -> list[tuple[int, ...]]:
    ends = np.cumsum(block["seq_lengths"])
    return [
        tuple(block["input_ids"][end - size : end])
        for end, size in zip(ends, block["seq_lengths"], strict=True)
    ]


@pytest.fixture(scope="module")
def tokenised() -> Dataset:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 40, 400)
    return Dataset.from_dict(
        {
            "input_ids": [rng.integers(3, 400, size).tolist() for size in sizes],
            "completion_mask": [[0] * (size // 2) + [1] * (size - size // 2) for size in sizes],
        }
    )


def naive_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        space = [capacity - sum(lengths[at] for at in places) for places in bins]
        fitting = [number for number, left in enumerate(space) if left >= lengths[place]]
        if fitting:
            bins[min(fitting, key=lambda number: space[number])].append(place)
        else:
            bins.append([place])
    return bins


@given(st.lists(st.integers(1, 30), max_size=60))
def test_best_fit_is_best_fit_decreasing(lengths):
    bins = best_fit(np.array(lengths, int), 30)
    assert sorted(place for places in bins for place in places) == list(range(len(lengths)))
    fill = sorted(sum(lengths[place] for place in places) for places in bins)
    # Equally full bins may be chosen either way; how full each becomes is the same.
    assert fill == sorted(sum(lengths[at] for at in places) for places in naive_best_fit(lengths, 30))


def test_every_row_is_in_one_block_whole(tokenised, cache):
    blocks, report = pack_instruction(tokenised, LENGTH, "k", cache)
    packed = sorted(document for block in blocks for document in documents(block))
    assert packed == sorted(map(tuple, tokenised["input_ids"]))
    labels = sorted(
        tuple(block["labels"][end - size : end])
        for block in blocks
        for end, size in zip(np.cumsum(block["seq_lengths"]), block["seq_lengths"], strict=True)
    )
    assert labels == sorted(
        tuple(token if keep else -100 for token, keep in zip(ids, mask, strict=True))
        for ids, mask in zip(tokenised["input_ids"], tokenised["completion_mask"], strict=True)
    )
    tokens = sum(map(len, tokenised["input_ids"]))
    assert report == {
        "rows": 400,
        "blocks": len(blocks),
        "tokens": tokens,
        "padding_share": 1 - tokens / (len(blocks) * LENGTH),
    }
    assert report["padding_share"] < 0.05


def test_windows_bound_the_memory_and_lose_nothing(tokenised, cache, monkeypatch):
    monkeypatch.setattr(packing, "WINDOW_ROWS", 70)
    blocks, report = pack_instruction(tokenised, LENGTH, "k", cache)
    assert sorted(d for block in blocks for d in documents(block)) == sorted(
        map(tuple, tokenised["input_ids"])
    )
    assert report["padding_share"] < 0.1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_document_sees_another(tiny_llama, tokenised, cache, attention):
    packed, _ = pack_instruction(tokenised, LENGTH, "k", cache)
    blocks = sorted(packed, key=lambda block: len(block["input_ids"]))[:: len(packed) // 4]
    assert max(len(block["seq_lengths"]) for block in blocks) > 2
    assert len({len(block["input_ids"]) for block in blocks}) > 1  # so that some are padded
    batch = PackedCollator(pad_token_id=0)(blocks)
    tiny_llama.set_attn_implementation(attention)
    with torch.no_grad():
        together = tiny_llama(**batch).logits
        leaking = tiny_llama(**batch | {"use_cache": True}).logits
    worst = leak = 0.0
    for row, block in enumerate(blocks):
        place = 0
        for document in documents(block):
            with torch.no_grad():
                alone = tiny_llama(input_ids=torch.tensor([document])).logits[0]
            at = slice(place, place := place + len(document))
            worst = max(worst, (together[row, at] - alone).abs().max().item())
            leak = max(leak, (leaking[row, at] - alone).abs().max().item())
    assert worst < 1e-4
    # The same test on a model that does leak (the cache turns the block mask off) shows it.
    assert leak > 0.5


def test_loss_is_that_of_the_rows_alone(tiny_llama, tokenised, cache):
    tiny_llama.set_attn_implementation("sdpa")
    rows = tokenised.select(range(12))
    blocks, _ = pack_instruction(rows, LENGTH, "k", cache)
    with torch.no_grad():
        packed = tiny_llama(**PackedCollator(0)(list(blocks))).loss.item()
        total = count = 0
        for row in rows:
            ids, mask = torch.tensor([row["input_ids"]]), torch.tensor([row["completion_mask"]])
            labels = torch.where(mask == 1, ids, -100)
            targets = (labels[:, 1:] != -100).sum().item()
            total += tiny_llama(input_ids=ids, labels=labels).loss.item() * targets if targets else 0
            count += targets
    assert packed == pytest.approx(total / count, rel=1e-5)


def test_trl_takes_the_same_columns_flattened(tiny_llama, tokenised, cache):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tiny_llama.set_attn_implementation("sdpa")
    blocks = list(pack_instruction(tokenised, LENGTH, "k", cache)[0].select(range(3)))
    flat = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(blocks)
    inputs = {name: flat[name] for name in ("input_ids", "labels", "position_ids")}
    with torch.no_grad():
        theirs = tiny_llama(**inputs, use_cache=False).loss.item()
        ours = tiny_llama(**PackedCollator(0)(blocks)).loss.item()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_trl_trains_on_packed_rows_as_they_are(tiny_llama, llama_tokenizer, tokenised, cache, tmp_path):
    from trl import SFTConfig, SFTTrainer

    blocks, _ = pack_instruction(tokenised, LENGTH, "k", cache)
    options = SFTConfig(
        output_dir=str(tmp_path),
        report_to=[],
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=2,
        logging_steps=1,
        learning_rate=1e-9,
        save_strategy="no",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        tiny_llama, options, PackedCollator(0), train_dataset=blocks, processing_class=llama_tokenizer
    )
    assert trainer.train_dataset[:] == blocks[:]
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        expected = tiny_llama(**batch).loss.item()
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


def test_text_end_to_end_in_order(llama_tokenizer, cache):
    texts = ["the sea", "x" * 200, "é", "a </s> b", *(f"text {number}" for number in range(700))]
    blocks, report = pack_text(texts, llama_tokenizer, LENGTH, key="k", cache_dir=cache)
    stream = [token for block in blocks for token in block["input_ids"]]
    expected = []
    for text in texts:
        parts = [llama_tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split("</s>")]
        expected += [1, *(token for part in parts for token in part), 2]
    assert len(stream) == len(expected) - report["tokens_left_out"]
    assert stream == expected[: len(stream)]
    assert report["tokens_left_out"] < LENGTH
    assert (report["documents"], report["tokens"], report["special_tokens_removed"]) == (
        len(texts),
        len(stream),
        1,
    )
    assert all(len(block["input_ids"]) == LENGTH == sum(block["seq_lengths"]) for block in blocks)
    starts = [ids[0] for block in blocks for ids in documents(block)[1:]]
    assert set(starts) == {1}  # a piece that is not first in its block begins a document


def test_text_stops_at_its_tokens(llama_tokenizer, cache):
    texts = [f"text number {number}" for number in range(1000)]
    whole, _ = pack_text(texts, llama_tokenizer, LENGTH, key="k", cache_dir=cache)
    some, report = pack_text(texts, llama_tokenizer, LENGTH, key="k", max_tokens=1000, cache_dir=cache)
    assert report["tokens"] == 1024
    assert some.to_list() == whole.to_list()[:16]


def test_killed_packing_goes_on_at_the_same_row(write_set, mirror, llama_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BLOCKS", 20)
    monkeypatch.setattr(packing, "TEXTS_AT_ONCE", 32)
    write_set("org/text", [{"text": f"text number {number} " * 3} for number in range(400)])
    location = locate("org/text", mirror)

    def pack(folder):
        stream = load_text(location, seed=3, epochs=2)
        return pack_text(stream, llama_tokenizer, LENGTH, key="k", cache_dir=tmp_path / folder)

    whole, report = pack("whole")
    encode, calls, killed_at = packing._documents, [], 9

    def killed(texts, *more):
        calls.append(texts)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return encode(texts, *more)

    monkeypatch.setattr(packing, "_documents", killed)
    with pytest.raises(KeyboardInterrupt):
        pack("killed")
    shards = len(list((tmp_path / "killed").glob("*.arrow")))
    assert shards >= 2
    assert not list((tmp_path / "killed").glob("*.partial"))
    resumed, resumed_report = pack("killed")
    assert resumed.to_list() == whole.to_list()
    assert resumed_report == report
    # What lies in whole shards is not tokenised again.
    assert sum(len(texts) for texts in calls[killed_at:]) < 800
