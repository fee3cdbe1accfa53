"""The contamination tests find what was memorised, and leave a clean model alone."""

import copy
import math
import random

import numpy as np
import pytest
import torch

from benchmarks.compare import TABLES
from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.min_k import compare_min_k, min_k_scores
from solar_repro.contamination.neighbour_test import drawn, neighbour_test
from solar_repro.contamination.neighbours import TopKSampler, sequence_losses, write_neighbours
from solar_repro.contamination.texts import contamination_texts
from solar_repro.errors import UserError
from solar_repro.scales.settings import Contamination
from solar_repro.shared_prefix.shared_forward import shares_prefixes
from tests.tiny_benchmarks import WORDS, make_model
from tests.tiny_decoders import random_model


def _texts(seed, count, words=14):
    generator = random.Random(seed)
    return [" ".join(generator.choice(WORDS) for _ in range(words)) for _ in range(count)]


MEMBERS, OTHERS = _texts(1, 12), _texts(2, 12)
BATCH = {"batch_tokens": 8192}


def _train(model, tokenizer, texts, steps, rate):
    model.train()
    tokenizer.pad_token = "<unk>"
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    torch.manual_seed(0)
    for _ in range(steps):
        model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A model that has learnt the language of the texts from others of its kind."""
    base = load_for_scoring(make_model(tmp_path_factory.mktemp("base"), context=256))
    return _train(*base, _texts(3, 120), steps=60, rate=1e-2)


@pytest.fixture(scope="module")
def contaminated(clean):
    """The positive control: the same model, trained on the very texts that are tested."""
    model, tokenizer = clean
    return _train(copy.deepcopy(model), tokenizer, MEMBERS, steps=60, rate=1e-2)


def test_the_neighbour_test_flags_the_positive_control_and_not_the_clean_model(clean, contaminated):
    settings = {"examples": 12, "neighbours": 30, **BATCH}
    flagged = neighbour_test(contaminated, clean, MEMBERS, **settings)
    assert flagged.share > 0.9
    assert flagged.verdict().endswith(": likely contaminated")
    innocent = neighbour_test(clean, clean, MEMBERS, **settings)
    assert innocent.share < 0.5
    low, high = innocent.interval
    assert low <= innocent.share <= high < 0.9
    assert "no sign" in innocent.verdict()


def test_min_k_tells_seen_from_unseen_texts(clean, contaminated):
    for model, flagged, low, high in ((contaminated, True, 0.95, 1.0), (clean, False, 0.2, 0.8)):
        scores = [min_k_scores(model, texts, (0.2, 0.5), **BATCH) for texts in (MEMBERS, OTHERS)]
        results = compare_min_k(*scores)
        assert [(r.method, r.k) for r in results] == [
            ("min_k", 0.2), ("min_k", 0.5), ("min_k_pp", 0.2), ("min_k_pp", 0.5)
        ]  # fmt: skip
        for result in results:
            assert low <= result.auroc <= high
            assert result.interval[0] <= result.auroc <= result.interval[1]
            assert result.flagged == flagged
            assert result.verdict().endswith("likely contaminated" if flagged else "no sign of contamination")


def test_the_drawn_texts_have_two_words_and_depend_on_the_seed_alone():
    texts = ["one", *MEMBERS]
    assert sorted(drawn(texts, 12, seed=0)) == list(range(1, 13))
    assert drawn(texts, 3, seed=0) == drawn(texts, 12, seed=0)[:3]
    assert drawn(texts, 12, seed=0) != drawn(texts, 12, seed=1)


def test_a_model_without_probabilities_is_refused_and_not_found_contaminated(clean):
    broken, tokenizer = copy.deepcopy(clean[0]), clean[1]
    torch.nn.init.constant_(broken.model.norm.weight, math.nan)
    with pytest.raises(UserError, match=f"'{MEMBERS[0][:20]}.*NaN"):
        min_k_scores((broken, tokenizer), MEMBERS, **BATCH)
    with pytest.raises(UserError, match="NaN"):
        neighbour_test((broken, tokenizer), clean, MEMBERS, examples=2, neighbours=2, **BATCH)


def test_scores_follow_from_losses_computed_one_text_at_a_time(clean, contaminated):
    result = neighbour_test(contaminated, clean, MEMBERS, examples=2, neighbours=5, **BATCH)
    order = list(range(len(MEMBERS)))
    random.Random(0).shuffle(order)
    assert result.examples == tuple(order[:2])
    writer, tokenizer = clean
    target, _ = contaminated
    for number, index in enumerate(result.examples):
        (written,) = write_neighbours(
            writer, tokenizer, [MEMBERS[index]], seeds=[(0, index)], copies=5, ratio=0.4, top_k=50,
            temperature=1.0, batch_tokens=64,
        )  # fmt: skip
        losses = []
        for text in [MEMBERS[index], *written]:
            tokens = torch.tensor([[1, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
            with torch.no_grad():
                losses.append(float(target(tokens, labels=tokens).loss))
        assert result.losses[number] == pytest.approx(losses[0], rel=1e-4)
        assert result.neighbour_losses[number] == pytest.approx(losses[1:], rel=1e-4)
        assert result.scores[number] == sum(loss < losses[0] for loss in losses[1:]) / 5


def test_neighbours_keep_the_prompt_and_write_no_more_than_is_missing(clean):
    model, tokenizer = clean
    settings = {"copies": 4, "ratio": 0.4, "top_k": 50, "temperature": 1.0, "batch_tokens": 8192}
    together = write_neighbours(model, tokenizer, MEMBERS[:3], seeds=[(0, i) for i in range(3)], **settings)
    for text, written in zip(MEMBERS, together, strict=False):
        words = text.split()
        prompt = " ".join(words[: math.ceil(0.4 * len(words))])
        room = len(tokenizer(prompt)["input_ids"]) + len(words) - math.ceil(0.4 * len(words))
        assert len(written) == 4
        assert len(set(written)) > 1
        for neighbour in written:
            assert neighbour.startswith(prompt)
            assert len(tokenizer(neighbour)["input_ids"]) <= room
    alone = write_neighbours(model, tokenizer, MEMBERS[1:2], seeds=[(0, 1)], **settings | {"batch_tokens": 1})
    assert alone[0] == together[1]


def test_the_sampler_draws_from_the_softmax_of_the_top_k():
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0, 0.5]]).expand(4000, 5)
    sampler = TopKSampler(np.random.default_rng(0).random((4000, 1)), top_k=3, temperature=2.0)
    drawn = np.bincount(sampler(logits, list(range(4000))).numpy(), minlength=5) / 4000
    weights = np.exp(np.array([1.0, 0.0, 2.0, 0.0, 0.5]) / 2) * [1, 0, 1, 0, 1]
    assert drawn == pytest.approx(weights / weights.sum(), abs=0.03)
    assert drawn[1] == drawn[3] == 0


def test_losses_share_prefixes_without_changing(clean):
    model, tokenizer = clean
    texts = [MEMBERS[0] + " " + end for end in ("sun", "moon river", "moon", "")]
    together = sequence_losses(model, tokenizer, texts, batch_tokens=128)
    alone = [sequence_losses(model, tokenizer, [text], batch_tokens=128)[0] for text in texts]
    assert together == pytest.approx(alone, rel=1e-4)


def test_a_model_that_cannot_share_prefixes_writes_the_same_neighbours_and_has_the_same_losses(
    clean, monkeypatch
):
    model, tokenizer = clean
    settings = {"copies": 4, "ratio": 0.4, "top_k": 50, "temperature": 1.0, **BATCH}
    seeds = [(0, number) for number in range(3)]
    shared = write_neighbours(model, tokenizer, MEMBERS[:3], seeds=seeds, **settings)
    losses = sequence_losses(model, tokenizer, MEMBERS, **BATCH)
    monkeypatch.setattr("solar_repro.contamination.neighbours.shares_prefixes", lambda model, longest: False)
    assert write_neighbours(model, tokenizer, MEMBERS[:3], seeds=seeds, **settings) == shared
    assert sequence_losses(model, tokenizer, MEMBERS, **BATCH) == pytest.approx(losses, rel=1e-5)


def test_models_of_other_attention_do_not_share_prefixes():
    for kind, longest, shares in (
        ("llama", 100, True),
        ("qwen2", 100, True),
        ("gemma2", 3, False),  # adds masks to its scores
        ("bloom", 3, False),
    ):
        assert shares_prefixes(random_model(kind), longest) is shares
    windowed = random_model("mistral", sliding_window=8)
    assert [shares_prefixes(windowed, longest) for longest in (8, 9)] == [True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ratio": 1.0}, "ratio"), ({"neighbours": 0}, "positive"), ({"examples": 13}, "12 texts")],
)
def test_settings_out_of_range(clean, settings, message):
    with pytest.raises(UserError, match=message):
        neighbour_test(clean, clean, MEMBERS, **{"examples": 2, "neighbours": 2, **BATCH, **settings})


def test_texts_are_question_and_right_answer(mirror):
    import pyarrow.parquet as pq

    def rows(path):
        return pq.read_table(mirror / f"{path}-00000-of-00001.parquet").to_pylist()

    arc = rows("allenai/ai2_arc/ARC-Challenge/test")
    expected = [f"{row['question']} {row['choices']['text']['ABCD'.index(row['answerKey'])]}" for row in arc]
    assert contamination_texts("ARC", mirror) == tuple(expected)
    gsm8k = rows("openai/gsm8k/main/test")
    assert contamination_texts("GSM8K", mirror) == tuple(f"{r['question']} {r['answer']}" for r in gsm8k)
    truth = rows("truthfulqa/truthful_qa/multiple_choice/validation")
    expected = [f"{row['question']} {row['mc1_targets']['choices'][0]}" for row in truth]
    assert contamination_texts("TruthfulQA", mirror) == tuple(expected)
    mmlu = rows("cais/mmlu/anatomy/test")[0]
    assert contamination_texts("MMLU", mirror)[0] == f"{mmlu['question']} {mmlu['choices'][mmlu['answer']]}"
    assert len(contamination_texts("MMLU", mirror)) == 6 + 7 + 8
    assert len(contamination_texts("MMLU", mirror, reference=True)) == 6


def test_columns_the_paper_leaves_out_are_tested_only_when_asked_for(mirror):
    assert set(Contamination().tasks) == {
        task for task, share in TABLES["table_9"]["rows"][0].items() if share is not None
    }
    for column in ("HellaSwag", "Winogrande"):
        assert len(contamination_texts(column, mirror)) == 8
    assert "_" not in contamination_texts("Winogrande", mirror)[0]
    assert contamination_texts("TruthfulQA", mirror, reference=True) == ()
    with pytest.raises(UserError, match="BoolQ"):
        contamination_texts("BoolQ", mirror)
