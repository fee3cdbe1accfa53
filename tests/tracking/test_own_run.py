"""The run that a command writes to: the one that was opened for it, and never another command's."""

import pytest

from solar_repro.errors import UserError
from solar_repro.tracking.own_run import own_run
from tests.fake_mlflow import FakeClient


@pytest.fixture
def client(monkeypatch):
    for name in ("RUN_ID", "EXPERIMENT_NAME", "EXPERIMENT_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    return FakeClient(["Default", "team", "gone"])


def test_the_run_that_was_opened_for_a_command_is_taken_once(client, monkeypatch, capsys):
    opened = client.create_run("1").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert own_run(client, "base", "check") == (opened, "1")
    # A pipeline hands its run on to all that it starts: the second finds it taken, closed or not.
    second, experiment = own_run(client, "upscaled", "check")
    assert (second != opened, experiment) == (True, "1")
    assert (
        f"MLFLOW_RUN_ID={opened}: that run is closed or belongs to another command" in capsys.readouterr().err
    )
    assert client.runs[opened].data.tags["mlflow.runName"] == "base"


@pytest.mark.parametrize(
    "changes",
    [{"status": "FINISHED"}, {"status": "FAILED"}, {"lifecycle_stage": "deleted"}, {"tags": "solar.key"}],
)
def test_a_run_that_is_left_over_is_left_alone(client, monkeypatch, changes):
    run = client.create_run("1")
    if "tags" in changes:
        run.data.tags["solar.key"] = "abc"
    else:
        vars(run.info).update(changes)
    before = dict(run.data.tags)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert own_run(client, "upscaled", "check")[0] != run.info.run_id
    assert run.data.tags == before


def test_the_experiment_is_the_one_that_is_named(client, monkeypatch):
    assert client.experiments[own_run(client, "a", "check")[1]].name == "solar-check"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1")
    assert own_run(client, "a", "check")[1] == "1"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    assert client.experiments[own_run(client, "a", "check")[1]].name == "new"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    assert client.experiments[own_run(client, "a", "check")[1]].name == "solar-check"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RUN_ID": "nowhere"},
            r"MLFLOW_RUN_ID=nowhere: sqlite:///mlflow.db has no such run; unset it, or .*",
        ),
        ({"RUN_ID": "nowhere"}, r".* with its whole path \(sqlite:////.+/mlflow.db is taken\)"),
        ({"EXPERIMENT_ID": "99"}, r"MLFLOW_EXPERIMENT_ID=99: .* has no such experiment; unset it or .*"),
        ({"EXPERIMENT_ID": "2"}, r"MLFLOW_EXPERIMENT_ID=2: experiment 'gone' is deleted; restore it .*"),
        ({"EXPERIMENT_NAME": "gone"}, r"MLFLOW_EXPERIMENT_NAME=gone: experiment 'gone' is deleted; .*"),
        (
            {"EXPERIMENT_NAME": "team", "EXPERIMENT_ID": "0"},
            r"MLFLOW_EXPERIMENT_NAME=team and MLFLOW_EXPERIMENT_ID=0 are different experiments; unset .*",
        ),
    ],
)
def test_what_is_named_and_cannot_be_used_is_one_line(client, monkeypatch, variables, message):
    client.experiments["2"].lifecycle_stage = "deleted"
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    with pytest.raises(UserError, match=rf"\A{message}\Z"):
        own_run(client, "a", "check")
    assert not client.runs


def test_the_default_experiment_that_is_deleted(client):
    client.experiments[client.create_experiment("solar-check")].lifecycle_stage = "deleted"
    with pytest.raises(UserError, match=r"experiment solar-check: .* set MLFLOW_EXPERIMENT_NAME to another"):
        own_run(client, "a", "check")


def test_a_run_that_was_not_opened_for_the_command_has_user_and_source_too(client, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("sys.argv", ["entry_points/main.py"])
    tags = client.runs[own_run(client, "main check", "check")[0]].data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ada", "entry_points/main.py")


def test_a_user_without_a_name_is_no_error(client, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert client.runs[own_run(client, "main check", "check")[0]].data.tags == {"solar.command": "main check"}
