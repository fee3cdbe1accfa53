"""Configs of deeper models: what follows the layers, what stays, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from solar_repro.checkpoint.config import deepen_config
from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.headers import TensorRange
from solar_repro.checkpoint.layer_map import LayerMap, dus, interleave
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


def test_kinds_by_index_may_stay_where_no_copy_changes_its_kind() -> None:
    assert deepen(dus(8, 2), sliding_window_pattern=2)["n_layer"] == 12
    assert deepen(dus(8, 2), model_type="gemma2")["n_layer"] == 12
    assert deepen(interleave(4), max_window_layers=2, use_sliding_window=False)["n_layer"] == 8
    assert deepen(interleave(4), sliding_window_pattern=2, layer_types=["a", "b", "a", "b"])[
        "layer_types"
    ] == [*"aabbaabb"]


@pytest.mark.parametrize(
    "config",
    [
        {"sliding_window_pattern": 2},
        {"model_type": "gemma2"},
        {"max_window_layers": 2, "use_sliding_window": True},
        {"first_k_dense_replace": 1},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_kinds_by_index_are_refused_where_a_copy_would_change(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"config\.json: .* another kind"):
        deepen(interleave(4), **config)
