"""Losses under layer maps, beside those of checkpoints that were really written and loaded."""

import json
import shutil

import numpy as np
import pytest
import torch

from benchmarks.untrained import untrained_study
from solar_repro.checkpoint.layer_map import LayerMap, block_expansion, dus, interleave, ranges, repeat
from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.contract import TrainedInputs, UntrainedSettings
from solar_repro.errors import UserError
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.scales.settings import Corpus
from solar_repro.shared_prefix.layer_maps import UntrainedScorer, angular_distance
from solar_repro.shared_prefix.token_scores import token_scores
from solar_repro.stages import untrained
from tests.tiny_decoders import LAYERS, load, random_model

MAPS = (
    LayerMap("base", LAYERS, tuple(range(LAYERS))),
    dus(LAYERS, 1),
    repeat(LAYERS),
    interleave(LAYERS),
    block_expansion(LAYERS, 2),
    ranges("0-3,1-3,3-4", LAYERS),
)
SEQUENCES = [np.arange(1, length, dtype=np.int32) * 7 % 61 for length in (14, 3, 30, 1, 2)]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gpt_neox", "gpt2", "gemma2"])
def test_losses_are_those_of_models_that_were_made(kind, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("solar_repro.shared_prefix.layer_maps.HEAD_TOKENS", 8)
    folder = saved(kind)
    scorer = UntrainedScorer(load(folder), LAYERS)
    found = dict(scorer.score(MAPS, SEQUENCES, batch_tokens=40))
    assert sorted(found) == [0, 1, 2]  # a sequence of one token predicts nothing
    for place, layer_map in enumerate(MAPS):
        model = load(folder)
        if place:
            made = tmp_path / str(place)
            made.mkdir()
            write_upscale(plan_upscale(folder, layer_map, unproved=True), made)
            model = load(made)
        expected = token_scores(model, SEQUENCES, batch_tokens=64)
        for number, scores in found.items():
            assert scores[place].nats == pytest.approx(-expected[number].log_probs.sum(), abs=1e-4)
            assert scores[place].tokens == len(SEQUENCES[number]) - 1
    assert scorer.computed < 0.7 * scorer.separate
    # The base itself is as it was.
    assert token_scores(scorer.model, SEQUENCES[:1], batch_tokens=64)[0].log_probs.sum() == pytest.approx(
        -found[0][0].nats, abs=1e-4
    )


def test_the_distance_is_that_across_the_seam():
    model = random_model("llama")
    found = dict(UntrainedScorer(model, LAYERS).score(MAPS, SEQUENCES[:1], batch_tokens=64))
    with torch.no_grad():
        tokens = torch.from_numpy(SEQUENCES[0].astype(np.int64))[None]
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    # Depth up-scaling with m = 1 joins what lies behind layer 2 to what layer 1 is used to.
    assert found[0][1].distance == pytest.approx(angular_distance(states[3][0, 1:], states[1][0, 1:]))
    assert found[0][0].distance == found[0][4].distance == 0


def test_angular_distance():
    first = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert angular_distance(first, first * 3) == pytest.approx(0, abs=1e-6)
    assert angular_distance(first, torch.tensor([[0.0, 5.0], [0.0, -5.0]])) == pytest.approx(0.5)
    assert angular_distance(first, -first) == pytest.approx(1)


def test_a_decoder_with_another_list_of_as_many_modules_is_refused():
    with pytest.raises(UserError, match="has 0 lists of 5 layers"):
        UntrainedScorer(random_model("llama"), 5)


def corpus(folder, *texts: str) -> Corpus:
    folder.mkdir()
    for split in ("train", "validation"):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{split}.jsonl").write_text(lines)
    return Corpus(id=str(folder), held_out_documents=len(texts))


def run(out, texts: Corpus, extra=(), model=FOLDER) -> dict[str, float]:
    out.mkdir()
    logged: dict[str, float] = {}
    untrained.run(
        out,
        lambda metrics, step=0: logged.update(metrics),
        UntrainedSettings(extra=tuple(extra), corpus=texts, max_length=40, precision="float32"),
        TrainedInputs(model=model),
    )
    return logged


def test_the_stage_and_its_study(tmp_path):
    texts = corpus(tmp_path / "texts", "Zoe has 4 books.", "Ann is in the kitchen.", "Jack wants a kite.")
    logged = run(tmp_path / "out", texts, ["ranges:0-6,2-8"])
    maps = json.loads((tmp_path / "out" / untrained.MAPS_FILE).read_text())["maps"]
    assert [row["map"] for row in maps] == [
        "base", "dus:1", "dus:2", "dus:3", "repeat", "interleave", "block_expansion", "ranges:0-6,2-8",
    ]  # fmt: skip
    by_map = {row["map"]: row for row in maps}
    assert by_map["dus:2"]["layers"] == 12
    assert by_map["dus:2"]["loss"] == by_map["ranges:0-6,2-8"]["loss"] == logged["loss/dus_2"]
    assert by_map["block_expansion"]["loss"] == pytest.approx(by_map["base"]["loss"])
    study = untrained_study(tmp_path / "out", "texts")
    assert [row["map"] for row in study.rows][:3] == ["base", "m = 1", "m = 2"]
    assert "here m = 2: " in study.verdict
    assert "3 texts of texts" in study.verdict


@pytest.mark.parametrize("kind", ["gpt_neox", "qwen2"])
def test_the_study_of_other_architectures(kind, saved, tmp_path):
    tokenizer = load_training_tokenizer(FOLDER)
    model = tmp_path / "model"
    shutil.copytree(saved(kind, vocab_size=len(tokenizer)), model)
    tokenizer.save_pretrained(model)
    run(tmp_path / "out", corpus(tmp_path / "texts", "Zoe has 4 books.", "Jack wants a kite."), model=model)
    study = untrained_study(tmp_path / "out", "texts")
    assert [row["map"] for row in study.rows][:3] == ["base", "m = 1", "repeat"]
    assert "Claim C2" in study.verdict


def write_maps(folder, losses: dict[str, list[float]]) -> None:
    """A result of 8 layers in which every text has 10 tokens and these losses per token."""
    rows = []
    for kind, values in losses.items():
        (folder / untrained.losses_file(kind)).write_text(json.dumps([[10, 10 * value] for value in values]))
        rows.append(
            {
                "map": kind, "layers": 8, "parameters": 1, "seams": 1, "layer_distance": 1,
                "angular_distance": sum(values), "loss": sum(values) / len(values),
            }
        )  # fmt: skip
    (folder / untrained.MAPS_FILE).write_text(json.dumps({"maps": rows, "refused": {}}))


def test_the_study_tells_where_the_cliff_is(tmp_path):
    texts = np.array([1.0, 1.2, 0.9, 1.1, 1.05])
    noise = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
    shifts = {"base": 0, "dus:1": 1.5, "dus:2": 0.3, "dus:3": 0.2, "repeat": 2, "interleave": 3}
    rows = {kind: list(texts + shift + noise * place) for place, (kind, shift) in enumerate(shifts.items())}
    write_maps(tmp_path, rows)
    verdict = untrained_study(tmp_path, "texts").verdict
    assert "here m = 2: -1.7" in verdict
    assert "reproduced." in verdict
    assert "from m = 2 (1.3" in verdict
    assert "to m = 1 (2.5" in verdict
    assert "rank correlation of 1.00" in verdict


def test_no_cliff_is_told_where_there_is_none(tmp_path):
    noisy = {
        "base": [1, 2, 3],
        "dus:1": [2, 3, 1],
        "dus:2": [3, 1, 2],
        "dus:3": [1, 3, 2],
        "repeat": [2, 1, 3],
    }
    write_maps(tmp_path, {**noisy, "interleave": [3, 2, 1]})
    verdict = untrained_study(tmp_path, "texts").verdict
    assert "No step between neighbouring m is larger than chance allows." in verdict
    assert "undecided." in verdict


def test_bases_and_texts_that_cannot_be_studied_are_refused(tmp_path, saved, monkeypatch):
    texts = corpus(tmp_path / "texts", "Zoe has 4 books.")
    monkeypatch.setattr(untrained, "held_out_texts", lambda *_: [""])
    with pytest.raises(UserError, match="has no held-out text"):
        run(tmp_path / "one", texts)
    with pytest.raises(UserError, match="3 layers; a study of layer maps needs 4 or more"):
        run(tmp_path / "two", texts, model=saved("llama", num_hidden_layers=3))


def test_a_map_that_cannot_be_proved_is_left_out_with_the_reason(tmp_path, monkeypatch, capsys):
    proved = untrained.plan_upscale

    def plan(model, layer_map, **settings):
        if layer_map.name == "interleave":
            raise UserError("layer 1 is of another kind")
        return proved(model, layer_map, **settings)

    monkeypatch.setattr(untrained, "plan_upscale", plan)
    run(tmp_path / "out", corpus(tmp_path / "texts", "Zoe has 4 books."))
    content = json.loads((tmp_path / "out" / untrained.MAPS_FILE).read_text())
    assert content["refused"] == {"interleave": "layer 1 is of another kind"}
    assert "interleave" not in [row["map"] for row in content["maps"]]
    assert "interleave is left out: layer 1 is of another kind" in capsys.readouterr().out
