"""Runs of others, with anything in them, are passed over with a line each wherever runs are read."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import figures, regression
from benchmarks.bad_runs import points, usable, wrong_with
from benchmarks.closing import closing_text
from benchmarks.compare import claim_rows, markdown, write_csv
from benchmarks.find_runs import collect, of_server, of_steps, run_of
from benchmarks.model_cards import write_cards
from benchmarks.paper.claims import CLAIMS
from benchmarks.report.page import page
from benchmarks.runs import EVALUATE, MODEL
from benchmarks.tables import SCORE_COLUMNS, TABLES, csv_rows
from benchmarks.verdicts import judge
from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import write_provenance
from solar_repro.scales.load import load_scale
from solar_repro.store.manifest import write_manifest
from solar_repro.tracking.tracker import Tracker
from tests.fake_mlflow import FakeClient
from tests.steps import bare_step

GOOD = {
    "solar.scale": "check",
    "solar.stage": "evaluate",
    "solar.variant": "sft_v1",
    "solar.seed": "42",
    "solar.parents": '{"model": "run"}',
    "solar.output": "/nowhere",
}
SCORES = {name: 50.0 for column in SCORE_COLUMNS for name in (column, f"{column}_stderr")} | {
    "held_out_loss": 2.0
}


@pytest.fixture
def client():
    client = FakeClient(["A", "B"])
    client.get_metric_history = lambda run_id, metric: []
    return client


@pytest.fixture
def tracker(client, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.tracker.connect", lambda: client)
    return Tracker("compare", "check", client.create_run("0").info.run_id)


def made(client, tags=(), metrics=None, params=None, time=5, **info):
    """A finished run of an evaluation."""
    run = client.create_run("0", {**GOOD, **dict(tags)}, status="FINISHED", end_time=time)
    run.data.tags = {name: value for name, value in run.data.tags.items() if value is not None}
    run.data.metrics, run.data.params = dict(SCORES, **(metrics or {})), dict(params or {})
    vars(run.info).update({"start_time": 1, **info})
    return run


PRETRAINED = {"solar.stage": "continue_pretrain", "solar.variant": "solar"}
SIZES = {"continue_pretrain.global_batch_size": "8", "continue_pretrain.max_length": "256"}
BAD = {
    "no variant": ({"tags": {"solar.variant": None}}, "it has no tag solar.variant"),
    "empty variant": ({"tags": {"solar.variant": ""}}, "'' is no variant's name"),
    "unbalanced $": ({"tags": {"solar.variant": "$x^{"}}, "'$x^{' is no variant's name"),
    "escape": ({"tags": {"solar.variant": "a\x1b[2J\nb"}}, "is no variant's name"),
    "long variant": ({"tags": {"solar.variant": "x" * 5000}}, "is no variant's name"),
    "seed x": ({"tags": {"solar.seed": "x"}}, "its seed is 'x'"),
    "seed of many digits": ({"tags": {"solar.seed": "9" * 5000}}, "its seed is '999"),
    "seed of other digits": ({"tags": {"solar.seed": "²"}}, "its seed is '²'"),
    "stage": ({"tags": {"solar.stage": "../sft"}}, "there is no stage '../sft'"),
    "parents": ({"tags": {"solar.parents": "{"}}, "its tag solar.parents is no JSON object"),
    "list of parents": ({"tags": {"solar.parents": "[]"}}, "its tag solar.parents is no JSON object"),
    "deep parents": ({"tags": {"solar.parents": "[" * 100_000}}, "its tag solar.parents is no JSON"),
    "score": ({"metrics": {"H6": 1e308}}, "its metric H6 is 1e+308"),
    "negative score": ({"metrics": {"ARC": -1.0}}, "its metric ARC is -1.0"),
    "NaN": ({"metrics": {"GSM8K_stderr": math.nan}}, "its metric GSM8K_stderr is nan"),
    "infinite loss": ({"metrics": {"held_out_loss": math.inf}}, "its metric held_out_loss is inf"),
    "count": ({"metrics": {"data/openorca/used": math.nan}}, "its metric data/openorca/used is nan"),
    "huge count": ({"metrics": {"parameters": 1e300}}, "its metric parameters is 1e+300"),
    "share": ({"metrics": {"contamination/ARC/neighbour": -math.inf}}, "its metric contamination/ARC"),
    "huge parameter": ({"params": {"x": "y" * 10**6}}, "its parameter x has 1,000,000 characters"),
    "size": ({"tags": PRETRAINED, "params": SIZES | {"continue_pretrain.max_length": "9" * 4000}}, "is '999"),
    "no size": ({"tags": PRETRAINED}, "continue_pretrain.global_batch_size is 'missing'"),
    "no end": ({"time": None}, "its times are no times"),
    "end before start": ({"start_time": 9}, "its times are no times"),
    "far end": ({"time": 10**18}, "its times are no times"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_run_is_passed_over_with_a_line(client, tracker, bad, capsys):
    changes, why = BAD[bad]
    good = made(client)
    worse = made(client, **changes)
    runs = of_server("check", tracker, experiment="A")
    assert [list(seeds.values()) for seeds in runs.found[EVALUATE].values()] == [[good]]
    assert not runs.found[MODEL]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run {worse.info.run_id} ")
    assert "is passed over: " in line
    assert why in line
    assert "\x1b" not in line


def test_ids_become_parts_of_links_and_paths(client):
    for info in ({"experiment_id": "1](http://x)"}, {"run_id": "../../x"}):
        assert wrong_with(made(client, **info)) == "its ids are no ids"


def test_a_good_run_is_not(client):
    assert usable([made(client), made(client, PRETRAINED, params=SIZES)])[1:]
    assert wrong_with(client.create_run("0", status="FINISHED", end_time=1)) is None


@pytest.mark.parametrize(
    "steps", [{}, [], None, {"a": 3}, {"a": "../x"}, {"a": "x" * 100}, {"a": ["run1"]}, "{", "[" * 100_000]
)
def test_an_invocation_whose_steps_are_malformed_is_passed_over(client, tracker, tmp_path, steps, capsys):
    good = made(client)
    run = client.create_run("0", {"solar.scale": "check"}, status="FINISHED", end_time=3)
    run.info.artifact_uri = str(tmp_path)
    (tmp_path / "steps.json").write_text(steps if isinstance(steps, str) else json.dumps(steps))
    runs = of_server("check", tracker, experiment="A")
    assert runs.first(EVALUATE, "sft_v1") is good
    assert len(capsys.readouterr().err.splitlines()) == (0 if steps == {} else 1)


STEP = bare_step("evaluate", "sft_v1")


def result(folder, step=STEP, **files):
    (folder / "solar").mkdir(parents=True)
    write_provenance(folder, step, "run")
    for name, content in files.items():
        (folder / name).write_text(content)
    write_manifest(folder)
    return folder


def unlisted(folder):
    (folder / "held_out.json").write_text("[[1, 3.0]]")


def other_key(folder):
    (folder / "solar" / "provenance.json").write_text("{}")
    write_manifest(folder)


def anothers(folder):
    (folder / "solar" / "provenance.json").write_text("{}")
    write_manifest(folder)


DAMAGES = {
    "manifest {}": lambda folder: (folder / "manifest.json").write_text("{}"),
    "manifest []": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest of junk": lambda folder: (folder / "manifest.json").write_text('{"files": [3]}'),
    "no JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "changed": unlisted,
    "another's": anothers,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_that_is_damaged_or_anothers_is_not_compared(client, tracker, tmp_path, damage, capsys):
    folder = result(tmp_path / "store" / "x", **{"held_out.json": "[[1, 2.0]]"})
    run = made(client, {"solar.key": STEP.key, "solar.output": str(folder)})
    found = of_steps("check", [STEP], tracker).items("sft_v1", "loss", ["42"])
    assert found.values.tolist() == [[2.0]]
    assert not capsys.readouterr().err
    DAMAGES[damage](folder)
    assert of_steps("check", [STEP], tracker).items("sft_v1", "loss", ["42"]) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run {run.info.run_id} (sft_v1) is passed over: its result cannot be used (")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "[[]]",
        "[[1]]",
        "[[0, 1.0]]",
        "[[1, -1.0]]",
        "[[1, 1e300]]",
        "[[1, NaN]]",
        '[["a", 1]]',
        "[3]",
    ],
)
def test_a_result_whose_files_make_no_sense_is_not_compared(client, tracker, tmp_path, content, capsys):
    folder = result(tmp_path / "x", **{"held_out.json": content})
    made(client, {"solar.key": STEP.key, "solar.output": str(folder)})
    assert of_steps("check", [STEP], tracker).items("sft_v1", "loss", ["42"]) is None
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"rows": 3}', '{"rows": {"used": "x"}, "tokens": {}}']
)
def test_a_card_that_makes_no_sense_is_left_out(client, tracker, tmp_path, content, capsys):
    from benchmarks.report.page import data_cards

    step = bare_step("sft", "sft_v1")
    folder = tmp_path / "x"
    (folder / "solar" / "data").mkdir(parents=True)
    (folder / "solar" / "data" / "alpaca_gpt4.json").write_text(content)
    write_provenance(folder, step, "run")
    write_manifest(folder)
    made(client, {"solar.stage": "sft", "solar.key": step.key, "solar.output": str(folder)})
    assert data_cards(of_steps("check", [step], tracker)) == []
    (folder / "solar" / "data" / "alpaca_gpt4.json").write_text("changed")
    assert data_cards(of_steps("check", [step], tracker)) == []


def test_a_folder_that_a_tag_names_must_be_the_runs_own(client, tracker, tmp_path, capsys):
    """As of a run whose tag names a result of somebody else's that lies on this machine."""
    folder = result(tmp_path / "x", **{"held_out.json": "[[1, 2.0]]"})
    forged = bare_step("evaluate", "sft_v1", seed=1)
    made(client, {"solar.key": forged.key, "solar.output": str(folder)})
    assert of_steps("check", [forged], tracker).items("sft_v1", "loss", ["42"]) is None
    assert "made with key" in capsys.readouterr().err


