"""A training that was cut off goes on where it was saved, in the same run, to the same bytes."""

import os
import signal
from types import SimpleNamespace

import pytest

from solar_repro.errors import Stopped, UserError
from solar_repro.h6.journal import Journal
from solar_repro.plan.plan import Plan
from solar_repro.running.garbage import unneeded
from solar_repro.running.runner import Runner
from solar_repro.scales.execution import Execution, Save
from solar_repro.scales.load import load_scale
from solar_repro.store.result import METRICS
from solar_repro.store.resume import ResumeFolder, resume_folder
from solar_repro.tracking.metric_log import MetricLog, read_metrics
from solar_repro.tracking.tracker import Tracker
from tests.runs import forget


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("variant", "how", "damaged"),
    [("sft_v1", Killed, None), ("dpo_v1", Stopped, None), ("solar", Killed, None), ("solar", Killed, 2)],
)
def test_a_training_goes_on_where_it_was_saved(
    own_place, finished, monkeypatch, capfd, variant, how, damaged
):
    forget(own_place, variant)
    step = Plan(load_scale("check")).model(variant)
    write = MetricLog.__call__

    def cut_off(log, metrics, number=0):
        write(log, metrics, number)
        if "loss" in metrics and how is Killed and number == 3:
            raise Killed
        if "loss" in metrics and how is Stopped and number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    make_room = ResumeFolder.remove_old_checkpoints

    def cut_off_with_two_states(resume):
        if len(list(resume.folder.glob("checkpoint-*"))) == 2:
            raise Killed
        make_room(resume)

    def make():
        tracker = Tracker("again", "check")
        return Runner(own_place.store, tracker, Execution(save=Save(steps=1 if damaged else 2))).get(step)

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, "__call__", cut_off)
        if damaged:
            patch.setattr(ResumeFolder, "remove_old_checkpoints", cut_off_with_two_states)
        with pytest.raises(how):
            make()
    if damaged:
        weights = resume_folder(own_place.store / step.folder) / f"checkpoint-{damaged}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    done = make()
    told = capfd.readouterr().err
    assert f"going on from checkpoint-{damaged - 1 if damaged else 2}" in told
    assert ("the state before it is used" in told) == bool(damaged)
    for file in (finished.store / step.folder).iterdir():
        if file.is_file() and file.name != "manifest.json":
            assert file.read_bytes() == (done.output / file.name).read_bytes(), file.name
    left = [path.name for path in own_place.store.glob(".*.saved/*")]
    assert left == ([f"checkpoint-{damaged}.damaged-1"] if damaged else [])
    (run,) = own_place.runs(f"tags.`solar.key` = '{step.key}'")
    assert run.info.status == "FINISHED"
    assert "solar.error" not in run.data.tags
    steps = [metric.step for metric in own_place.client().get_metric_history(run.info.run_id, "loss")]
    assert steps == sorted(set(steps))
    kept = [(row["key"], row["step"]) for row in read_metrics(done.output / METRICS)]
    assert len(kept) == len(set(kept))
    assert [number for key, number in kept if key == "loss"] == steps
    before = read_metrics(finished.store / step.folder / METRICS)
    assert {(row["key"], row["step"]) for row in before} == set(kept)


def test_a_killed_evaluation_goes_on_though_another_of_its_model_has_ended(own_place, monkeypatch):
    def evaluation(items: str):
        return Plan(load_scale("check", {"evaluate.limits.ARC": items})).evaluation("base")

    def make(step):
        return Runner(own_place.store, Tracker("again", "check")).get(step)

    first, second = evaluation("5"), evaluation("4")
    take = Journal.add_partial

    def cut_off(journal, *answer):
        take(journal, *answer)
        if journal.answered == 15:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add_partial", cut_off)
        with pytest.raises(Killed):
            make(first)
    make(second)
    forgotten = SimpleNamespace(knows=lambda key: not first.key.startswith(key))
    (listed,) = unneeded(own_place.store, {second.folder}, forgotten)
    assert (listed.why, first.folder in listed.path.name) == ("unfinished work", True)
    assert not unneeded(own_place.store, {first.folder}, forgotten)
    assert not unneeded(own_place.store, {second.folder}, SimpleNamespace(knows=lambda key: True))
    known = []
    split = Journal.split

    def seen(journal, instances):
        known.append(len(journal.known))
        return split(journal, instances)

    monkeypatch.setattr(Journal, "split", seen)
    make(first)
    assert known[0] == 15
    assert not [path.name for path in own_place.store.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "line", ["", "{", "[1]", '["key", null]', '[["key"], "a"]', '["key", [NaN, true]]', "[" * 9999]
)
def test_damaged_lines_of_an_evaluations_answers_are_passed_over_and_told_of(tmp_path, capsys, line):
    file = tmp_path / "answers.jsonl"
    good = '["one", [-1.5, true]]', '["two", "text"]'
    file.write_text(f"{good[0]}\n{line}\n{good[1]}\n")
    journal = Journal(file, {}, None)
    journal.close()
    assert journal.known == {"one": (-1.5, True), "two": "text"}
    assert capsys.readouterr().err.endswith("1 damaged lines are skipped; their answers are computed again\n")


def test_an_evaluations_answers_are_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / "answers.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link, but a file is written here"):
        Journal(tmp_path / "answers.jsonl", {}, None)
    assert (tmp_path / "victim").read_text() == "dear"
