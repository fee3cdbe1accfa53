"""What the gate lets through, and that it catches a damaged model."""

import json
import shutil

import pytest

from benchmarks.regression import moved

BEFORE = {
    "variants": {"solar": {"H6": 50.0, "H6_stderr": 1.0, "held_out_loss": 2.0}},
    "digests": {
        "base": {"sha256": "b", "inputs": [], "exact": False},
        "upscaled": {"sha256": "u", "inputs": ["base"], "exact": True},
    },
    "seconds": {"sft": 30.0, "dpo": 60.0, "merge": 1.0},
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


def test_the_spread_over_seeds_is_allowed_for():
    wide = json.loads(json.dumps(BEFORE))
    wide["variants"]["solar"]["H6_deviation"] = 5.0
    assert not list(moved(wide, after(H6=41.0)))


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


def test_a_damaged_model_fails_and_an_unchanged_one_passes_twice(finished, tmp_path):
    """Noise on one layer of SOLAR's continued model, put where its finished result lies, scored anew."""
    from solar_repro.checkpoint.manifest import write_manifest
    from tests.runs import copy_of

    place = copy_of(finished, tmp_path)
    gate = ("--baseline", str(tmp_path / "baseline.json"))
    done = place.entry_point("regression", "--update", "true", *gate)
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        done = place.entry_point("regression", *gate)
        assert (done.returncode, done.stdout) == (0, "0 regressions in 21 variants\n"), done.stderr
    weights = place.folder("solar") / "model.safetensors"
    add_noise(weights, "model.layers.2.")
    (weights.parent / "manifest.json").unlink()
    write_manifest(weights.parent)
    forget(place, "solar.evaluate")
    done = place.entry_point("evaluate", "--variant", "solar")
    assert done.returncode == 0, done.stderr
    done = place.entry_point("regression", *gate)
    assert done.returncode == 1, done.stdout
    assert "WORSE  solar held_out_loss" in done.stdout


def add_noise(file, layer):
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(0)
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith(layer):
            tensors[name] = tensor + 0.5 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, file, metadata={"format": "pt"})


def forget(place, label):
    """Remove a result, and its run, so that it is made again."""
    shutil.rmtree(place.folder(label))
    for run in place.runs():
        if run.info.run_name == label:
            place.client().delete_run(run.info.run_id)