@pytest.mark.parametrize("forged", [{"H6": 99.0}, {}])
def test_a_newer_run_with_other_figures_or_results_does_not_win_silently(client, tracker, tmp_path, forged):
    key = {"solar.key": STEP.key}
    first = made(client, {**key, "solar.result": "a", "solar.user": "ann", "solar.host": "one"})
    evil = made(client, {**key, "solar.result": "a" if forged else "b"}, metrics=forged, time=9)
    with pytest.raises(UserError, match=r"sft_v1.evaluate: 2 runs have different results of it: run "):
        of_steps("check", [STEP], tracker)
    store = tmp_path / "store"
    folder = store / STEP.folder
    (folder / "solar").mkdir(parents=True)
    write_provenance(folder, STEP, first.info.run_id)
    assert run_of(STEP, tracker, store) is first
    evil.data.tags["solar.result"], evil.data.metrics = "a", dict(SCORES, more=1.0)
    assert run_of(STEP, tracker, None) is evil  # the newest of those that agree


def test_models_with_other_items_are_not_compared(capsys, monkeypatch):
    import numpy as np

    from solar_repro.h6.compare_items import Items
    from tests.benchmarks.fakes import fake_runs

    runs = fake_runs({"sft_v1": 1.0, "sft_v2": 1.0})
    few = {"sft_v1": 3, "sft_v2": 4}

    def items(self, variant, column, seeds):
        return Items(tuple(range(few[variant])), np.zeros((1, few[variant])), np.ones(few[variant]))

    monkeypatch.setattr(type(runs), "items", items)
    (claim,) = [claim for claim in CLAIMS if claim.name == "C4"]
    assert {part.verdict for part in judge([claim], runs, TABLES)[0].parts} == {"no runs"}
    assert "are not compared: " in capsys.readouterr().err


