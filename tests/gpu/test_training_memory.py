"""The most memory that each kind of training takes, beside what a plan says that it needs.

Two micro-batches make a step, so that gradients of the first lie beside the activations of the second.
"""

import functools
import gc

import pytest
import torch

from benchmarks.performance import gpu_training
from solar_repro.plan import costs
from solar_repro.scales.training import Lora
from tests.gpu.trainings import prepared, write_inputs

WITHIN = 0.1
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    # Of TinyLlama's width, with as many layers as leave room in 24 GB: 0.48 billion parameters.
    "cuda": {**gpu_training.SHAPES["1B"], "num_hidden_layers": 8},
    "cpu": {**gpu_training.SHAPES["1B"], **TINY, "num_key_value_heads": 2, "vocab_size": 1024},
}
SIZES = {"cuda": (4, 1024), "cpu": (2, 256)}
"""Sequences of a micro-batch, and their length."""
STEPS = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes the inputs of a place's trainings once."""

    @functools.cache
    def make(place):
        rows, length = SIZES[place]
        return write_inputs(tmp_path_factory.mktemp(place), SHAPES[place], STEPS * 2 * rows, length)

    return make


def settings_of(stage, place, **changes):
    """Settings of a micro-batch of the place's size, half as many pairs of DPO, two of them a step."""
    rows, length = SIZES[place]
    rows //= 2 if stage == "dpo" else 1
    sizes = {"per_device_batch_size": rows, "global_batch_size": 2 * rows, "max_length": length}
    return gpu_training.settings_of(stage, rows).model_copy(update={**sizes, "max_steps": STEPS, **changes})


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("continue_pretrain", {}),
        ("sft", {}),
        ("sft", {"activation_checkpointing": True}),
        ("sft", {"lora": Lora()}),
        ("dpo", {}),
    ],
    ids=["continue_pretrain", "sft", "sft with checkpointing", "sft with adapters", "dpo"],
)
def test_a_training_takes_the_memory_that_the_plan_reckons_with(place, folders, tmp_path, stage, changes):
    if "lora" in changes:
        pytest.importorskip("peft")
    if stage == "continue_pretrain":
        rows, length = SIZES[place]
        changes = {**changes, "tokens": STEPS * 2 * rows * length, "held_out_evaluations": 1}
    tuning = settings_of(stage, place, **changes)
    losses = []
    run = prepared(
        stage,
        tuning,
        folders(place),
        tmp_path,
        lambda metrics, step=0: losses.extend([metrics["loss"]] if "loss" in metrics else []),
    )
    gc.collect()
    if place == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run()
    assert len(losses) == STEPS
    predicted = costs.training_memory(SHAPES[place], tuning, "ddp", 1, stage == "dpo")
    if place == "cuda":
        measured = torch.cuda.max_memory_allocated()
        print(f"{stage} {changes}: {measured / 1e9:.2f} GB, reckoned {predicted / 1e9:.2f} GB")
        assert predicted == pytest.approx(measured, rel=WITHIN)
