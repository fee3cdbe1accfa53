"""Results on a tracking server that others can write to: which are taken, and what is taken of them."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from solar_repro.contract import BaseModelSettings
from solar_repro.errors import UserError
from solar_repro.plan.provenance import FILE, maker, result_digest, this_maker, write_provenance
from solar_repro.plan.step import Step
from solar_repro.running.runner import Runner
from solar_repro.scales.load import load_scale
from solar_repro.scales.microworld import BaseTraining
from solar_repro.store.manifest import ManifestError, verify_manifest, write_manifest
from solar_repro.tracking.artifacts import ArtifactMissing, fetch_result, is_file_of_stage, read_artifact
from solar_repro.tracking.tracker import Tracker
from tests.fake_mlflow import FakeClient
from tests.steps import BY_REFERENCE, bare_step

STEP = bare_step("synth_math", "synth_math")


@pytest.fixture
def client(monkeypatch):
    client = FakeClient(["Default", "team", "mine"])
    monkeypatch.setattr("solar_repro.tracking.tracker.connect", lambda: client)
    return client


@pytest.fixture
def tracker(client):
    return Tracker("test", "check", client.create_run("2").info.run_id)


def write_result(folder, content=b"rows", step=STEP, run_id="run", **files):
    (folder / "solar").mkdir(parents=True)
    write_provenance(folder, step, run_id)
    (folder / "rows.parquet").write_bytes(content)
    for name, text in files.items():
        (folder / name).write_text(text)
    write_manifest(folder)
    return folder


def registered(client, tmp_path, experiment, time, content=b"rows", **tags):
    """A finished run of STEP, its result among its artifacts."""
    run = client.create_run(experiment, {"solar.key": STEP.key, **tags}, status="FINISHED", end_time=time)
    run.info.artifact_uri = str(tmp_path / "artifacts" / run.info.run_id)
    run.output = write_result(
        tmp_path / "artifacts" / run.info.run_id / "output", content, run_id=run.info.run_id
    )
    return run


def get(tracker, tmp_path, step=STEP):
    runner = Runner(tmp_path / "store", tracker, BY_REFERENCE)
    found = runner.cached(step, alone=True)
    return found, runner.store / step.folder


def test_a_result_is_fetched_by_its_manifest_alone(client, tracker, tmp_path, capsys):
    run = registered(client, tmp_path, "1", 5, **{"solar.user": "ann", "solar.host": "h\x1b[2J"})
    (run.output / "note.txt").write_text("of another")
    (run.output / "adapter_config.json").write_text("{}")
    found, folder = get(tracker, tmp_path)
    assert found.run_id == run.info.run_id
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rows.parquet", "solar"]
    verify_manifest(folder)
    assert (
        f"downloaded: run {run.info.run_id} (experiment 1, made by ann on h\\x1b[2J)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("sft", "adapter_config.json"),
        ("sft", "modeling_evil.py"),
        ("sft", "pytorch_model.bin"),
        ("sft", "sub/model.safetensors"),
        ("sft", "additional_chat_templates/x/y.jinja"),
        ("sft", "solar/run.py"),
        ("evaluate", "samples/run.py"),
        ("synth_math", "train.arrow"),
        ("packed", "rows.parquet.sh"),
        ("synth_math", "run.sh"),
    ],
)
def test_names_that_no_result_has_are_refused_before_they_are_fetched(tmp_path, stage, name):
    sent = write_result(tmp_path / "artifacts")
    (sent / "rows.parquet").unlink()
    (sent / name).parent.mkdir(parents=True, exist_ok=True)
    (sent / name).write_text("x")
    write_manifest(sent)
    with pytest.raises(ManifestError, match=rf"names '{name}', which no result of stage {stage} has"):
        fetch_result(str(sent), tmp_path / "work", stage)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["manifest.json"]


def test_every_file_that_our_stages_leave_is_known(finished):
    stages = {}
    for folder in finished.store.glob("*-????????"):
        stage = json.loads((folder / FILE).read_text())["stage"]
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        stages[stage] = [
            name for name in names if name != "manifest.json" and not is_file_of_stage(stage, name)
        ]
    assert len(stages) > 6
    assert not any(stages.values()), stages


@pytest.mark.parametrize(
    "manifest",
    [
        "{}",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"files": {}}',
        '{"files": [{}]}',
        '{"files": []}',
        '{"files": [{"name": "../x.json", "bytes": 1, "sha256": ""}]}',
        '{"files": [{"name": "/etc/x.json", "bytes": 1, "sha256": ""}]}',
        '{"files": [{"name": "x.json", "bytes": -1, "sha256": ""}]}',
        '{"files": [{"name": "x.json", "bytes": 1000000000000000000, "sha256": ""}]}',
    ],
)
def test_a_malformed_manifest_is_passed_over_and_the_step_is_made(client, tracker, tmp_path, manifest):
    run = registered(client, tmp_path, "1", 5)
    (run.output / "manifest.json").write_text(manifest)
    found, folder = get(tracker, tmp_path)
    assert found is None
    assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == []


def test_of_another_key_or_changed_files_is_passed_over(client, tracker, tmp_path, capsys):
    run = registered(client, tmp_path, "1", 5)
    (run.output / "rows.parquet").write_bytes(b"evil")
    assert get(tracker, tmp_path)[0] is None
    assert f"passed over: run {run.info.run_id}" in capsys.readouterr().err
    shutil.rmtree(run.output)
    write_result(run.output, step=bare_step("synth_math", "synth_math", seed=1))
    assert get(tracker, tmp_path)[0] is None


def test_a_file_is_not_fetched_through_a_fifo_or_beyond_its_size(tmp_path):
    import os

    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "steps.json")
    with pytest.raises(ArtifactMissing, match="is a FIFO, but must be a file"):
        read_artifact(str(tmp_path / "a"), "steps.json")
    with pytest.raises(ArtifactMissing, match="artifact nothing: cannot be had"):
        read_artifact(str(tmp_path / "a"), "nothing")


def test_a_newer_run_with_other_content_does_not_win_silently(client, tracker, tmp_path):
    honest = registered(client, tmp_path, "1", 5, **{"solar.user": "ann", "solar.host": "one"})
    evil = registered(client, tmp_path, "2", 6, b"evil", **{"solar.user": "eve", "solar.host": "two"})
    with pytest.raises(UserError) as said:
        get(tracker, tmp_path)
    line = str(said.value)
    assert line.startswith("synth_math: 2 runs have different results of it: ")
    assert f"run {evil.info.run_id} (experiment 2, made by eve on two)" in line
    assert f"run {honest.info.run_id} (experiment 1, made by ann on one)" in line
    assert "-P tracking.experiments=NAME" in line
    assert not (tmp_path / "store" / STEP.folder).exists()


def test_the_experiments_that_are_named_alone_are_accepted(client, tmp_path):
    honest = registered(client, tmp_path, "1", 5)
    registered(client, tmp_path, "0", 6, b"evil")
    tracker = Tracker("test", "check", client.create_run("2").info.run_id, accepted=("team", "mine"))
    found, folder = get(tracker, tmp_path)
    assert found.run_id == honest.info.run_id
    assert (folder / "rows.parquet").read_bytes() == b"rows"
    assert tracker.knows(STEP.key[:8])


def test_an_experiment_that_is_not_there_and_an_own_one_that_is_not_named_are_one_line(client):
    own = client.create_run("2").info.run_id
    client.set_terminated = lambda run_id, status: client.update_run(run_id, status)
    with pytest.raises(
        UserError, match=r"experiment 'taem': not on this tracking server; .*the nearest names are: team"
    ):
        Tracker("test", "check", own, accepted=("taem",))
    with pytest.raises(UserError, match=r"tracking.experiments: team, but this command writes to 'mine'"):
        Tracker("test", "check", own, accepted=("team",))
    assert client.get_run(own).info.status == "FAILED"


def test_equal_results_of_two_are_no_quarrel(client, tracker, tmp_path):
    registered(client, tmp_path, "1", 5)
    newer = registered(client, tmp_path, "2", 6)
    assert get(tracker, tmp_path)[0].run_id == newer.info.run_id


def test_a_run_without_its_files_is_no_rival(client, tracker, tmp_path):
    honest = registered(client, tmp_path, "1", 5)
    reference = registered(client, tmp_path, "1", 6, b"other")
    for path in ("rows.parquet", FILE):
        (reference.output / path).unlink()
    assert get(tracker, tmp_path)[0].run_id == honest.info.run_id


def test_what_a_run_has_recorded_must_be_what_is_fetched(client, tracker, tmp_path, capsys):
    registered(client, tmp_path, "1", 5, **{"solar.result": "0" * 64})
    assert get(tracker, tmp_path)[0] is None
    assert "its files are not those that it has recorded" in capsys.readouterr().err


def test_runs_without_number_are_one_line(client, tracker, tmp_path):
    for time in range(101):
        client.create_run("0", {"solar.key": STEP.key}, status="FINISHED", end_time=time)
    with pytest.raises(UserError, match=rf"key {STEP.key[:8]}: .* has over 100 finished runs of it; delete"):
        get(tracker, tmp_path)


def test_a_run_of_another_key_than_was_asked_for_is_not_taken(client, tracker, monkeypatch):
    run = client.create_run("0", {"solar.key": "another"}, status="FINISHED", end_time=1)
    monkeypatch.setattr(tracker, "search", lambda *given, **named: [run])
    assert tracker.candidates(STEP.key) == []


def test_what_lies_in_the_store_is_of_the_run_that_made_it(client, tracker, tmp_path, capsys):
    honest = registered(client, tmp_path, "1", 5)
    folder = tmp_path / "store" / STEP.folder
    shutil.copytree(honest.output, folder)
    registered(client, tmp_path, "2", 6, b"evil")
    claims = result_digest(folder)
    registered(client, tmp_path, "2", 7, **{"solar.result": claims})
    assert get(tracker, tmp_path)[0].run_id == honest.info.run_id
    honest.info.lifecycle_stage = "deleted"
    assert get(tracker, tmp_path)[0].digest == claims
    assert capsys.readouterr().err.count("cached") == 2


def test_what_lies_in_the_store_and_nobody_has_recorded_is_registered(client, tracker, tmp_path, monkeypatch):
    folder = tmp_path / "store" / STEP.folder
    write_result(folder, run_id="of another server")
    registered(client, tmp_path, "2", 6, b"evil")
    own = tracker.candidates(STEP.key)[0]
    monkeypatch.setattr(Runner, "_register", lambda *given: replace(own, run_id=given[3]))
    assert get(tracker, tmp_path)[0].run_id not in (None, own.run_id)


@pytest.mark.parametrize("how", [{"places": {"model": "org/name"}}, {"trained": "sha256:0"}])
def test_a_copy_of_what_the_key_names_is_not_taken_from_the_server(client, tracker, tmp_path, how):
    trained = how.get("trained")
    settings = BaseModelSettings(base=BaseTraining() if trained else None, trained=trained)
    step = Step("base", "base", settings, places=how.get("places", {}))
    assert step.is_copy
    run = client.create_run("0", {"solar.key": step.key}, status="FINISHED", end_time=1)
    run.info.artifact_uri = str(tmp_path / "artifacts")
    write_result(tmp_path / "artifacts" / "output", step=step)
    assert get(tracker, tmp_path, step)[0] is None
    assert not Step("base", "base", BaseModelSettings(base=BaseTraining())).is_copy


def test_a_result_and_its_run_say_who_made_it(client, tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    logged = []
    client.log_batch = lambda run_id, params, tags: logged.append({tag.key: tag.value for tag in tags})
    client.log_inputs = lambda *given, **named: None
    run_id = client.create_run("1").info.run_id
    tracker.describe(run_id, STEP, {}, tmp_path / "not yet")
    folder = write_result(tmp_path / "result")
    assert maker(folder) == this_maker() == {"user": "ann", "host": "one"}
    # Another, who registers the result, has not made it.
    monkeypatch.setattr("getpass.getuser", lambda: "eve")
    tracker.describe(run_id, STEP, {}, folder)
    assert [(tags["solar.user"], tags["solar.host"]) for tags in logged] == [("ann", "one")] * 2
    tracker.record_result(run_id, folder)
    assert client.get_run(run_id).data.tags["solar.result"] == result_digest(folder)


@pytest.mark.parametrize("said", [None, [], {}, {"user": 3, "host": "h"}, {"user": "u"}])
def test_a_result_may_say_nothing_of_who_made_it(tmp_path, said):
    folder = write_result(tmp_path / "result")
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**content, "made_by": said}))
    assert maker(folder) is None


def test_a_user_without_a_name_is_a_number(monkeypatch):
    import os

    def nobody():
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert this_maker()["user"] == str(os.getuid())


@pytest.mark.parametrize(
    ("typed", "names"),
    [("team", ["team"]), ("team, mine", ["team", "mine"]), ("[a, b]", ["a", "b"]), ("12", ["12"])],
)
def test_accepted_experiments_are_typed_with_commas(typed, names):
    assert load_scale("check", {"tracking.experiments": typed}).execution.tracking.experiments == names


@pytest.mark.parametrize("typed", ["a,,b", "true", "{a: b}"])
def test_experiments_without_a_name_are_one_line(typed):
    with pytest.raises(UserError, match=r"check.yaml with overrides: tracking.experiments"):
        load_scale("check", {"tracking.experiments": typed})


def test_the_folder_that_this_run_verified_is_registered(tmp_path, monkeypatch):
    from benchmarks import registry
    from benchmarks.runs import MODEL
    from solar_repro.tracking.reader import FinishedRun
    from tests.benchmarks.fakes import fake_runs

    forged = {"solar.output": "evil", "solar.key": "evil"}
    runs = fake_runs({"merge_v1": 1.0}, {"merge_v1": {}}, **forged)
    mine = runs.first(MODEL, "merge_v1").info.run_id
    step = bare_step("merge", "merge_v1")
    made = FinishedRun(mine, "1", None, write_result(tmp_path / "result", step=step))
    tags = {"solar.key": step.key, "solar.result": result_digest(made.output)}
    known = [
        SimpleNamespace(version="7", run_id="eve's", tags=tags),
        SimpleNamespace(version="8", run_id=mine, tags={**tags, "solar.result": "other"}),
    ]
    tracker, taken = MagicMock(), []
    tracker.client.search_model_versions.return_value = known
    tracker.client.create_model_version.return_value.version = "9"
    monkeypatch.setattr(registry, "card", lambda *given: "card")
    monkeypatch.setattr(registry, "_log_model", lambda _, experiment, one, *more: taken.append(one) or "m-1")

    def register(one=made):
        return registry.register_instruct(runs, load_scale("check"), tracker, one)

    assert register() == "registered: models:/solar_instruct/9 (alias check)"
    assert [one.output for one in taken] == [made.output]
    assert tags.items() <= tracker.client.create_model_version.call_args.kwargs["tags"].items()
    known.append(SimpleNamespace(version="9", run_id=mine, tags={**tags, "x": "y"}))
    assert register() == "registered before: models:/solar_instruct/9"
    said = register(replace(made, run_id="another"))
    assert said.startswith("not registered: run another, which made it, is not one of the compared runs")
