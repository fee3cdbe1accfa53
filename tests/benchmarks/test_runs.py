"""Which runs a comparison is made of, where several would do."""

import gc
import json
from pathlib import Path

import pytest
from matplotlib.container import ErrorbarContainer
from mlflow.exceptions import MlflowException

from benchmarks import figures
from benchmarks.find_runs import of_server
from benchmarks.runs import EVALUATE, MODEL
from solar_repro.errors import UserError
from solar_repro.tracking.tracker import Tracker
from tests.benchmarks.fakes import fake_runs
from tests.fake_mlflow import FakeClient


def test_fetched_results_go_with_the_runs():
    runs = fake_runs({})
    folder = Path(runs.scratch.name)
    assert folder.is_dir()
    del runs
    gc.collect()
    assert not folder.exists()


def test_the_picture_of_h6_has_the_interval_of_the_tables(monkeypatch):
    monkeypatch.setattr(figures, "interval", lambda runs, name, column: (40.0, 70.0))
    (axes,) = figures.h6(fake_runs({"base": 50.0})).axes
    (errors,) = (found for found in axes.containers if isinstance(found, ErrorbarContainer))
    (segment,) = errors.lines[2][0].get_segments()
    assert segment[:, 0].tolist() == [40.0, 70.0]


@pytest.fixture
def client():
    return FakeClient(["A", "B"])


@pytest.fixture
def tracker(client, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.tracker.connect", lambda: client)
    return Tracker("compare", "check", client.create_run("0").info.run_id)


def made(client, experiment, time, stage="sft", variant="sft_v1", parents=("model",), **tags):
    """Id of a finished run of a step."""
    tags = {
        "solar.scale": "check",
        "solar.stage": stage,
        "solar.variant": variant,
        "solar.seed": "42",
        "solar.parents": json.dumps(dict.fromkeys(parents, "run")),
        **tags,
    }
    return client.create_run(experiment, tags, status="FINISHED", end_time=time).info.run_id


def invocation(client, monkeypatch, experiment, time, steps):
    """A finished run of `main` that was answered with these runs."""
    run = client.create_run(experiment, {"solar.scale": "check"}, status="FINISHED", end_time=time)
    files = client.__dict__.setdefault("files", {})
    files[f"/main{time}"] = {str(number): run_id for number, run_id in enumerate(steps)}
    run.info.artifact_uri = f"/main{time}"
    monkeypatch.setattr("benchmarks.find_runs.read_artifact", lambda uri, name: files[uri])


def test_an_experiment_has_what_its_commands_reused_of_another(client, tracker, monkeypatch):
    model = made(client, "0", 1)
    scores = made(client, "0", 2, "evaluate")
    invocation(client, monkeypatch, "1", 9, [model, scores])
    runs = of_server("check", tracker, experiment="B")
    assert runs.first(MODEL, "sft_v1").info.run_id == model
    assert runs.first(EVALUATE, "sft_v1").info.run_id == scores


def test_of_what_is_made_and_what_is_reused_the_last_used_counts(client, tracker, monkeypatch):
    old = made(client, "0", 1)
    new = made(client, "1", 5)
    invocation(client, monkeypatch, "1", 4, [old])
    assert of_server("check", tracker, experiment="B").first(MODEL, "sft_v1").info.run_id == new
    invocation(client, monkeypatch, "1", 6, [old])
    assert of_server("check", tracker, experiment="B").first(MODEL, "sft_v1").info.run_id == old


def test_a_command_of_one_step_reuses_too_and_deleted_runs_do_not_count(client, tracker):
    old = made(client, "0", 1)
    gone = made(client, "0", 1, variant="sft_v2")
    client.runs[gone].info.lifecycle_stage = "deleted"
    for found in (old, gone, "removed"):
        tags = {"solar.scale": "check", "solar.reused_run": found}
        client.create_run("1", tags, status="FINISHED", end_time=3)
    runs = of_server("check", tracker, experiment="B")
    assert list(runs.found[MODEL]) == ["sft_v1"]


def test_a_checkpoint_made_elsewhere_is_no_variant_of_the_same_name(client, tracker):
    ours = made(client, "1", 1, "evaluate", "solar")
    made(client, "1", 2, "evaluate", "solar", parents=())
    made(client, "1", 3, "merge", "merge_v1", parents=())
    runs = of_server("check", tracker, experiment="B")
    assert runs.first(EVALUATE, "solar").info.run_id == ours
    assert not runs.found[MODEL]


def test_a_run_that_is_not_there_or_made_no_steps_is_one_line(client, tracker, monkeypatch):
    with pytest.raises(
        UserError, match="run 'nowhere': not on this tracking server, or it made no steps; give"
    ):
        of_server("check", tracker, parent="nowhere")
    with pytest.raises(UserError, match="run 'nowhere': not on this tracking server; the UI lists its runs"):
        of_server("check", tracker, ids=["nowhere"])
    single = made(client, "1", 1)

    with pytest.raises(
        UserError,
        match=rf"run {single}: it made no steps, as its steps.json cannot be read \(.*No such file",
    ):
        of_server("check", tracker, parent=single)


def test_a_lost_connection_is_not_taken_for_a_run_that_is_not_there(client, tracker, monkeypatch):
    def lost(run_id):
        raise MlflowException("API request to http://h failed with exception refused")

    monkeypatch.setattr(client, "get_run", lost)
    with pytest.raises(MlflowException):
        of_server("check", tracker, parent="run0")
