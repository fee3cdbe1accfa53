import json

import numpy as np
import pytest
from datasets import Dataset

from solar_repro.contract import DataSettings, TuningInputs, TuningSet
from solar_repro.data.card import (
    document_lengths,
    quantiles,
    sequence_lengths,
    write_card,
    write_corpus_card,
)
from solar_repro.data.decontamination import Overlap, benchmark_index
from solar_repro.data.packing import pack_text
from solar_repro.paper.data_sets import DATASETS, FILTERED_TASKS
from solar_repro.stages import data

ROWS = {
    "set": "openorca",
    "hub_id": "Open-Orca/OpenOrca",
    "used": "other/set",
    "fingerprint": "sha256:ab",
    "split": "train",
    "rows_in": 12_345,
    "dropped": {"null user": 3},
    "usable": 12_342,
    "kept": 100,
    "filter": {"way": "ngrams", "removed": {"GSM8K": 2}},
}
TOKENS = {
    "dropped": {"answer longer than its room": 1},
    "kept": 99,
    "prompts_truncated": 4,
    "tokens": 5000,
    "answer_tokens": 2000,
}


def test_card(tmp_path):
    tokenised = Dataset.from_dict({"input_ids": [[1] * size for size in range(1, 100)]})
    lines = [Overlap("openorca", "GSM8K", 100, 2, (("id7", "text"),)), Overlap("openorca", "ARC", 100, 0, ())]
    for folder in ("a", "b"):
        write_card(tmp_path / folder, "openorca", ROWS, TOKENS, tokenised, lines)
    text = (tmp_path / "a" / "openorca.md").read_text()
    for line in (
        "Source: `other/set`, in place of `Open-Orca/OpenOrca`, split `train`  ",
        "| read | 12,345 |",
        "| dropped: null user | 3 |",
        "| dropped: answer longer than its room | 1 |",
        "| tokenised | 99 |",
        "Tokens: 5,000, of which answers 2,000. Lengths: mean 50, median 50, p90 90, p99 99, longest 99.",
        'Filter of Table 8: {"way": "ngrams"}',
        "| GSM8K | 2 | `id7` |",
        "| ARC | 0 |  |",
    ):
        assert line in text.splitlines()
    figures = json.loads((tmp_path / "a" / "openorca.json").read_text())
    assert figures["rows"]["dropped"] == {"null user": 3}
    assert figures["overlap"][0]["hit"] == 2
    for name in ("openorca.md", "openorca.json", "openorca_lengths.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "openorca_lengths.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_of_pairs_are_those_of_the_longer_answer():
    pairs = Dataset.from_dict(
        {"prompt_ids": [[1], [1, 1]], "chosen_ids": [[1], [1]], "rejected_ids": [[1, 1], []]}
    )
    assert sequence_lengths(pairs).tolist() == [3, 3]


def test_quantiles():
    assert quantiles(np.array([])) == {}
    assert quantiles(np.array([5])) == {"mean": 5, "median": 5, "p90": 5, "p99": 5, "longest": 5}


@pytest.mark.parametrize("length", range(2, 9))
def test_lengths_of_documents_where_one_token_begins_and_ends_them(llama_tokenizer, tmp_path, length):
    """A block may begin with the token that ends the document before."""
    llama_tokenizer.bos_token = "</s>"
    texts = ["the sea is deep", "a", "the sea " * 30, "b", "seas"] * 4
    sizes = [len(ids) + 2 for ids in llama_tokenizer(texts, add_special_tokens=False)["input_ids"]]
    blocks, packed = pack_text(texts, llama_tokenizer, length, key="k", cache_dir=tmp_path)
    lengths = document_lengths(blocks, llama_tokenizer.eos_token_id).tolist()
    assert lengths[:-1] == sizes[: len(lengths) - 1]
    assert sum(lengths) == packed["tokens"]


def test_corpus_card(llama_tokenizer, tmp_path):
    texts = ["the sea is deep", "a", "the sea " * 30, "b"]
    sizes = [len(ids) + 2 for ids in llama_tokenizer(texts, add_special_tokens=False)["input_ids"]]
    blocks, packed = pack_text(texts, llama_tokenizer, 8, key="k", cache_dir=tmp_path)
    lengths = document_lengths(blocks, llama_tokenizer.bos_token_id)
    left_out = packed["tokens_left_out"]
    assert lengths.sum() == packed["tokens"] == sum(sizes) - left_out
    assert lengths.tolist()[:3] == sizes[:3]
    about = {"used": "org/corpus", "split": "train", "fingerprint": "sha256:ab"}
    packed["dropped"] = {"broken UTF-8": 2}
    write_corpus_card(tmp_path / "card", about, packed, blocks, llama_tokenizer.bos_token_id)
    lines = (tmp_path / "card" / "corpus.md").read_text().splitlines()
    assert "| read | 6 |" in lines
    assert "| dropped: broken UTF-8 | 2 |" in lines
    assert (tmp_path / "card" / "corpus_lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "hub_id"), [("openorca", "google-research/flan-cot"), ("ultrafeedback", None)]
)
def test_one_set_prepared_by_itself(shared, llama_tokenizer, tmp_path, monkeypatch, name, hub_id):
    monkeypatch.setattr(benchmark_index, "__defaults__", (("GSM8K",),))  # of all six: test_decontamination
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    llama_tokenizer.save_pretrained(tmp_path / "model")
    figures = {}
    chosen = TuningSet(
        name=name,
        id=hub_id or DATASETS[name].hub_id,
        maximum_samples=100,
        filtered_tasks=FILTERED_TASKS if name == "openorca" else (),
    )
    settings = DataSettings(dataset=chosen, template="solar", max_length=1024, seed=0)
    inputs = TuningInputs(model=tmp_path / "model", mirror=shared / "hub")
    data.run(tmp_path, figures.update, settings, inputs)
    assert figures[f"data/{name}/kept"] == 100
    assert figures[f"data/{name}/tokens"] > figures[f"data/{name}/answer_tokens"] > 1000
    assert figures[f"data/{name}/used"] > 20
    assert figures[f"data/{name}/overlap/GSM8K"] == 0
    if name == "openorca":
        assert figures["data/openorca/removed/cot_gsm8k"] == 7473
    assert (tmp_path / f"{name}.md").is_file()
