"""Packing keeps every token once, in documents that cannot see each other."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from solar_repro.data import packing
from solar_repro.data.locate import locate
from solar_repro.data.packing import (
    PackedCollator,
    best_fit,
    pack_instruction,
    pack_text,
    refuse_short_text,
)
from solar_repro.data.text_stream import load_text
from solar_repro.errors import UserError

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
    encode, calls, killed_at = packing._encoded, [], 9

    def killed(tokenizer, kind, texts):
        calls.append(texts)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return encode(tokenizer, kind, texts)

    monkeypatch.setattr(packing, "_encoded", killed)
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


def plain_blocks(texts, tokenizer, length, most):
    """Blocks as lists, document by document, without any array."""
    blocks, pieces, room = [], [], length
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        document = [1, *(token for token in ids if token not in (1, 2)), 2]
        while document:
            pieces.append(document[:room])
            document = document[room:]
            room -= len(pieces[-1])
            if room == 0:
                blocks.append(
                    {
                        "input_ids": [token for piece in pieces for token in piece],
                        "seq_lengths": [len(piece) for piece in pieces],
                    }
                )
                pieces, room = [], length
    return blocks[:most], sum(map(len, pieces))


@pytest.mark.parametrize("max_tokens", [None, 3000])
def test_blocks_of_text_are_those_of_a_plain_loop(llama_tokenizer, cache, monkeypatch, max_tokens):
    monkeypatch.setattr(packing, "TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(packing, "SHARD_BLOCKS", 5)
    random = np.random.default_rng(0)
    texts = [
        "the sea " * int(number) + "</s>" * (number % 3 == 0)
        for number in random.integers(1, 90, 60).tolist()
    ]
    blocks, report = pack_text(
        texts, llama_tokenizer, LENGTH, key="k", max_tokens=max_tokens, cache_dir=cache
    )
    removed = sum(text.endswith("</s>") for text in texts)
    expected, left = plain_blocks(texts, llama_tokenizer, LENGTH, max_tokens and -(-max_tokens // LENGTH))
    assert blocks.to_list() == expected
    assert report["blocks"] == len(expected)
    if max_tokens is None:
        assert report["tokens_left_out"] == left
        assert (report["documents"], report["special_tokens_removed"]) == (60, removed)


def test_token_ids_take_two_bytes_where_the_vocabulary_allows_it(llama_tokenizer, cache):
    blocks, _ = pack_text(["the sea " * 100], llama_tokenizer, LENGTH, key="k", cache_dir=cache)
    assert blocks.features["input_ids"].feature.dtype == "uint16"

    class Large:
        def get_vocab(self):
            return {"last": 65_536}

    assert packing._token_type(Large()) == np.uint32
    assert packing._token_type(llama_tokenizer) == np.uint16


@pytest.mark.slow
def test_texts_without_end_are_packed_by_several_processes(write_set, mirror, llama_tokenizer, tmp_path):
    write_set("org/text", [{"text": f"text number {number} " * 3} for number in range(40)] + [{"text": " "}])
    location = locate("org/text", mirror)

    def packed(num_proc):
        stream = load_text(location, seed=3, epochs=None)
        return pack_text(
            stream,
            llama_tokenizer,
            LENGTH,
            key="k",
            max_tokens=20_000,
            num_proc=num_proc,
            cache_dir=tmp_path / str(num_proc),
        )

    alone, report = packed(1)
    together, same_report = packed(2)
    assert together.to_list() == alone.to_list()
    assert same_report == report
    assert report["dropped"]["empty text"] > 1  # read in more than one epoch


def test_a_text_shorter_than_a_block_is_one_line(llama_tokenizer):
    with pytest.raises(
        UserError, match=r"^text org/text: holds \d+ tokens, but a block needs 64 "
    ) as refused:
        refuse_short_text(["the sea"], llama_tokenizer, LENGTH, "org/text")
    assert "\n" not in str(refused.value)
    refuse_short_text(["the sea " * 100], llama_tokenizer, LENGTH, "org/text")
