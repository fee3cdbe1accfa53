import json

import numpy as np
import pytest
from datasets import Dataset

from solar_repro.data.card import quantiles, sequence_lengths, write_card
from solar_repro.data.locate import locate
from solar_repro.data.overlap import Overlap, benchmark_index
from solar_repro.data.prepare import prepare
from solar_repro.data.templates import set_chat_template
from solar_repro.variants import DATASETS

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
    "answers_cut": 0,
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


@pytest.mark.parametrize(
    ("name", "stand_in"), [("openorca", "google-research/flan-cot"), ("ultrafeedback", None)]
)
def test_one_set_prepared_by_itself(shared, llama_tokenizer, tmp_path, monkeypatch, name, stand_in):
    set_chat_template(llama_tokenizer)
    mirror = shared / "hub"
    monkeypatch.setattr(benchmark_index, "__defaults__", (("GSM8K",),))  # of all six: test_overlap
    figures = prepare(
        tmp_path / "card",
        name,
        locate(DATASETS[name].hub_id, mirror, stand_in),
        llama_tokenizer,
        max_samples=100,
        max_length=1024,
        seed=0,
        mirror=mirror,
        long_answers="cut",
        cache_dir=tmp_path / "cache",
    )
    assert figures["kept"] == 100
    assert figures["tokens"] > figures["answer_tokens"] > figures["tokenised"] > 90
    assert figures["overlap/GSM8K"] == 0
    assert (tmp_path / "card" / f"{name}.md").is_file()
