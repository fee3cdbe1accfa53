"""What is asked of a tracking server: all of it, however much it holds."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from mlflow.entities import Dataset
from mlflow.exceptions import MlflowException

from solar_repro.errors import UserError
from solar_repro.store.lock import locked
from solar_repro.store.owner import folder_identity
from solar_repro.tracking.reader import FinishedRun
from solar_repro.tracking.run_inputs import log_inputs
from solar_repro.tracking.tracker import Tracker
from tests.fake_mlflow import FakeClient
from tests.steps import bare_step

KEY, ALIKE = "0123abcd" + 56 * "0", "0123abcd" + 56 * "1"


@pytest.fixture
def client():
    """More experiments than MLflow gives at once, the last of which has a finished run."""
    client = FakeClient([f"team-{number}" for number in range(2001)])
    client.create_run("2000", {"solar.key": KEY, "solar.output": "/store/a"}, status="FINISHED", end_time=5)
    return client


@pytest.fixture
def tracker(client, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.tracker.connect", lambda: client)
    return Tracker("test", "check", client.create_run("0").info.run_id)


def test_a_run_is_found_in_whichever_experiment_it_is(tracker):
    assert [found.run_id for found in tracker.candidates(KEY)] == ["run0"]
    assert tracker.knows(KEY[:8])
    assert not tracker.knows("89abcdef")


def test_the_newest_run_of_all_pages_counts(client, tracker):
    client.create_run("3", {"solar.key": KEY, "solar.output": "/store/a"}, status="FINISHED", end_time=4)
    newest = client.create_run("4", {"solar.key": KEY}, status="FINISHED", end_time=6)
    found = tracker.candidates(KEY)
    assert (len(found), found[0].run_id) == (3, newest.info.run_id)


def test_keys_that_look_alike_are_two(tracker):
    assert tracker.candidates(ALIKE) == []


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_result_whose_run_could_not_be_closed_is_known(client, tracker, status):
    client.create_run("7", {"solar.key": ALIKE.replace("abcd", "dcba")}, status=status)
    assert tracker.knows("0123dcba")


def test_no_page_of_unfinished_runs_is_left_out(client, tracker):
    for _ in range(1500):
        client.create_run("9", {"solar.key": ALIKE, "solar.host": "elsewhere"})
    assert tracker.unfinished(ALIKE, Path("/store/a")) == ([], ["elsewhere"] * 1500)


@pytest.mark.parametrize("there", ["another folder", "another boot", "of old"])
def test_a_machine_of_the_same_name_does_not_take_this_ones_run_for_its_own(
    client, tracker, tmp_path, monkeypatch, there
):
    output = tmp_path / "store" / "base-01234567"
    output.parent.mkdir()
    tags = {"solar.key": ALIKE, "solar.output": str(output), "solar.host": socket.gethostname()}
    if there != "of old":
        tags["solar.store"] = folder_identity(output.parent)
    run_id = client.create_run("9", tags).info.run_id
    assert tracker.unfinished(ALIKE, output)[0] == ([run_id] if there != "of old" else [])
    if there == "another folder":
        output.parent.rename(tmp_path / "aside")
        output.parent.mkdir()
    else:
        (tmp_path / "boot").write_text("1")
        monkeypatch.setattr("solar_repro.store.owner._BOOT", tmp_path / "boot")
    assert tracker.unfinished(ALIKE, output) == ([], [socket.gethostname()])
    client.set_terminated = lambda run_id, status: client.update_run(run_id, status)
    tracker.close_dead(ALIKE, output)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_the_run_of_a_process_that_holds_the_lock_is_not_closed_as_dead(client, tracker, tmp_path):
    output = tmp_path / "base-01234567"
    tags = {"solar.key": ALIKE, "solar.output": str(output), "solar.store": folder_identity(tmp_path)}
    run = client.create_run("9", tags)
    client.set_terminated = lambda run_id, status: client.update_run(run_id, status)
    with locked(output, None):
        tracker.close_dead(ALIKE, output)
        assert run.info.status == "RUNNING"
    tracker.close_dead(ALIKE, output)
    assert run.info.status == "KILLED"


def test_a_run_that_another_was_faster_than_does_not_pass_for_the_one_that_made_it(client, tracker):
    own = client.create_run("1", {"solar.key": KEY})
    client.set_terminated = lambda run_id, status: client.update_run(run_id, status)
    tracker.close_as_reused(own.info.run_id, tracker.candidates(KEY)[0])
    assert (own.info.status, own.data.tags["solar.reused_run"]) == ("KILLED", "run0")
    client.update_run(own.info.run_id, "FINISHED")  # the invocation's own, at its end
    assert [found.run_id for found in tracker.candidates(KEY)] == ["run0"]


def test_a_deleted_run_is_had_and_one_of_another_server_is_not(client, tracker):
    run = client.create_run("1")
    run.info.lifecycle_stage = "deleted"
    assert tracker.has(run.info.run_id)
    assert not tracker.has("nowhere")


def test_an_experiment_that_is_not_there_is_one_line_with_the_nearest(client, tracker):
    with pytest.raises(
        UserError, match=r"'taem-17': not on .*; it has 2001 experiments, the nearest names are: team-17, .*"
    ):
        tracker.search(experiment="taem-17")
    client.experiments["17"].lifecycle_stage = "deleted"
    with pytest.raises(UserError, match="'team-17': it is deleted"):
        tracker.search(experiment="team-17")


def test_of_two_runs_that_name_a_data_set_first_both_are_logged(client, tracker):
    taken, step = [], bare_step("evaluate", "final", data={"org/set": "sha256:1"})

    def refuse_the_first(run_id, datasets, models):
        taken.append(datasets)
        if len(taken) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")

    client.log_inputs = refuse_the_first
    log_inputs(client, "run1", step, {})
    assert len(taken) == 2
    assert taken[1][0].dataset == Dataset("org/set", "1", "hub", json.dumps({"digest": "sha256:1"}))
    client.log_inputs = lambda *given, **named: (_ for _ in ()).throw(MlflowException("no"))
    with pytest.raises(MlflowException):
        log_inputs(client, "run1", step, {})


def test_a_run_that_was_cut_off_goes_on_unless_it_is_deleted_or_unknown(client, tracker):
    run = client.create_run("1", {"solar.error": "lost"}, status="FAILED")
    assert tracker.reopen(run.info.run_id)
    assert (run.info.status, run.data.tags) == ("RUNNING", {})
    run.info.lifecycle_stage, run.info.status = "deleted", "FAILED"
    assert not tracker.reopen(run.info.run_id)
    assert run.info.status == "FAILED"
    assert not tracker.reopen("nowhere")


@pytest.mark.parametrize("name", ["ties.v2", "SOLAR-10.7B-v1.0", "a:b", "50%", "o'clock", 'the "best"'])
def test_mlflow_takes_a_logged_model_of_any_name(client, tracker, tmp_path, name):
    from mlflow.utils.validation import _validate_logged_model_name

    made = []

    def create_logged_model(experiment, name, tags, **others):
        _validate_logged_model_name(name)
        made.append((name, tags))
        return SimpleNamespace(model_id=f"m-{len(made)}", artifact_location="/nowhere")

    client.create_logged_model = create_logged_model
    for method in ("log_model_artifacts", "finalize_logged_model", "log_outputs"):
        setattr(client, method, lambda *given, **named: None)
    step, alike = (bare_step("merge", variant) for variant in (name, "a-b"))
    found = {tracker.log_model("run0", one, tmp_path, upload=True) for one in (step, alike)}
    assert len(found) == 2  # names that look alike are two models
    assert [tags["solar.variant"] for _, tags in made] == [name, "a-b"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError("no such artifact"), None),
        (MlflowException("no such artifact"), None),
        (ModuleNotFoundError("No module named 'boto3'"), UserError),
        (requests.ConnectionError("refused"), requests.ConnectionError),
    ],
)
def test_what_is_only_out_of_reach_is_not_made_again(tracker, tmp_path, monkeypatch, error, raised):
    def get_artifact_repository(uri):
        raise error

    where = "solar_repro.tracking.artifacts.get_artifact_repository"
    monkeypatch.setattr(where, get_artifact_repository)
    found = FinishedRun("run0", "0", None, tmp_path)
    if raised is None:
        assert not tracker.download(found, tmp_path, "sft")
        assert tracker.offered(found, KEY) is None
        return
    with pytest.raises(raised):
        tracker.download(found, tmp_path, "sft")
    with pytest.raises(raised):
        tracker.offered(found, KEY)


@pytest.fixture
def models(client):
    """Logged models of the client's runs, by id."""
    found = {}

    def create_logged_model(experiment, source_run_id, **others):
        made = SimpleNamespace(model_id=f"m-{len(found)}", artifact_location="/nowhere", status="PENDING")
        made.run = source_run_id
        return found.setdefault(made.model_id, made)

    client.create_logged_model = create_logged_model
    client.search_logged_models = lambda experiments, query: [
        model for model in found.values() if query == f"source_run_id = '{model.run}'"
    ]
    client.finalize_logged_model = lambda model_id, status: setattr(found[model_id], "status", status)
    client.log_outputs = lambda *given: None
    client.set_terminated = lambda run_id, status: setattr(client.runs[run_id].info, "status", status)
    return found


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("refused")])
def test_a_model_whose_upload_is_cut_off_does_not_stay_pending(client, tracker, models, tmp_path, error):
    def log_model_artifacts(model_id, folder):
        raise error

    client.log_model_artifacts = log_model_artifacts
    with pytest.raises(type(error)):
        tracker.log_model("run0", bare_step("merge", "merge_v1"), tmp_path, upload=True)
    assert [model.status for model in models.values()] == ["FAILED"]


