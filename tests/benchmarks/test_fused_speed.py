"""The benchmark of fused layers: who takes turns, and what is reckoned from it."""

import pytest

from benchmarks.performance import fused
from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.layers.fused_training import FusedLayer
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.scales.load import load_scale


def test_contenders_take_turns_and_the_ratio_is_of_rounds():
    turns = []
    found = fused.beside({name: lambda name=name: turns.append(name) or 5 for name in ("plain", "fused")}, 2)
    assert turns == ["plain", "fused"] * 3
    assert [len(found["rounds"][name]) for name in ("plain", "fused")] == [2, 2]
    assert found["ratio"] > 0


@pytest.mark.slow
def test_each_contender_is_what_its_name_says(tmp_path, monkeypatch):
    calls = []
    apply = FusedLayer.apply
    monkeypatch.setattr(FusedLayer, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    write_upscale(plan_upscale(FOLDER, dus(8, 2), 5_000_000_000), tmp_path)
    scale = load_scale("smoke").in_precision("float32")
    contenders = fused.training(tmp_path, scale)
    tokens = contenders["plain"]()
    assert not calls
    assert contenders["fused"]() == tokens == fused.STEPS * 8 * 256
    assert len(calls) == fused.STEPS * 12
    assert fused.scoring(tmp_path, scale)["fused"]() == fused.STEPS * 8 * 512