def test_the_gate_tells_what_is_missing_and_what_is_damaged(client, tracker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(regression, "MAIN", ("sft_v1",))
    plan = Plan(load_scale("check"))
    with pytest.raises(UserError, match="scale check: no finished evaluation of sft_v1; run: "):
        regression.measure([plan], tracker)
    made(client, {"solar.key": plan.evaluation("sft_v1").key})
    step = plan.model("upscaled")
    folder = result(tmp_path / "x", step)
    tags = {"solar.key": step.key, "solar.stage": "upscale", "solar.variant": "upscaled"}
    made(client, {**tags, "solar.output": str(folder)})
    before = regression.measure([plan], tracker)
    assert list(before["digests"]) == ["upscaled"]
    (folder / "manifest.json").write_text("{}")
    after = regression.measure([plan], tracker)
    assert after["digests"] == {}
    assert "(upscaled) is passed over: its result cannot be used" in capsys.readouterr().err
    assert not list(regression.moved(before, after))


def test_a_figure_that_is_gone_is_worse():
    before = {
        "H6": 50.0,
        "H6_stderr": 1.0,
        "held_out_loss": 2.0,
        "loss": 3.0,
        "by_seed": {"42": {"loss": 3.0}},
    }
    after = {name: value for name, value in before.items() if name != "loss"} | {"by_seed": {"42": {}}}
    (line,) = regression._moved_scores("solar", before, after)
    assert (line.text, line.worse) == ("solar loss: 3.0000 → missing", True)


@given(st.lists(st.tuples(st.integers(), st.floats())))
@example([(1, math.inf), (-1, 1.0), (10**30, 1.0), (2, 1e300), (3, 1.0), (3, math.nan)])
def test_points_of_a_curve_can_be_drawn(history):
    found = points([SimpleNamespace(step=step, value=value) for step, value in history])
    assert all(math.isfinite(value) and abs(value) <= 1e15 and 0 <= step <= 1 << 53 for step, value in found)
    assert [step for step, _ in found] == sorted({step for step, _ in found})


TEXT = st.text(max_size=30) | st.sampled_from(
    ["sft_v1", "base", "solar", "merge_v1", "42", "x", "$", "{}", "[]"]
)
TAGS = st.dictionaries(st.sampled_from([*GOOD, "solar.key", "solar.version.torch"]), TEXT, max_size=6)
FIGURES = st.floats() | st.integers(-(10**20), 10**20) | st.floats(0, 100)
NAMES = st.sampled_from(
    [*SCORES, "loss", "parameters", "data/openorca/used", "contamination/ARC/neighbour", "x"]
)
PARAMS = st.dictionaries(st.sampled_from([*SIZES, "x"]), TEXT | st.integers(1, 9).map(str), max_size=3)
STAGE = st.sampled_from(["evaluate", "sft", "continue_pretrain", "merge", "contamination", "base"])


def run_of_any(number, stage, tags, metrics, params, end):
    info = SimpleNamespace(
        run_id=f"r{number}",
        experiment_id="0",
        end_time=end,
        start_time=0,
        artifact_uri="/nowhere",
        status="FINISHED",
    )
    tags = {**GOOD, "solar.stage": stage, **tags}
    return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags, metrics=metrics, params=params))


