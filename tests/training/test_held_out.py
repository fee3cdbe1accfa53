"""The held-out documents of continued pretraining and evaluation."""

import gzip
import json

import pytest

from solar_repro.contract import ContinuePretrainSettings, EvaluateSettings, PackedSettings
from solar_repro.errors import UserError
from solar_repro.plan.step import Step
from solar_repro.scales.load import load_scale
from solar_repro.scales.settings import Corpus
from solar_repro.stages import continue_pretrain, evaluate, packed
from tests.steps import run_step


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
