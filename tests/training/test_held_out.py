"""The held-out documents of continued pretraining and evaluation."""

import gzip
import json

import pytest
from torch import distributed

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contract import ContinuePretrainSettings, EvaluateSettings, PackedSettings
from solar_repro.errors import UserError
from solar_repro.plan.step import Step
from solar_repro.scales.load import load_scale
from solar_repro.scales.settings import Corpus
from solar_repro.stages import continue_pretrain, evaluate, packed
from solar_repro.training import held_out
from solar_repro.training.held_out import held_out_losses, mean_loss, shared_mean_loss
from tests.steps import run_step
from tests.tiny_benchmarks import model  # noqa: F401


@pytest.fixture
def without_held_out(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "corpus.txt").write_text("One document.\nAnother one.\n")
    return Corpus(id=str(folder), held_out_documents=2)


def no_model(*args, **settings):
    raise AssertionError("the model is loaded before the corpus is looked at")


def folders(step, place):
    roles = {"continue_pretrain": ("model", "packed")}
    return {role: place / role for role in roles.get(step.stage, ("model",))}


def test_a_missing_held_out_split_is_found_before_anything_is_computed(
    without_held_out, tmp_path, monkeypatch
):
    scale = load_scale("check")
    monkeypatch.setattr(continue_pretrain, "load_whole", no_model)
    monkeypatch.setattr(packed, "load_training_tokenizer", no_model)
    monkeypatch.setattr(evaluate, "evaluate_h6", no_model)
    told = {"corpus": without_held_out, "seed": 0}
    steps = [
        Step(
            "continue_pretrain",
            "x",
            ContinuePretrainSettings(**told, continue_pretrain=scale.continue_pretrain),
        ),
        Step("evaluate", "x", EvaluateSettings(**told, evaluate=scale.evaluate)),
        Step(
            "packed",
            "x",
            PackedSettings(
                id=without_held_out.id, split="train", column="text", tokens=8, max_length=8, seed=0
            ),
            places={"held_out_split": "validation"},
        ),
    ]
    for step in steps:
        with pytest.raises(UserError, match="corpus has no split 'validation'; it has train"):
            run_step(step, tmp_path / "out", lambda metrics, step=0: None, folders(step, tmp_path))


def test_compressed_texts_are_a_corpus(tmp_path):
    lines = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(3))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    corpus = Corpus(id=str(tmp_path), held_out_documents=5)
    assert sorted(continue_pretrain.held_out_texts(corpus, None)) == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_share_the_documents_out_and_take_as_many_passes(model, monkeypatch, processes):  # noqa: F811
    network, tokenizer = load_for_scoring(model)
    texts = [" ".join(["sun moon river"] * words) for words in (1, 7, 2, 0, 5, 5, 3)]
    monkeypatch.setattr(held_out, "BATCH_TOKENS", 24)
    expected = mean_loss(held_out_losses(network, tokenizer, texts))
    assert shared_mean_loss(network, tokenizer, texts) == pytest.approx(expected, rel=1e-6)

    passes = []
    network.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: processes)
    sums, sizes = [], []
    monkeypatch.setattr(distributed, "all_reduce", lambda own: sums.append(own.clone()) or own.fill_(1))
    for rank in range(processes):
        passes.clear()
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        shared_mean_loss(network, tokenizer, texts)
        sizes.append(list(passes))
    assert len({len(each) for each in sizes}) == 1
    log_prob, tokens = sum(sums).tolist()
    assert -log_prob / tokens == pytest.approx(expected, rel=1e-6)
    assert max(own[1] for own in sums) < tokens
