"""Adapters over frozen weights on a GPU, and the reference of DPO in bfloat16."""

import functools
import math

import pytest
import torch

from benchmarks.performance import gpu_training
from solar_repro.scales.training import Lora
from solar_repro.training.adapters import load_for_tuning
from tests.gpu.trainings import prepared, write_inputs

SHAPES = {
    "cuda": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4},
    "cpu": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
ROWS, LENGTH = 4, 128
TOKEN = 2**-5
"""By how much (nats) two computations in bfloat16 may differ in a token's log-probability, at random: logits
near 4 have steps of 2**-6, and what they are made from was rounded as often as there are layers."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the inputs of a place's trainings once."""

    @functools.cache
    def make(place):
        shape = gpu_training.SHAPES["1B"] | HEADS | SHAPES[place]
        return write_inputs(tmp_path_factory.mktemp(place), shape, ROWS, LENGTH)

    return make


@pytest.fixture
def folders(made, place):
    return made(place)


def settings(lora):
    changes = {"max_length": LENGTH, "max_steps": 1, "lora": lora}
    return gpu_training.settings_of("dpo", ROWS).model_copy(update=changes)


def test_quantised_weights_lie_on_the_gpu_of_this_process(place, folders, monkeypatch):
    pytest.importorskip("peft")
    bitsandbytes = pytest.importorskip("bitsandbytes")
    expected = torch.device("cpu")
    if place == "cuda":
        last = torch.cuda.device_count() - 1
        monkeypatch.setenv("LOCAL_RANK", str(last))
        expected = torch.device("cuda", last)
    model, _ = load_for_tuning(folders["model"], settings(Lora(rank=4, quantised=True)), seed=0)
    assert {tensor.device for tensor in [*model.parameters(), *model.buffers()]} == {expected}
    four_bits = bitsandbytes.nn.Params4bit
    quantised = [weight for weight in model.parameters() if isinstance(weight, four_bits)]
    assert len(quantised) == 7 * SHAPES[place]["num_hidden_layers"]
    trained = {name.split(".")[-3] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"lora_A", "lora_B"}


@pytest.mark.parametrize(
    "lora", [None, Lora(rank=4), Lora(rank=4, quantised=True)], ids=["whole", "adapters", "quantised"]
)
def test_dpo_begins_at_its_reference(place, folders, tmp_path, lora):
    """At step 1 the model is its own reference: the margin of its rewards is 0 but for rounding.

    It is beta times a difference of sums over the tokens of two answers, a mean over `ROWS` pairs.
    """
    if lora is not None:
        pytest.importorskip("peft")
    if lora is not None and lora.quantised:
        pytest.importorskip("bitsandbytes")
    found = []
    tuning = settings(lora)
    prepared("dpo", tuning, folders, tmp_path, lambda metrics, step=0: found.append(metrics))()
    (first,) = [metrics for metrics in found if "rewards/margins" in metrics]
    allowed = tuning.beta * TOKEN * math.sqrt(2 * LENGTH / ROWS)
    print(f"margin {first['rewards/margins']:.2g}, allowed {allowed:.2g}")
    assert abs(first["rewards/margins"]) < allowed
    assert first["loss"] == pytest.approx(math.log(2), abs=allowed)
