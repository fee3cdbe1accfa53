"""Whole evaluations against the harness's own on the same items, and what survives a kill."""

import gc
import json
import shutil
import signal
import subprocess
import sys
import weakref

import numpy as np
import pyarrow.parquet as pq
import pytest
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from safetensors.numpy import load_file, save_file

from solar_repro.checkpoint.load import load_for_scoring, model_digest
from solar_repro.errors import UserError
from solar_repro.h6.evaluation import evaluate_h6, mean_stderr
from solar_repro.h6.scores import read_scores
from solar_repro.h6.tasks import build_tasks
from solar_repro.paper.benchmarks import H6_BENCHMARKS
from tests.conftest import ROOT
from tests.h6.test_tasks import harness_tasks
from tests.tiny_benchmarks import SUBJECTS, make_model

LIMITS = {"ARC": 5, "HellaSwag": 5, "MMLU": None, "TruthfulQA": 5, "Winogrande": 6, "GSM8K": 3}


@pytest.fixture(scope="module")
def tasks(mirror):
    return build_tasks(mirror, limits=LIMITS, subjects=SUBJECTS)


@pytest.fixture(scope="module")
def scored(tasks, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    return evaluate_h6(model, tasks, out, max_length=900), out


@pytest.fixture(scope="module")
def harness(tasks, mirror, model):
    """The harness's own evaluation: its tasks, its loop, its adapter."""
    loaded, tokenizer = load_for_scoring(model)
    lm = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=4, max_length=900)
    samples = {own.name: list(own.items) for own in tasks.loaded}
    theirs = {"tasks": harness_tasks(mirror, tasks.loaded)}
    return evaluate(lm, theirs, samples=samples, bootstrap_iters=100)


def test_scores_and_stderrs_are_the_harnesss(scored, harness):
    scores, _ = scored
    for name, own in scores.tasks.items():
        column = next(column for column in H6_BENCHMARKS if name.startswith(column.task))
        metric, key = column.metric.split(",")
        expected = harness["results"][name]
        assert own["score"] == pytest.approx(100 * expected[column.metric], rel=1e-4), name
        assert own["stderr"] == pytest.approx(100 * expected[f"{metric}_stderr,{key}"], rel=1e-4, abs=1e-3), (
            name
        )
        assert own["version"] == harness["versions"][name]
        assert own["items"] == harness["n-samples"][name]["effective"]
    flexible = harness["results"]["gsm8k"]["exact_match,flexible-extract"]
    assert scores.gsm8k_flexible == pytest.approx(100 * flexible)


def test_mmlu_is_the_plain_mean_beside_the_weighted_one(scored):
    scores, _ = scored
    subjects = [scores.tasks[f"mmlu_{subject}"] for subject in SUBJECTS]
    values, sizes = [subject["score"] for subject in subjects], [subject["items"] for subject in subjects]
    assert len(set(sizes)) == 3
    assert scores.columns["MMLU"].score == pytest.approx(np.mean(values))
    assert scores.mmlu_weighted == pytest.approx(np.average(values, weights=sizes))
    errors = [subject["stderr"] for subject in subjects]
    assert scores.columns["MMLU"].stderr == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 3)


def test_h6_is_the_mean_of_six_with_its_propagated_error(scored):
    scores, _ = scored
    columns = scores.columns.values()
    assert scores.h6 == pytest.approx(np.mean([column.score for column in columns]))
    assert scores.h6_stderr == pytest.approx(np.sqrt(sum(column.stderr**2 for column in columns)) / 6)
    assert mean_stderr([1.0, None]) is None


def test_h6_needs_all_six_columns(tasks, mirror, model, tmp_path):
    part = build_tasks(mirror, limits={"Winogrande": 1}, columns=["Winogrande"])
    scores = evaluate_h6(model, part, tmp_path)
    assert scores.h6 is None
    assert scores.columns["Winogrande"].stderr is None
    assert set(scores.metrics()) == {"Winogrande", "Winogrande_truncated"}


def test_the_weights_do_not_stay_beside_the_next_models(mirror, model, tmp_path, monkeypatch):
    loaded = []

    def load(*arguments, **settings):
        found = load_for_scoring(*arguments, **settings)
        loaded.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr("solar_repro.h6.evaluation.load_for_scoring", load)
    part = build_tasks(mirror, limits={"Winogrande": 1}, columns=["Winogrande"])
    gc.disable()
    try:
        evaluate_h6(model, part, tmp_path)
        assert loaded[0]() is None
    finally:
        gc.enable()


def test_items_hold_what_the_harness_logged(scored, harness):
    _, out = scored
    for column in H6_BENCHMARKS:
        rows = pq.read_table(out / "samples" / f"{column.task}.parquet").to_pylist()
        metric, key = column.metric.split(",")
        logged = [
            sample
            for name in sorted(harness["samples"])
            if name.startswith(column.task)
            for sample in harness["samples"][name]
            if sample["filter"] == key
        ]
        assert [row["item"] for row in rows] == [sample["doc_id"] for sample in logged]
        assert [row["metric"] for row in rows] == pytest.approx([float(s[metric]) for s in logged], rel=1e-4)
        for row, sample in zip(rows, logged, strict=True):
            if column.generates:
                assert row["response"] == sample["resps"][0][0]
                assert row["prediction"] == sample["filtered_resps"][0]
            else:
                expected = [value for value, _ in sample["filtered_resps"]]
                assert row["log_likelihoods"] == pytest.approx(expected, rel=1e-4)
                right = row["prediction"] in row["gold"]
                assert column.name == "TruthfulQA" or right == bool(row["metric"])


