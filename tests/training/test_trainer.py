"""What the trainers are told of devices and sharding."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from solar_repro.scales.load import load_scale
from solar_repro.training.flops import training_flops
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments
from tests.tiny_decoders import random_model

SETTINGS = load_scale("check").in_precision("float32").continue_pretrain


@pytest.fixture
def options(tmp_path):
    return arguments(SETTINGS, rows=1000, seed=0) | {"output_dir": str(tmp_path)}


def test_without_a_launcher_one_of_several_gpus_is_used(options):
    config = TrainingArguments(**options)
    config._n_gpu = 4
    trainer = PlainTrainer(random_model("llama"), config)
    assert trainer.args.train_batch_size == SETTINGS.per_device_batch_size


@pytest.mark.parametrize("sharded", [True, False])
def test_sharded_gradients_are_summed_after_each_micro_batch(sharded, monkeypatch):
    if sharded:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    told = arguments(SETTINGS, rows=1000, seed=0)["accelerator_config"]
    assert told == {"gradient_accumulation_kwargs": {"sync_each_batch": sharded}}


@pytest.mark.parametrize("replicated", [True, False])
def test_copies_sum_their_gradients_after_the_last_micro_batch_alone(options, replicated, monkeypatch):
    trainer = PlainTrainer(random_model("llama"), TrainingArguments(**options))
    if replicated:
        monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setattr(Trainer, "training_step", lambda *given: given)
    sums = []

    class Replicated:
        set_requires_all_reduce = sums.append

    for last in (False, False, True):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        assert trainer.training_step(Replicated, {}, 8) == (trainer, Replicated, {}, 8)
    assert sums == ([False, False, True] if replicated else [])


class Counting(torch.nn.Module):
    """A model that notes the rows of each micro-batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.rows = []

    def forward(self, row, labels=None):
        self.rows.append(row.tolist())
        return {"loss": self.weight.square().sum()}


class AtEnd(TrainerCallback):
    """Saves the state after the last step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == state.max_steps


def count_rows(folder, micro_batch, resume=None, **changes):
    settings = SETTINGS.model_copy(
        update={"global_batch_size": 16, "per_device_batch_size": micro_batch, **changes}
    )
    rows = [{"row": number, "labels": 0} for number in range(40)]
    options = arguments(settings, len(rows), seed=0) | {"output_dir": str(folder)}
    trainer = PlainTrainer(Counting(), TrainingArguments(**options), train_dataset=rows, callbacks=[AtEnd()])
    trainer.train(resume_from_checkpoint=resume)
    seen = [row for batch in trainer.model.rows for row in batch]
    return trainer, [seen[start : start + 16] for start in range(0, len(seen), 16)]


@pytest.mark.parametrize("epochs", [1, 2.5, 3])
def test_every_step_has_a_whole_batch_and_passes_follow_each_other_without_a_gap(tmp_path, epochs):
    trainer, steps = count_rows(tmp_path, 8, epochs=epochs)
    assert trainer.state.global_step == len(steps) == int(2 * epochs)
    assert {len(step) for step in steps} == {16}
    seen = [row for step in steps for row in step]
    for start in range(0, len(seen), 40):
        assert len(set(seen[start : start + 40])) == len(seen[start : start + 40])
    # As two processes of 8 do it.
    assert count_rows(tmp_path, 16, epochs=epochs)[1] == steps


def test_a_training_that_had_made_its_last_step_makes_no_other(tmp_path):
    first, _ = count_rows(tmp_path, 8, max_steps=1, schedule="constant")
    weight = first.model.weight.item()
    resumed, steps = count_rows(tmp_path, 8, str(tmp_path / "checkpoint-1"), max_steps=1, schedule="constant")
    assert (steps, resumed.state.global_step) == ([], 1)
    assert resumed.model.weight.item() == weight != 1.0


@pytest.mark.parametrize("peak", [None, 1e12])
def test_a_gpu_of_a_known_peak_has_an_mfu(peak, monkeypatch):
    clock = iter([10.0, 12.0])
    logged = {}
    report = ReportProgress("training", lambda metrics, step=0: logged.update(metrics), 1, 64, 16.4)
    model = random_model("llama")
    state = TrainerState(global_step=1, max_steps=1)
    report.on_train_begin(None, TrainerState(), None)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    report.on_step_begin(None, state, None)
    report.on_step_end(None, state, None)
    monkeypatch.undo()
    monkeypatch.setattr("solar_repro.training.trainer.peak_flops", lambda: peak)
    monkeypatch.setenv("WORLD_SIZE", "2")
    report.on_log(None, state, None, {"loss": 1.0}, model=model)
    assert logged["tokens_per_second"] == 32
    if peak is None:
        assert "mfu" not in logged
    else:
        assert logged["mfu"] == pytest.approx(32 * training_flops(model.config.to_dict(), 16) / 2e12)
