import pytest

from benchmarks import studies
from benchmarks.find_runs import of_plans
from benchmarks.paper.claims import CLAIMS
from solar_repro.paper import variants
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from tests.benchmarks.fakes import fake_runs


def test_depth_sweeps_every_m_that_the_layers_allow():
    assert studies.depth_variants(8, 2) == ("repeat_continued", "solar_m1", "solar", "solar_m3")
    assert studies.depth_variants(5, 1) == ("repeat_continued", "solar", "solar_m2")
    for name in studies.depth_variants(32, 8):
        assert variants.variant(name).stage == "continue_pretrain"


def test_seam_variants_are_continued_on_the_same_tokens():
    assert {variants.variant(name).stage for name in studies.SEAM} == {"continue_pretrain"}


def test_seeds_study_tells_the_spread():
    runs = fake_runs({"sft_v1": [30.0, 33.0, 36.0], "dpo_v1": [40.0, 40.0, 40.0]})
    study = studies.seeds_study(["sft_v1", "dpo_v1"], runs)
    assert study.bars == {"sft_v1": (pytest.approx(33), pytest.approx(3)), "dpo_v1": (40, 0)}
    assert "3 seeds by a standard deviation of at most 3.00 points" in study.verdict
    assert "| sft_v1 | H6 | 33.00 | 3.00 | 0.50 | 3 |" in studies.markdown(study)


def test_default_seeds_study_decides_claims():
    decided = [claim.name for claim in CLAIMS if set(claim.variants) <= set(studies.SEEDS)]
    assert decided == ["C3", "C4", "C5", "C6"]


def test_ways_to_up_scale_are_set_against_the_best(place, tracker, tmp_path):
    names = ["solar", "repeat_continued", "scratch_continued"]
    runs = of_plans([Plan(load_scale("check"))], tracker, [*names, "upscaled", "upscaled_repeat", "base"])
    study = studies.up_scaling_study("seam", names, runs)
    losses = {row["variant"]: row["loss_after"] for row in study.rows}
    assert list(losses) == sorted(names, key=losses.get)
    best, *others, last = losses
    assert last == "scratch_continued"
    for name in [*others, last]:
        assert study.bars[name][0] == pytest.approx(losses[name] - losses[best], abs=1e-6)
    assert "scratch_continued +" in study.verdict
    assert study.verdict.endswith("worse.")
    text = studies.finish(study, "check", tracker, tmp_path / "study", runs)
    assert f"lowest held-out loss: {best}" in text
    logged = {found.path for found in tracker.client.list_artifacts(tracker.run_id, "study")}
    files = ("seam.csv", "seam.md", "seam.png", "seam.svg", "recovery.png", "recovery.svg")
    assert logged == {f"study/{name}" for name in files}
