"""What the trainers are told of devices and sharding."""

import pytest
from transformers import TrainingArguments

from solar_repro.scales.load import load_scale
from solar_repro.training.trainer import PlainTrainer, arguments
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
