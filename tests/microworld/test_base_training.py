"""The tokenizer's round trip, and a base trained for a few steps."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings
from torch.utils._python_dispatch import TorchDispatchMode

from solar_repro.errors import UserError
from solar_repro.microworld.base_training import train_base
from solar_repro.microworld.tokenizer import train_tokenizer
from solar_repro.scales.microworld import BaseTraining
from solar_repro.store.result import METRICS
from solar_repro.store.resume import RESUME_METRICS, ResumeFolder
from solar_repro.tracking.metric_log import MetricLog, read_metrics

TINY = BaseTraining(
    vocab_size=400, layers=3, hidden_size=32, intermediate_size=64, heads=4, key_value_heads=2,
    context_length=128, batch_size=4, steps=25, learning_rate=5e-3, warmup_steps=3, log_every=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(mirror: Path):
    return train_tokenizer(mirror, 600)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_is_what_matrices_are_multiplied_in(mirror: Path, tmp_path: Path, precision: str):
    seen = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
                seen.add(arguments[0].dtype)
            return function(*arguments, **(options or {}))

    with Products():
        settings = TINY.model_copy(update={"steps": 1, "precision": precision})
        train_base(mirror, tmp_path / "base", settings, lambda metrics, step: None)
    # The head's loss, the optimizer and the last, held-out loss are in float32 always.
    assert seen - {torch.float32} == ({torch.bfloat16} if precision == "bfloat16" else set())


@hypothesis_settings(max_examples=60, deadline=None)
@given(text=strategies.text(max_size=40))
def test_any_text_survives_the_tokenizer(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text or "<" in text


def test_specials_digits_and_bos(tokenizer):
    assert len(tokenizer) == 600
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    ids = tokenizer("Tom has 130 eggs.").input_ids
    assert ids[0] == tokenizer.bos_token_id == 1
    assert ids.count(1) == 1
    assert 2 not in ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if any(sign.isdigit() for sign in token)] == ["1", "3", "0"]
    assert tokenizer("Tom", add_special_tokens=False).input_ids[0] != 1
    assert tokenizer("</s>").input_ids == [1, 2]
    assert max(len(token) for token in tokenizer.get_vocab()) > 4


def test_the_same_corpus_gives_the_same_tokenizer(mirror: Path, tokenizer):
    again = train_tokenizer(mirror, 600)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.fixture(scope="module")
def trained(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[dict, int]]]:
    logged: list[tuple[dict, int]] = []
    out = tmp_path_factory.mktemp("base") / "base"
    train_base(mirror, out, TINY, lambda metrics, step: logged.append((metrics, step)))
    return out, logged


def test_training_lowers_the_loss_and_logs_it(trained):
    _, logged = trained
    steps = [step for _, step in logged]
    assert steps == [5, 10, 15, 20, 25, 25]
    losses = [metrics["loss"] for metrics, _ in logged[:-1]]
    assert losses[-1] < losses[0] - 0.5
    assert abs(logged[-1][0]["validation_loss"] - losses[-1]) < 0.5
    assert all(metrics["tokens_per_second"] > 0 for metrics, _ in logged[:-1])
    # 3 steps of warm-up, a decay over the last 6 of 25 (a quarter): the last step has a sixth of the peak.
    assert [metrics["learning_rate"] for metrics, _ in logged[:-1]] == pytest.approx(
        [5e-3, 5e-3, 5e-3, 5e-3, 5e-3 / 6]
    )


def test_the_folder_is_a_hugging_face_llama_without_pickles(trained):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = trained
    names = "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert sorted(path.name for path in out.iterdir()) == names.split()
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["vocab_size"]) == ("llama", 3, 400)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 3)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == 128
    ids = tokenizer("The", return_tensors="pt").input_ids
    assert ids[0, 0] == 1
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], 400)


def test_the_same_settings_give_the_same_bytes(mirror: Path, trained, tmp_path: Path):
    out, _ = trained
    train_base(mirror, tmp_path / "again", TINY, lambda metrics, step: None)
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


class Killed(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_same_bytes(mirror: Path, trained, tmp_path):
    out, logged = trained
    resume = ResumeFolder(tmp_path / "saved", minutes=1e-9)
    first = MetricLog(lambda rows: None, tmp_path / "first" / METRICS)

    def cut_off(metrics: dict, step: int) -> None:
        if step == 15:
            raise Killed
        first(metrics, step)

    with pytest.raises(Killed):
        train_base(mirror, tmp_path / "first", TINY, cut_off, resume)
    assert not (tmp_path / "first" / "model.safetensors").exists()
    (resume.newest_checkpoint() / "state.safetensors").write_bytes(b"torn by a power cut")
    state = resume.intact_checkpoint()
    assert state.name == "checkpoint-13"
    second = MetricLog(lambda rows: None, tmp_path / "base" / METRICS, read_metrics(state / RESUME_METRICS))
    train_base(mirror, tmp_path / "base", TINY, second, resume)
    losses = [
        (row["step"], row["value"])
        for row in read_metrics(tmp_path / "base" / METRICS)
        if row["key"] == "loss"
    ]
    assert losses == [(step, metrics["loss"]) for metrics, step in logged if "loss" in metrics]
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "base" / path.name).read_bytes(), path.name


def test_a_corpus_that_is_missing_or_too_small_is_named(mirror: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no train rows in .*solar-repro/microworld"):
        train_base(tmp_path, tmp_path / "out", TINY, lambda metrics, step: None)
    large = TINY.model_copy(update={"batch_size": 100_000})
    with pytest.raises(UserError, match="a batch takes 100000"):
        train_base(mirror, tmp_path / "out", large, lambda metrics, step: None)
    assert not (tmp_path / "out").exists()
