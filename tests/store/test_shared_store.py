"""A store that others can write to, and models that change while they are used."""

import errno
import fcntl
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from safetensors.numpy import save_file

from solar_repro.checkpoint.model_source import (
    fingerprint_model,
    model_folder,
    models_by_role,
    refuse_changed_model,
    with_model_folders,
)
from solar_repro.errors import UserError
from solar_repro.plan.merge_recipe import MergeRecipe, merge_step
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import result_digest
from solar_repro.running.runner import Runner, _is_here
from solar_repro.scales.load import load_scale
from solar_repro.store.fingerprint import folder_fingerprint
from solar_repro.store.manifest import verify_manifest, write_manifest
from solar_repro.tracking.reader import FinishedRun
from tests.steps import BY_REFERENCE, bare_step

STEP = SimpleNamespace(key="0123456789abcdef", folder="base-01234567", label="base")


@pytest.fixture
def result(tmp_path):
    """A published result of STEP."""
    return write_result(tmp_path / "store" / STEP.folder)


def write_result(folder):
    (folder / "solar").mkdir(parents=True)
    (folder / "solar" / "provenance.json").write_text(json.dumps({"key": STEP.key}))
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder)
    return folder


@pytest.mark.parametrize("name", [".DS_Store", ".nfs0000000000000001", "note.txt", "solar/to do.md"])
def test_a_stray_file_costs_no_result(result, name):
    (result / name).write_text("mine")
    assert _is_here(result, STEP)
    assert (result / "model.safetensors").read_bytes() == b"weights"
    assert (result / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "solar/provenance.json"])
def test_a_result_that_may_not_be_read_is_left_alone(result, name, monkeypatch):
    opened = os.open

    def refusing(path, *arguments, **settings):
        if str(path) == str(result / name):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\).*ask its owner"):
        _is_here(result, STEP)
    monkeypatch.undo()
    assert [path.name for path in result.parent.iterdir()] == [STEP.folder]
    verify_manifest(result)


def flip(result):
    (result / "model.safetensors").write_bytes(b"weightz")


DAMAGES = {
    "flipped": flip,
    "cut": lambda result: (result / "model.safetensors").write_bytes(b"w"),
    "missing": lambda result: (result / "model.safetensors").unlink(),
    "no manifest": lambda result: (result / "manifest.json").unlink(),
    "empty manifest": lambda result: (result / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_set_aside_and_not_deleted(result, damage, capsys):
    DAMAGES[damage](result)
    (result / "note.txt").write_text("mine")
    before = {path.relative_to(result) for path in result.rglob("*")}
    assert not _is_here(result, STEP)
    (aside,) = result.parent.iterdir()
    assert aside.name == f"{STEP.folder}.damaged-1"
    assert {path.relative_to(aside) for path in aside.rglob("*")} == before
    assert capsys.readouterr().err.endswith(f"; the folder was renamed to {aside.name}\n")


def test_a_folder_that_was_not_published_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "store" / STEP.folder
    folder.mkdir(parents=True)
    assert not _is_here(folder, STEP)  # an empty one is filled
    (folder / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=f"^{folder}: lies where a result is to be, but has no manifest"):
        _is_here(folder, STEP)
    assert [path.name for path in folder.parent.iterdir()] == [STEP.folder]


def test_another_steps_result_of_that_name_is_set_aside(result):
    assert not _is_here(result, SimpleNamespace(key="01234567" + "f" * 8))
    assert [path.name for path in result.parent.iterdir()] == [f"{STEP.folder}.damaged-1"]


def test_a_note_beside_a_result_is_not_uploaded(result):
    (result / "note.txt").symlink_to("/etc/hostname")
    uploaded = {}
    tracker = MagicMock()
    tracker.log_folder = lambda run_id, folder, path=None: uploaded.update(
        {path: sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())}
    )
    step = bare_step("synth_math", "synth_math")
    Runner(result.parent, tracker)._log_result(step, {}, "run", result)
    assert uploaded == {"output": ["manifest.json", "model.safetensors", "solar/provenance.json"]}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"honest")
    return tmp_path / "model"


def runner_that(does, tmp_path, monkeypatch):
    """A runner whose stage does something to a model."""
    tracker = MagicMock()
    tracker.candidates.return_value = []
    tracker.unfinished.return_value = [], []
    tracker.open_child.return_value = "run"
    runner = Runner(tmp_path / "store", tracker, BY_REFERENCE)

    def stage(step, work, log, inputs, resume):
        (work / "solar").mkdir()
        return does(inputs) or {}

    monkeypatch.setattr(runner, "_run_stage", stage)
    return runner


def step_on(model):
    digest = folder_fingerprint(model)
    return bare_step("synth_math", "x", data={"model": digest}, places={"model": str(model)})


def test_a_model_that_was_changed_while_it_was_used_gives_no_result(model, tmp_path, monkeypatch):
    step = step_on(model)

    def swap(inputs):
        assert inputs["model"] == model
        (model / "model.safetensors").write_bytes(b"hostil")

    with pytest.raises(UserError, match=r"model: .*model was changed while it was used"):
        runner_that(swap, tmp_path, monkeypatch).get(step)
    assert not (tmp_path / "store" / step.folder).exists()
    step = step_on(model)
    runner_that(lambda inputs: None, tmp_path, monkeypatch).get(step)
    assert (tmp_path / "store" / step.folder).is_dir()


