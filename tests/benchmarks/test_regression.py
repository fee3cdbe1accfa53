"""What the gate lets through, and that it catches a damaged model."""

import json
from pathlib import Path

import pytest

from benchmarks.regression import measure, moved, read_baseline, update
from solar_repro.device import machine
from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from solar_repro.running.runner import Runner
from solar_repro.scales.load import load_scale
from solar_repro.store.manifest import write_manifest
from solar_repro.tracking.artifacts import lies_here
from tests.runs import forget

BEFORE = {
    "variants": {"solar": {"H6": 50.0, "H6_stderr": 1.0, "held_out_loss": 2.0}},
    "digests": {
        "base": {"sha256": "b", "inputs": [], "exact": False},
        "upscaled": {"sha256": "u", "inputs": ["base"], "exact": True},
    },
    "seconds": {"sft": 30.0, "dpo": 60.0, "merge": 1.0},
    "machine": {"cpu": "one", "precision": "bfloat16"},
}


def after(digests=None, seconds=None, **changes):
    figures = {**BEFORE["variants"]["solar"], **changes}
    known = {
        name: {**found, "sha256": (digests or {}).get(name, found["sha256"])}
        for name, found in BEFORE["digests"].items()
    }
    return {
        "variants": {"solar": figures},
        "digests": known,
        "seconds": {**BEFORE["seconds"], **(seconds or {})},
        "machine": BEFORE["machine"],
    }


def test_an_unchanged_run_passes():
    assert not list(moved(BEFORE, after()))


def test_a_better_run_passes_and_is_told():
    found = list(moved(BEFORE, after(H6=60.0, held_out_loss=1.0)))
    assert [line.worse for line in found] == [False, False]


def test_a_score_may_fall_by_two_standard_errors_of_the_difference():
    assert not list(moved(BEFORE, after(H6=50.0 - 2.8)))
    (line,) = moved(BEFORE, after(H6=50.0 - 2.9))
    assert line.text == "solar H6: 50.00 → 47.10, beyond 2 × 1.41"
    assert line.worse


@pytest.mark.parametrize("named", ["/" + "x" * 300, "/proc/1/root/nowhere"])
def test_a_folder_that_cannot_be_looked_into_is_not_here(named):
    assert not lies_here(Path(named))


def test_scores_of_one_item_have_no_standard_error():
    alone = json.loads(json.dumps(BEFORE))
    alone["variants"]["solar"]["H6_stderr"] = None
    assert not list(moved(alone, after(H6_stderr=None)))
    (line,) = moved(alone, after(H6=49.0, H6_stderr=None))
    assert line.worse


def test_the_spread_over_seeds_is_allowed_for():
    wide = json.loads(json.dumps(BEFORE))
    wide["variants"]["solar"]["H6_deviation"] = 5.0
    assert not list(moved(wide, after(H6=41.0)))


def test_a_seed_is_compared_with_itself():
    several = json.loads(json.dumps(BEFORE))
    several["variants"]["solar"]["by_seed"] = {
        "42": {**BEFORE["variants"]["solar"], "held_out_loss": 2.4},
        "43": {**BEFORE["variants"]["solar"], "held_out_loss": 1.6},
    }
    now = after(held_out_loss=2.4)
    now["variants"]["solar"]["by_seed"] = {"42": dict(now["variants"]["solar"])}
    assert not list(moved(several, now))
    now["variants"]["solar"]["by_seed"]["42"]["held_out_loss"] = 2.5
    (line,) = moved(several, now)
    assert line.text == "solar held_out_loss: 2.4000 → 2.5000, beyond 2%"


def test_a_higher_loss_is_a_regression():
    (line,) = moved(BEFORE, after(held_out_loss=2.05))
    assert line.text == "solar held_out_loss: 2.0000 → 2.0500, beyond 2%"
    assert line.worse


def test_bytes_count_where_inputs_are_the_same():
    (line,) = moved(BEFORE, after(digests={"upscaled": "other"}))
    assert line.text == "upscaled: other bytes from the same inputs"
    assert not list(moved(BEFORE, after(digests={"base": "other", "upscaled": "other"})))


def test_a_stage_that_takes_twice_its_share_of_the_time_is_a_regression():
    assert not list(moved(BEFORE, after(seconds={"sft": 60.0, "merge": 3.0})))
    (line,) = moved(BEFORE, after(seconds={"sft": 300.0}))
    assert line.text == "sft: 33% → 83% of the whole time"


def test_times_of_another_machine_or_precision_are_not_compared():
    slow = after(seconds={"sft": 300.0}, H6=40.0)
    slow["machine"] = {"cpu": "one", "precision": "float32"}
    assert [line.text[:9] for line in moved(BEFORE, slow)] == ["solar H6:"]
    assert [line.text[:9] for line in moved({**BEFORE, "machine": None}, slow)] == ["solar H6:"]


def test_the_baseline_names_the_machine_that_made_it(place, tracker, tmp_path):
    update([Plan(load_scale("check"))], tracker, tmp_path / "baseline.json")
    assert read_baseline(tmp_path / "baseline.json", "check")["machine"] == machine()
    assert machine()["precision"] in ("float32", "bfloat16")


def test_a_damaged_model_fails_and_an_unchanged_one_passes_twice(place, tracker, tmp_path, here):
    """Noise on one layer of the continued model, put where its finished result lies, and scored anew."""
    plan = Plan(load_scale("check"))
    file = tmp_path / "baseline.json"
    update([plan], tracker, file)
    for _ in range(2):
        assert not list(moved(read_baseline(file, "check"), measure([plan], tracker)))
    weights = place.folder("solar") / "model.safetensors"
    add_noise(weights, "model.layers.2.")
    (weights.parent / "manifest.json").unlink()
    write_manifest(weights.parent)
    forget(place, "solar.evaluate")
    Runner(place.store, tracker).get(plan.evaluation("solar"))
    done = here(place, "regression", "--scale", "check", "--baseline", str(file))
    assert done.returncode == 1, done.stderr
    assert "WORSE  solar held_out_loss" in done.stdout


def test_a_missing_baseline_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no baseline check\.json; make it: mlflow run"):
        read_baseline(tmp_path / "check.json", "check")


def add_noise(file, layer):
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(0)
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith(layer):
            tensors[name] = tensor + 0.5 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, file, metadata={"format": "pt"})
