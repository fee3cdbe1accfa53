"""The speed benchmarks of training, with a tiny model on the CPU: what they run and what they reckon."""

import pytest

from benchmarks.performance import gpu_training
from solar_repro.plan import costs
from solar_repro.training.flops import training_flops

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


@pytest.mark.slow
def test_both_stages_beside_the_bare_loop() -> None:
    settings = {
        stage: gpu_training.settings_of(stage, 2).model_copy(update={"max_length": 256})
        for stage in gpu_training.SETS
    }
    found = gpu_training.measure(TINY, settings, steps=5, rounds=1, tflops=1.0)
    assert set(found) == {"sft", "dpo"}
    for measured in found.values():
        assert 200 <= measured["tokens_a_sequence"] <= 256
        for contender, (rate,) in measured["tokens_per_second"].items():
            flops = rate * training_flops(TINY, measured["tokens_a_sequence"])
            assert measured["mfu"][contender] == pytest.approx(flops / 1e12, abs=1e-3)


def test_layers_are_as_many_as_the_memory_holds() -> None:
    settings = {stage: gpu_training.settings_of(stage, 4) for stage in gpu_training.SETS}
    shape = gpu_training.SHAPES["10.7B"]
    layers = gpu_training.layers_that_fit(shape, settings, 70e9)
    config = {**shape, "num_hidden_layers": layers}
    one_more = {**shape, "num_hidden_layers": layers + 1}
    assert costs.training_memory(config, settings["sft"], "ddp", 1, False) <= 70e9
    assert (
        max(
            costs.training_memory(one_more, chosen, "ddp", 1, stage == "dpo")
            for stage, chosen in settings.items()
        )
        > 70e9
    )
    assert gpu_training.layers_that_fit(gpu_training.SHAPES["1B"], settings, 70e9) == 22