def test_a_model_of_the_hub_is_taken_at_the_commit_that_its_key_names(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda model, repo_type, revision, allow_patterns: asked.append((model, revision)) or str(tmp_path),
    )
    assert model_folder("org/name", "revision:0123abc") == tmp_path
    assert asked == [("org/name", "0123abc")]
    refuse_changed_model(tmp_path, "revision:0123abc", "model")


def test_the_models_of_a_merge_are_found_one_by_one(tmp_path):
    places = {"models": ["org/one", "org/two"], "base": None, "device": "cpu"}
    assert models_by_role(places)["model_2"] == "org/two"
    found = {"model_1": tmp_path / "1", "model_2": tmp_path / "2"}
    changed = with_model_folders(places, found)
    assert changed == {"models": [tmp_path / "1", tmp_path / "2"], "base": None, "device": "cpu"}


class Faster:
    """What another process does while this one makes a step."""

    def __init__(self, tmp_path, monkeypatch, known):
        self.step = bare_step("synth_math", "x")
        self.runner = runner_that(self.make_it_too, tmp_path, monkeypatch)
        self.folder = tmp_path / "store" / self.step.folder
        self.known = known

    def make_it_too(self, inputs):
        write_result(self.folder)
        (self.folder / "solar" / "provenance.json").write_text(json.dumps({"key": self.step.key}))
        write_manifest(self.folder)
        if self.known:
            found = replace(self.known, digest=result_digest(self.folder))
            self.runner.tracker.candidates.return_value = [found]
            self.known = found


@pytest.mark.parametrize("known", [FinishedRun("theirs", "0", "m-1", None), None])
def test_a_whole_result_that_another_has_published_meanwhile_is_taken(known, tmp_path, monkeypatch, capsys):
    faster = Faster(tmp_path, monkeypatch, known)
    done = faster.runner.get(faster.step)
    assert done.output == faster.folder
    assert (faster.folder / "model.safetensors").read_bytes() == b"weights"
    assert "another process has made it meanwhile: its result is taken" in capsys.readouterr().err
    tracker = faster.runner.tracker
    if known:
        assert done.run_id == "theirs"
        tracker.close_as_reused.assert_called_once_with("run", faster.known)
        tracker.finish.assert_not_called()
    else:  # the other's server is another one
        assert done.run_id == "run"
        tracker.finish.assert_called_once_with("run")


def test_what_another_has_put_there_meanwhile_must_be_the_steps_result(tmp_path, monkeypatch):
    faster = Faster(tmp_path, monkeypatch, None)
    make = faster.make_it_too

    def damaged(inputs):
        make(inputs)
        flip(faster.folder)

    faster.runner = runner_that(damaged, tmp_path, monkeypatch)
    with pytest.raises(UserError, match="its content is not what"):
        faster.runner.get(faster.step)
    assert (faster.folder / "model.safetensors").read_bytes() == b"weightz"


def test_work_without_a_lock_is_said_before_it_starts_and_kills_no_run(tmp_path, monkeypatch, capsys):
    told = []
    runner = runner_that(lambda inputs: told.append(capsys.readouterr().err), tmp_path, monkeypatch)
    runner.tracker.unfinished.return_value = ["live"], []

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    runner.get(bare_step("synth_math", "x"))
    assert "no lock can be had (No locks available): let nobody else make it meanwhile" in told[0]
    runner.tracker.finish.assert_called_once_with("run")


@pytest.fixture
def published(tmp_path):
    """A checkpoint as the project publishes one."""
    folder = tmp_path / "solar-01234567"
    (folder / "solar").mkdir(parents=True)
    (folder / "solar" / "provenance.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.zeros(9)}, folder / "model.safetensors")
    write_manifest(folder)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_in_a_published_folder_is_found_whatever_names_it(published, name):
    digest = fingerprint_model(published, "base.model")
    raw = bytearray((published / name).read_bytes())
    raw[-1] ^= 32
    (published / name).write_bytes(raw)
    recipe = MergeRecipe(method="average", models=[str(published), str(published)])
    plan = Plan(
        load_scale("check", {"base.model": str(published), "contamination.reference": str(published)})
    )
    for use in (
        lambda: plan.model("base"),
        lambda: plan.evaluation_of(str(published)),
        lambda: plan.contamination("base"),
        lambda: merge_step(recipe, "again"),
    ):
        with pytest.raises(UserError, match=f"^{published / name}: ") as refused:
            use()
        assert "\n" not in str(refused.value)
    raw[-1] ^= 32
    (published / name).write_bytes(raw)
    assert fingerprint_model(published, "base.model") == digest


def test_a_missing_file_of_a_published_folder_is_found(published):
    (published / "solar" / "provenance.json").unlink()
    with pytest.raises(
        UserError, match=r"provenance\.json: missing, though manifest\.json beside it names it"
    ):
        fingerprint_model(published, "base.model")


def test_another_projects_manifest_says_nothing(published):
    shutil.rmtree(published / "solar")
    for text in ("{}", "not JSON", '{"files": ["model.safetensors"]}'):
        (published / "manifest.json").write_text(text)
        fingerprint_model(published, "base.model")
    (published / "solar").mkdir()
    (published / "solar" / "provenance.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        fingerprint_model(published, "base.model")
