"""What a user of the MLflow UI reads on a run's page, and the commands that stand there."""

import json
from pathlib import Path

import pytest
import yaml

from entry_points.command import parse
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import as_yaml, load_scale
from solar_repro.stages.table import STAGES
from solar_repro.tracking.commands import Invocation, step_command
from solar_repro.tracking.descriptions import (
    MAX_NOTE_CHARACTERS,
    NOTE,
    fit_note,
    invocation_note,
    model_link,
    step_note,
)
from solar_repro.tracking.experiment_page import describe_experiment
from solar_repro.tracking.reader import FinishedRun
from tests.conftest import ROOT
from tests.fake_mlflow import FakeClient
from tests.steps import bare_step

GIVEN = Invocation("check", {"sft.learning_rate": "1e-5"}, seed=42, typed="python -m entry_points.main")


@pytest.fixture(scope="module")
def plan():
    return Plan(load_scale("check"))


def note(step, given=GIVEN, **named):
    parents = {
        role: FinishedRun(f"run-{role}", "7", None, Path("/store", parent.folder))
        for role, parent in step.inputs.items()
    }
    return step_note(step, given, parents, Path("/store", step.folder), **named)


def test_a_model_run_says_its_row_parents_data_settings_command_and_checkpoint(plan):
    text = note(plan.model("sft_v3"), model=model_link("7", "m-1"))
    assert "**sft_v3**: Instruction tuning (Sec. 3). In the paper: Table 3, row “SFT v3”." in text
    assert "Made from [solar](#/experiments/7/runs/run-model?workflowType=machine_learning)" in text
    assert "Trained on Alpaca-GPT4 (at most 100 rows), OpenOrca (at most 100 rows), Synth. Math-Ins" in text
    assert "`learning_rate = 0.0005`" in text
    assert "`seed = 42`" in text
    assert (
        "\n```\nmlflow run . -e sft --env-manager local -P scale=check -P variant=sft_v3 -P sft.lea" in text
    )
    checkpoint = "[m-1](#/experiments/7/models/m-1?workflowType=machine_learning)"
    assert f"Checkpoint: {checkpoint}, in `/store/sft_v3-" in text
    assert "places." not in text


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (
            lambda plan: plan.model("merge_v1"),
            "Table 2, row “SOLAR 10.7B-Instruct” and Table 7, row “Merge v1”",
        ),
        (lambda plan: plan.evaluation("dpo_v2"), "Table 4, row “DPO v2” and Table 5, row “DPO v2”."),
        (lambda plan: plan.evaluation("repeat_continued"), "The paper's tables have no row for it."),
        (lambda plan: plan.contamination("solar_instruct"), "The contamination test of Table 9"),
        (lambda plan: bare_step("merge", "mine"), "Of a model that the paper does not name."),
        (lambda plan: bare_step("evaluate", "sft_v1"), "Of a model that the paper does not name."),
    ],
)
def test_where_the_paper_has_it(plan, choose, says):
    assert says in note(choose(plan))


def test_every_step_of_the_plan_has_a_description_that_the_server_takes(plan):
    steps = [*plan.everything(), plan.data("openorca"), plan.untrained()]
    assert {step.stage for step in steps} == set(STAGES)
    assert all(len(note(step)) < MAX_NOTE_CHARACTERS and not note(step).endswith("…") for step in steps)


@pytest.mark.parametrize(
    ("choose", "asked"),
    [
        (lambda plan: plan.microworld(), "-e microworld --env-manager local -P scale=check"),
        (lambda plan: plan.synth_math(), "-e synth_math --env-manager local -P scale=check"),
        (
            lambda plan: plan.data("openorca"),
            "-e data --env-manager local -P scale=check -P dataset=openorca",
        ),
        (lambda plan: plan.model("base"), "-e base --env-manager local -P scale=check"),
        (lambda plan: plan.evaluation("dpo_v2"), "-P scale=check -P variant=dpo_v2"),
        (
            lambda plan: plan.contamination("merge_v1", positive=True),
            "-P control=positive -P variant=merge_v1",
        ),
        (
            lambda plan: plan.contamination("merge_v1", positive=True).inputs["target"],
            "-e contamination --env-manager local -P scale=check -P control=positive -P variant=merge_v1",
        ),
    ],
)
def test_the_command_of_a_step(plan, choose, asked):
    text = step_command(choose(plan), GIVEN)
    assert f"{asked} -P sft.learning_rate=1e-5" in text


