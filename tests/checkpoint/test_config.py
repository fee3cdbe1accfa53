"""Configs of deeper models: what follows the layers, what stays, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from solar_repro.checkpoint.config import deepen_config, is_plain
from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.headers import TensorRange
from solar_repro.checkpoint.layer_map import LayerMap, dus
from solar_repro.errors import UserError


def deepen(layer_map: LayerMap, **config: Any) -> dict[str, Any]:
    tensors = {
        f"h.{i}.w": TensorRange(Path("x"), "F32", (1,), 4 * i, 4) for i in range(layer_map.base_layers)
    }
    return deepen_config(
        Checkpoint(Path("base"), {"n_layer": layer_map.base_layers, **config}, tensors), layer_map
    )


def test_lists_by_layer_and_lists_of_layers_are_remapped() -> None:
    new = deepen(
        dus(4, 1),
        no_rope_layers=[1, 1, 1, 0],
        num_query_heads=[1, 2, 3, 4],
        mlp_only_layers=[1, 3],
        architectures=["A"] * 4,
        eos_token_id=[1, 2, 3, 4],
        factors=[0.5, 0.25],
        num_hidden_layers=4,
    )
    assert new["n_layer"] == new["num_hidden_layers"] == 6
    assert new["no_rope_layers"] == [1, 1, 1, 1, 1, 0]
    assert new["num_query_heads"] == [1, 2, 3, 2, 3, 4]
    assert new["mlp_only_layers"] == [1, 3, 5]  # new layers 1 and 3 copy layer 1, new layer 5 copies layer 3
    assert new["architectures"] == ["A"] * 4
    assert new["eos_token_id"] == [1, 2, 3, 4]
    assert new["factors"] == [0.5, 0.25]


def test_patterns_and_gpt_neos_lists_are_remapped() -> None:
    new = deepen(
        dus(4, 1), hybrid_override_pattern="M*-E", attention_types=[[["global", "local"], 2]], pattern="M*"
    )
    assert new["hybrid_override_pattern"] == "M*-*-E"
    assert new["attention_types"] == [[["global", "local", "global", "local", "global", "local"], 1]]
    assert new["pattern"] == "M*"


def test_names_of_layers_inside_the_config_follow_the_layers() -> None:
    names = ["lm_head", "model.h.3.mlp", "h.1.attn.o_proj", "h.2"]
    new = deepen(
        dus(4, 1),
        quantization_config={"modules_to_not_convert": names, "bits": {"model.h.1.mlp": 4, "default": 8}},
        layer_types=["full", "full", "full", "full"],
    )
    assert new["quantization_config"] == {
        "modules_to_not_convert": [
            "lm_head",
            "model.h.5.mlp",
            "h.1.attn.o_proj",
            "h.3.attn.o_proj",
            "h.2",
            "h.4",
        ],
        "bits": {"model.h.1.mlp": 4, "model.h.3.mlp": 4, "default": 8},
    }
    assert new["layer_types"] == ["full"] * 6


@pytest.mark.parametrize(
    "value", [{"ignore": ["re:.*h\\.3\\..*"]}, {"dynamic": {"-:.*\\.3\\..*": {}}}, {"only": "model.h.3.mlp"}]
)
def test_names_that_cannot_be_followed_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"config\.json: quantization_config"):
        deepen(dus(4, 1), quantization_config=value)


def base_of(layers: int = 4, odd: str = "w", **config: Any) -> Checkpoint:
    names = [f"h.{i}.{odd if i == 2 else 'w'}" for i in range(layers)]
    tensors = {name: TensorRange(Path("x"), "F32", (1,), 0, 4) for name in names}
    return Checkpoint(Path("base"), {"n_layer": layers, **config}, tensors)


def test_known_types_with_layers_all_alike_need_no_proof() -> None:
    assert is_plain(base_of(model_type="llama"))
    assert is_plain(base_of(model_type="qwen2", layer_types=["full_attention"] * 4, max_window_layers=2))
    assert is_plain(base_of(model_type="gpt2", eos_token_id=[1, 2, 3, 4]))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "jamba"},
        {"model_type": "gemma2"},
        {"model_type": ["llama"]},
        {},
        {"model_type": "llama", "odd": "q"},
        {"model_type": "llama", "quantization_config": {}, "layer_types": ["a", "a", "a", "b"]},
        {"model_type": "llama", "quantization_config": {"bits": 4}},
        {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
        {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
        {"model_type": "qwen3", "no_rope_layers": [1]},
    ],
)
def test_what_needs_proof(config: dict[str, Any]) -> None:
    assert not is_plain(base_of(**config))
