"""What the UI shows of a whole reproduction, before a browser shows it."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from benchmarks.paper.claims import CLAIMS
from benchmarks.run_page import compare_path, headline, note, ui_lines
from benchmarks.tables import TABLES
from benchmarks.verdicts import judge
from solar_repro.paper import variants
from solar_repro.tracking.descriptions import MAX_NOTE_CHARACTERS
from tests.benchmarks.fakes import fake_runs

EVERY = {**variants.PAPER, **variants.CONTROLS}


@pytest.fixture
def runs():
    """Every model at a score of its own."""
    scores = {name: 30.0 + number for number, name in enumerate(EVERY)}
    return fake_runs(scores, {name: {} for name in EVERY})


def test_the_description_has_verdicts_scores_and_command_and_fits(runs):
    results = judge(CLAIMS, runs, TABLES)
    text = note(runs, results, "A caveat.", "mlflow run . -e main")
    assert len(text) <= MAX_NOTE_CHARACTERS
    assert not text.endswith("…")
    assert text.startswith(
        f"**SOLAR 10.7B at scale `check`, beside the paper. Of {len(CLAIMS)} claims: 0 repr"
    )
    assert "```\nmlflow run . -e main\n```" in text
    for claim in CLAIMS:
        assert f"| {claim.name} | {claim.statement} |" in text
    for name in EVERY:
        assert f"| [{name}](#/experiments/1/runs/run-{name}?" in text
    merged = next(line for line in text.splitlines() if line.startswith("| [merge_v1]("))
    assert merged.endswith("| 74.00 | 44.00 | – |")  # Table 7's and ours


def test_headline_figures(runs):
    results = judge(CLAIMS, runs, TABLES)
    found = headline(runs, results)
    assert found["H6"] == 44.0
    assert sum(value for name, value in found.items() if name.startswith("claims/")) == len(CLAIMS)
    assert set(found) == {
        "H6",
        *(f"claims/{name}" for name in ("reproduced", "not_reproduced", "undecided", "no_runs")),
    }
    assert "H6" not in headline(fake_runs({"base": 3.0}), results)


def test_the_address_that_compares_the_runs_of_a_table(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5001")
    own, line = ui_lines(runs, "run-main", "1").splitlines()
    assert own == (
        "this run in the UI: http://host:5001/#/experiments/1/runs/run-main?workflowType=machine_learning"
    )
    assert line.startswith("Table 3 compared: http://host:5001/#/compare-runs?")
    query = parse_qs(urlsplit(urlsplit(line.split()[-1]).fragment).query)
    assert json.loads(query["runs"][0]) == [f"run-sft_v{n}" for n in (1, 2, 3, 4)] + ["run-sft_v3_v4"]
    assert json.loads(query["experiments"][0]) == ["1"]
    assert query["workflowType"] == ["machine_learning"]


def test_one_run_is_not_compared():
    runs = fake_runs({}, {"sft_v1": {}})
    assert compare_path(runs, 3) is None
    assert "compared" not in ui_lines(runs, "run-main", "1")