def test_scores_are_read_back_and_the_same_run_gives_the_same_bytes(scored, tasks, model, tmp_path):
    scores, out = scored
    assert read_scores(out) == scores
    evaluate_h6(model, tasks, tmp_path, max_length=900)
    for path in [out / "scores.json", *sorted((out / "samples").iterdir())]:
        assert (tmp_path / path.relative_to(out)).read_bytes() == path.read_bytes(), path.name


def test_truncated_items_are_counted(tasks, model, tmp_path, mirror):
    part = build_tasks(mirror, limits={"ARC": 3}, columns=["ARC", "TruthfulQA"])
    scores = evaluate_h6(model, part, tmp_path, max_length=300)
    assert scores.columns["ARC"].truncated == 3
    assert evaluate_h6(model, part, tmp_path).columns["ARC"].truncated == 0
    assert scores.settings["max_length"] == 300


def test_a_tokenizer_without_bos_is_recorded(tmp_path, mirror):
    part = build_tasks(mirror, limits={"Winogrande": 2}, columns=["Winogrande"])
    folder = make_model(tmp_path / "model", bos=False)
    settings = evaluate_h6(folder, part, tmp_path / "out").settings
    assert (settings["bos_token"], settings["prefix_token_id"], settings["tokenizer_adds"]) == (None, 2, [])


def test_nan_names_the_item_and_leaves_no_scores(tmp_path, mirror, model):
    shutil.copytree(model, tmp_path / "nan")
    weights = load_file(tmp_path / "nan/model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, tmp_path / "nan/model.safetensors", metadata={"format": "pt"})
    part = build_tasks(mirror, limits={"Winogrande": 2}, columns=["Winogrande"])
    with pytest.raises(UserError, match=r"winogrande item \d+: is NaN"):
        evaluate_h6(tmp_path / "nan", part, tmp_path / "out", work=tmp_path / "work")
    assert not (tmp_path / "out/scores.json").exists()


@pytest.mark.parametrize(("name", "settings"), [("missing", {}), ("empty", {}), (None, {"dtype": "int8"})])
def test_models_that_cannot_be_loaded(tmp_path, mirror, model, name, settings):
    part = build_tasks(mirror, limits={"Winogrande": 2}, columns=["Winogrande"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        evaluate_h6(tmp_path / name if name else model, part, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path, mirror, model):
    import torch

    shutil.copytree(model, tmp_path / "pickled")
    weights = load_file(tmp_path / "pickled/model.safetensors")
    (tmp_path / "pickled/model.safetensors").unlink()
    torch.save({k: torch.tensor(v) for k, v in weights.items()}, tmp_path / "pickled/pytorch_model.bin")
    part = build_tasks(mirror, limits={"Winogrande": 2}, columns=["Winogrande"])
    with pytest.raises(UserError, match="pickled"):
        evaluate_h6(tmp_path / "pickled", part, tmp_path / "out")


def test_the_digest_names_the_weights(model, tmp_path):
    shutil.copytree(model, tmp_path / "same")
    assert model_digest(tmp_path / "same") == model_digest(model)
    weights = load_file(tmp_path / "same/model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "same/model.safetensors", metadata={"format": "pt"})
    assert model_digest(tmp_path / "same") != model_digest(model)


KILLED = """
import os, signal, sys
from pathlib import Path
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.journal import Journal
from solar_repro.h6.tasks import build_tasks

mirror, model, out, work = map(Path, sys.argv[1:5])
add, last = Journal.add_partial, int(sys.argv[5])

def add_and_die(self, *arguments):
    add(self, *arguments)
    if self.answered == last:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add_partial = add_and_die
tasks = build_tasks(mirror, limits={"ARC": 5}, subjects=sys.argv[6:], columns=["ARC", "MMLU"])
evaluate_h6(model, tasks, out, batch_tokens=256, work=work)
"""


def test_a_killed_run_goes_on_where_it_stopped(mirror, model, tmp_path):
    """kill -9 in the middle of MMLU: what was answered is not computed again, the scores are the same."""
    part = build_tasks(mirror, limits={"ARC": 5}, subjects=SUBJECTS, columns=["ARC", "MMLU"])
    arc = sum(len(requests) for loaded in part.of("ARC") for requests in loaded.instances)
    mmlu = sum(len(requests) for loaded in part.of("MMLU") for requests in loaded.instances)
    out, work = tmp_path / "out", tmp_path / "work"
    places = [str(mirror), str(model), str(out), str(work), str(arc + mmlu // 2), *SUBJECTS]
    killed = subprocess.run([sys.executable, "-c", KILLED, *places], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "scores.json").exists()
    (journal,) = work.glob("*.jsonl")
    kept = journal.read_bytes()
    assert kept.count(b"\n") == arc + mmlu // 2
    journal.write_bytes(kept + b'["torn')  # what a kill inside a write leaves behind

    resumed = evaluate_h6(model, part, out, batch_tokens=256, work=work)
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert journal.read_bytes().startswith(kept)
    assert len(lines) == len({key for key, _ in lines}) == arc + mmlu
    assert resumed == evaluate_h6(model, part, tmp_path / "plain", batch_tokens=256)