def test_the_pending_models_of_a_killed_process_are_closed(client, tracker, models, tmp_path):
    client.create_logged_model("0", source_run_id="run0")
    client.create_logged_model("0", source_run_id="run1")
    tracker.close_killed("run1")
    assert [model.status for model in models.values()] == ["PENDING", "FAILED"]
    assert client.get_run("run1").info.status == "KILLED"
    client.log_model_artifacts = lambda *given: None
    tracker.log_model("run0", bare_step("merge", "merge_v1"), tmp_path, upload=True)  # the work has gone on
    assert [model.status for model in models.values()] == ["FAILED", "FAILED", "READY"]


def test_a_nested_run_has_parent_user_source_and_result(client, tmp_path, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.tracker.connect", lambda: client)
    own = client.create_run("0", {"mlflow.user": "ada"}).info.run_id
    tracker = Tracker("main check", "check", own)
    step = bare_step("sft", "sft_v1")
    opened = tracker.open_child(step, tmp_path / step.folder)
    tags = client.get_run(opened).data.tags
    assert tags["solar.key"] == step.key
    assert tags["solar.output"] == str(tmp_path / step.folder)
    assert tracker.unfinished(step.key, tmp_path / step.folder)[0] == [opened]  # were its process dead
    assert tags["mlflow.parentRunId"] == own
    assert tags["mlflow.user"] == "ada"
    assert tags["mlflow.source.name"] == "solar_repro/stages/sft.py"
    assert tags["mlflow.source.type"] == "LOCAL"


def test_a_run_that_was_answered_with_another_links_to_it(client, tracker):
    own = client.create_run("1")
    tracker.reuse(own.info.run_id, FinishedRun("run0", "2000", None, Path("/store/a")))
    assert "[the run that made it](#/experiments/2000/runs/run0?" in own.data.tags["mlflow.note.content"]