def test_every_command_names_an_entry_point_that_takes_its_parameters(plan):
    entries = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    for step in [*plan.everything(), plan.data("openorca")]:
        words = step_command(step, GIVEN).split()
        entry, options = words[4], [word.partition("=") for word in words[8::2]]
        assert entry in entries, step.label
        source = (ROOT / "entry_points" / f"{entry}.py").read_text(encoding="utf-8")
        for name, _, value in options:
            if "." in name:
                load_scale("check", {name: value})
            elif name != "scale":
                assert name in source, (step.label, name)


def test_the_command_of_another_seed_and_of_a_file(plan):
    again = Plan(load_scale("check").model_copy(update={"seed_offset": 2}))
    given = Invocation("my scales/mine.yaml", seed=42)
    text = step_command(again.model("sft_v1"), given)
    assert text.endswith("-P 'scale=my scales/mine.yaml' -P variant=sft_v1 -P seed_offset=2")
    # What no seed changes is made by the same command as ever.
    assert "seed_offset" not in step_command(again.model("upscaled"), given)


@pytest.mark.parametrize("stage", ["evaluate", "contamination", "merge"])
def test_of_a_model_from_outside_the_command_that_was_typed_is_shown(stage, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "s3cret-value")
    given = Invocation("check", typed=f"python -m entry_points.{stage} --model mine --x s3cret-value")
    for text in (step_command(bare_step(stage, "mine"), given), invocation_note(stage, given)):
        assert f"python -m entry_points.{stage} --model mine --x ***" in text


def test_no_secret_of_an_override_is_told(plan, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "s3cret-value")
    given = Invocation("check", {"data.corpus.id": "https://me:s3cret-value@host/x"})
    assert "s3cret" not in note(plan.model("sft_v1"), given)


def test_a_long_text_ends_with_a_whole_line():
    text = fit_note("a line\n" * 3000)
    assert MAX_NOTE_CHARACTERS - 20 < len(text) <= MAX_NOTE_CHARACTERS
    assert text.endswith("a line\n\n…")
    assert fit_note("short") == "short"


def test_what_describes_a_result_is_no_part_of_its_key(plan):
    other = Plan(load_scale("check", {"tracking.system_metrics": "false"}))
    assert [step.key for step in plan.main()] == [step.key for step in other.main()]


def test_the_settings_that_are_kept_are_a_scale(tmp_path):
    arguments = parse("", ["--scale", "check", "--sft.learning_rate", "1e-5", "--store", str(tmp_path)])
    file = tmp_path / "scale.yaml"
    file.write_text(as_yaml(arguments.scale), encoding="utf-8")
    assert load_scale(str(file)) == arguments.scale


@pytest.fixture
def client():
    return FakeClient(["Default", "solar-check"])


def test_an_experiment_of_ours_opens_for_model_training(client):
    client.create_run("1", {"solar.command": "main check"})
    describe_experiment(client, "1")
    tags = client.experiments["1"].tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "Which columns to show" in tags[NOTE]
    assert "#/experiments/1/runs?viewStateShareKey=scores&workflowType=machine_learning)" in tags[NOTE]
    view = json.loads(tags["mlflow.sharedViewState.scores"])
    assert "metrics.`H6`" in json.loads(view["state"])["selectedColumns"]
    assert all(len(value) <= 5000 for value in tags.values())  # as MLflow takes them


def test_what_somebody_has_said_of_an_experiment_stays(client):
    client.create_run("1", {"solar.key": "abc"})
    client.set_experiment_tag("1", NOTE, "ours")
    describe_experiment(client, "1")
    assert client.experiments["1"].tags[NOTE] == "ours"
    assert "mlflow.experimentKind" in client.experiments["1"].tags


def test_an_experiment_with_runs_of_others_is_left_alone(client):
    client.create_run("1", {"solar.key": "abc"})
    client.create_run("1", {"team": "other"})
    describe_experiment(client, "1")
    assert client.experiments["1"].tags == {}


def test_an_experiment_that_may_not_be_changed_stops_nothing(client, monkeypatch):
    from mlflow.exceptions import MlflowException

    def refuse(*given):
        raise MlflowException("PERMISSION_DENIED")

    monkeypatch.setattr(client, "set_experiment_tag", refuse)
    describe_experiment(client, "1")
