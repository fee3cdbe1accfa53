"""Layer maps against the paper's figures."""

import pytest

from solar_repro.checkpoint.layer_map import (
    block_expansion,
    dus,
    interleave,
    parameters_of,
    ranges,
    repeat,
)
from solar_repro.errors import UserError

MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def test_solar_is_two_copies_less_eight_layers_each() -> None:
    solar = dus(32, 8)
    assert solar.layers[:24] == tuple(range(24))
    assert solar.layers[24:] == tuple(range(8, 32))
    (seam,) = solar.seams
    assert (seam.position, seam.below, seam.above, seam.distance) == (23, 23, 8, 15)
    assert ranges("0-24,8-32", 32).layers == solar.layers


@pytest.mark.parametrize(("n", "m"), [(32, 1), (32, 15), (7, 3), (40, 12)])
def test_seam_distance_of_dus(n: int, m: int) -> None:
    assert len(dus(n, m).layers) == 2 * (n - m)
    (seam,) = dus(n, m).seams
    assert seam.distance == n - 2 * m - 1


def test_repetition_has_the_largest_seam() -> None:
    (seam,) = repeat(32).seams
    assert seam.distance == 31
    assert len(repeat(32).layers) == 64


def test_interleaving_repeats_each_layer_in_place() -> None:
    assert interleave(3).layers == (0, 0, 1, 1, 2, 2)
    assert {seam.distance for seam in interleave(3).seams} == {0}


def test_block_expansion_adds_zeroed_copies() -> None:
    expanded = block_expansion(32, 4)
    assert len(expanded.layers) == 40
    assert expanded.layers[:6] == (0, 1, 2, 3, 3, 4)
    assert expanded.zeroed == (4, 9, 14, 19, 24, 29, 34, 39)
    assert expanded.seams == ()


@pytest.mark.parametrize("m", [-1, 0, 16, 20])
def test_m_out_of_range(m: int) -> None:
    with pytest.raises(UserError, match="between 1 and 15"):
        dus(32, m)


@pytest.mark.parametrize("text", ["", "0-33", "5-5", "8-2", "0:4", "-1-4", "0-4,", "a-b"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="ranges"):
        ranges(text, 32)


@pytest.mark.parametrize("every", [0, -4, 5, 33])
def test_expansion_must_divide_the_base(every: int) -> None:
    with pytest.raises(UserError, match="must divide"):
        block_expansion(32, every)


def test_parameters_of_the_papers_models() -> None:
    assert parameters_of(MISTRAL_7B) == 7_241_732_096
    assert parameters_of({**MISTRAL_7B, "num_hidden_layers": 48}) == 10_731_524_096


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6}),
        ("mistral", {"num_key_value_heads": 1}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    ],
)
def test_parameters_are_those_of_the_model_transformers_builds(kind: str, changes: dict) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    config = AutoConfig.for_model(kind, **{**small, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert parameters_of(config.to_dict()) == sum(p.numel() for p in model.parameters())


def test_other_shapes_are_not_guessed() -> None:
    with pytest.raises(UserError, match="gpt2"):
        parameters_of({"model_type": "gpt2"})
    with pytest.raises(UserError, match="hidden_size"):
        parameters_of({"model_type": "llama"})
