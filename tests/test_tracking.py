"""What is asked of a tracking server: all of it, however much it holds."""

import json

import pytest
from mlflow.entities import Dataset
from mlflow.exceptions import MlflowException

from solar_repro.errors import UserError
from solar_repro.step import Step
from solar_repro.tracking import Tracker
from tests.fake_mlflow import FakeClient

KEY, ALIKE = "0123abcd" + 56 * "0", "0123abcd" + 56 * "1"


@pytest.fixture
def client():
    """More experiments than MLflow gives at once, the last of which has a finished run."""
    client = FakeClient([f"team-{number}" for number in range(2001)])
    client.create_run("2000", {"solar.key": KEY, "solar.output": "/store/a"}, status="FINISHED", end_time=5)
    return client


@pytest.fixture
def tracker(client, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.connect", lambda: client)
    return Tracker("test", "check", client.create_run("0").info.run_id)


def test_a_run_is_found_in_whichever_experiment_it_is(tracker):
    assert tracker.find(KEY).run_id == "run0"
    assert tracker.knows(KEY[:8])
    assert not tracker.knows("89abcdef")


def test_the_newest_run_of_all_pages_counts(client, tracker):
    client.create_run("3", {"solar.key": KEY, "solar.output": "/store/a"}, status="FINISHED", end_time=4)
    newest = client.create_run("4", {"solar.key": KEY}, status="FINISHED", end_time=6)
    assert tracker.find(KEY).run_id == newest.info.run_id


def test_keys_that_look_alike_are_two(tracker):
    assert tracker.find(ALIKE) is None


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_result_whose_run_could_not_be_closed_is_known(client, tracker, status):
    client.create_run("7", {"solar.key": ALIKE.replace("abcd", "dcba")}, status=status)
    assert tracker.knows("0123dcba")


def test_no_page_of_unfinished_runs_is_left_out(client, tracker):
    for _ in range(1500):
        client.create_run("9", {"solar.key": ALIKE, "solar.host": "elsewhere"})
    assert tracker.unfinished(ALIKE, "/store/a") == ([], ["elsewhere"] * 1500)


def test_an_experiment_that_is_not_there_is_one_line_with_the_nearest(client, tracker):
    with pytest.raises(UserError, match=r"'taem-17': not on .*, which has 2001; nearest: team-17, .*"):
        tracker.search(experiment="taem-17")
    client.experiments["17"].lifecycle_stage = "deleted"
    with pytest.raises(UserError, match="'team-17': it is deleted"):
        tracker.search(experiment="team-17")


def test_of_two_runs_that_name_a_data_set_first_both_are_logged(client, tracker):
    taken, step = [], Step("evaluate", "final", {}, data={"org/set": "sha256:1"})

    def log_inputs(run_id, datasets, models):
        taken.append(datasets)
        if len(taken) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")

    client.log_inputs = log_inputs
    tracker._log_inputs("run1", step, {})
    assert len(taken) == 2
    assert taken[1][0].dataset == Dataset("org/set", "1", "hub", json.dumps({"digest": "sha256:1"}))
    client.log_inputs = lambda *given, **named: (_ for _ in ()).throw(MlflowException("no"))
    with pytest.raises(MlflowException):
        tracker._log_inputs("run1", step, {})