RUN = st.builds(
    run_of_any,
    st.integers(0, 99),
    STAGE,
    TAGS,
    st.dictionaries(NAMES, FIGURES, max_size=6),
    PARAMS,
    st.none() | st.integers(),
)


@settings(max_examples=8)
@given(st.lists(RUN, max_size=6))
def test_no_run_of_others_breaks_a_comparison(tmp_path_factory, found):
    """Whatever it holds: the report, its tables, cards and CSV are made of the others."""
    out = tmp_path_factory.mktemp("out")
    tracker = SimpleNamespace(history=lambda run_id, metric: [])
    runs = collect("check", usable(found), tracker)
    results = judge(CLAIMS, runs, TABLES)
    claim_rows(results)
    write_csv(out / "scores.csv", list(csv_rows(runs)))
    markdown(runs, results, "")
    page(runs, results, {}, "", {})
    closing_text(runs, results, out)
    write_cards(runs, load_scale("check"), out / "cards")


@pytest.mark.parametrize("draw", [figures.h6, figures.recovery, figures.training, figures.merge_cosines])
def test_pictures_of_extremes_can_be_drawn(client, draw, tmp_path):
    values = [(0, 1.0), (1, math.inf), (2, 1e15), (3, -1e15), (1 << 53, math.nan), (1 << 52, 0.0)]
    history = [SimpleNamespace(step=step, value=value) for step, value in values]
    tracker = SimpleNamespace(history=lambda run_id, metric: history)
    sizes = dict.fromkeys(SIZES, "9999999999")
    runs = [made(client, {"solar.variant": "x" * 100}, metrics={"H6": 100.0}), made(client)]
    runs += [made(client, {"solar.stage": "merge", "solar.variant": "merge_v1"})]
    runs += [made(client, PRETRAINED, params=sizes), made(client, {"solar.stage": "sft"})]
    for one in runs:
        one.data.metrics["loss"] = 1e4
    assert figures.write(tmp_path / "x", draw, collect("check", usable(runs), tracker))
