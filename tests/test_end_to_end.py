"""The whole paper at scale `check`, through `mlflow run`, as a user types it."""

import json
import math
import re

import pytest

from benchmarks.tables import SCORE_COLUMNS
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS
from tests.runs import copy_of, workplace


def model_run(place, name):
    (run,) = place.runs(
        f"tags.`solar.variant` = '{name}' and tags.`solar.stage` = '{variants.variant(name).stage}'"
    )
    return run


@pytest.mark.parametrize("name", variants.PAPER)
def test_every_variant_has_parameters_checkpoint_and_scores(finished, name):
    run = model_run(finished, name)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == name
    assert run.data.params["scale"] == "check"
    for column in SCORE_COLUMNS:
        assert 0 <= run.data.metrics[column] <= 100
        assert run.data.metrics[f"{column}_stderr"] >= 0
    mean = sum(run.data.metrics[column] for column in SCORE_COLUMNS[1:]) / 6
    assert run.data.metrics["H6"] == pytest.approx(mean)
    model = finished.client().get_logged_model(run.data.tags["solar.model_id"])
    assert model.status == "READY"
    assert {metric.key for metric in model.metrics} >= set(SCORE_COLUMNS)
    assert {m.dataset_name for m in model.metrics if m.key == "ARC"} == {"allenai/ai2_arc"}
    names = {found.path for found in finished.client().list_logged_model_artifacts(model.model_id)}
    assert {"config.json", "manifest.json", "model.safetensors", "tokenizer.json"} <= names


def test_runs_are_nested_under_the_one_that_mlflow_run_opened(finished):
    (main,) = [run for run in finished.runs() if run.info.run_name == "main check"]
    assert main.info.status == "FINISHED"
    children = [run for run in finished.runs() if run is not main and run.info.run_name != "main check"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {main.info.run_id}
    assert {run.info.experiment_id for run in children} == {main.info.experiment_id}
    reports = finished.client().list_artifacts(main.info.run_id, "report")
    assert {"report/compare.html", "report/compare.md"} <= {found.path for found in reports}


def test_parents_data_and_versions_are_recorded(finished):
    run = model_run(finished, "dpo_v2")
    parents = json.loads(run.data.tags["solar.parents"])
    assert parents["model"] == model_run(finished, "sft_v3").info.run_id
    assert run.data.tags["solar.version.trl"]
    assert run.data.tags["mlflow.source.git.commit"]
    inputs = finished.client().get_run(run.info.run_id).inputs
    assert [found.model_id for found in inputs.model_inputs] == [
        model_run(finished, "sft_v3").data.tags["solar.model_id"]
    ]
    assert [found.dataset.name for found in inputs.dataset_inputs] == [DATASETS["ultrafeedback"].hub_id]
    provenance = json.loads((finished.folder("dpo_v2") / "solar" / "provenance.json").read_text())
    assert provenance["key"] == run.data.tags["solar.key"]


def test_training_from_scratch_starts_at_the_vocabularys_logarithm(finished):
    """… and depth up-scaling does not: the control of Sec. 2 takes SOLAR's shape, not its weights."""
    client, losses = finished.client(), {}
    for name in ("solar", "scratch_continued"):
        run_id = model_run(finished, name).info.run_id
        history = client.get_metric_history(run_id, "recovery/held_out_loss")
        losses[name] = min(history, key=lambda metric: metric.step).value
    assert losses["scratch_continued"] == pytest.approx(math.log(512), abs=0.15)
    assert losses["solar"] < losses["scratch_continued"] - 1


def test_report_shows_every_table_and_our_scores(finished):
    page = (finished.store / "report" / "check" / "compare.html").read_text(encoding="utf-8")
    for table in range(1, 10):
        assert re.search(rf"<h2[^>]*>Table {table}: ", page)
    for name in variants.PAPER:
        if any(table in variants.PAPER[name].rows for table in range(3, 8)):
            assert f"<b>{model_run(finished, name).data.metrics['H6']:.2f}</b>" in page


def test_a_second_run_reuses_everything(finished, here):
    before = {run.info.run_id for run in finished.runs()}
    done = here(finished, "main", "--scale", "check")
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^\[ *\d+/\d+\] \S+ +(\w+)$", done.stderr, re.MULTILINE)
    assert len(steps) >= 40
    assert set(steps) == {"cached"}
    assert len({run.info.run_id for run in finished.runs()} - before) == 1


def test_a_stage_alone_makes_itself_with_another_setting(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    before = {run.info.run_id for run in place.runs()}
    done = here(place, "dpo", "--scale", "check", "--variant", "dpo_v1", "--dpo.beta", "0.2")
    assert done.returncode == 0, done.stderr
    (run,) = [run for run in place.runs() if run.info.run_id not in before]
    assert run.info.run_name == "dpo_v1"
    assert run.data.params["dpo.beta"] == "0.2"


@pytest.mark.slow
def test_dpo_v2_alone_makes_its_lineage_the_same_bytes_and_nothing_else(finished, tmp_path):
    place = workplace(tmp_path)
    done = place.entry_point("dpo", "--scale", "check", "--variant", "dpo_v2")
    assert done.returncode == 0, done.stderr[-3000:]
    made = sorted(path.name.rpartition("-")[0] for path in place.store.iterdir())
    assert made == [
        "base",
        "corpus.packed",
        "dpo_v2",
        "dpo_v2.reference",
        "microworld",
        "sft_v3",
        "solar",
        "synth_math",
        "upscaled",
    ]
    assert sorted(run.info.run_name for run in place.runs()) == made
    for name in ("base", "upscaled", "solar", "sft_v3", "dpo_v2"):
        first, second = finished.folder(name), place.folder(name)
        assert first.name == second.name
        weights = "model.safetensors"
        assert (first / weights).read_bytes() == (second / weights).read_bytes(), name
