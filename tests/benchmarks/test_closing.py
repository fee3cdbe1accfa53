"""The closing block of `main`: every model once, every claim under its verdict, no line too long."""

from pathlib import Path

import pytest

from benchmarks.closing import KINDS, WHY, closing_text, h6_text, verdicts_text
from benchmarks.paper.claims import CLAIMS
from benchmarks.tables import TABLES
from benchmarks.verdicts import Result
from solar_repro.paper.variants import PAPER
from tests.benchmarks.fakes import fake_runs


def results():
    return [Result(claim, (), KINDS[number % 4], 1) for number, claim in enumerate(CLAIMS)]


def test_every_model_of_the_tables_stands_once_beside_the_paper():
    lines = h6_text(fake_runs({"dpo_v2": 61.234, "solar": 40.0})).splitlines()[2:]
    assert [line.split()[0] for line in lines] == [name for name, found in PAPER.items() if found.rows]
    printed = {row["model"]: row["scores"]["H6"] for row in TABLES["table_4"]["rows"]}
    (line,) = [line for line in lines if line.split()[0] == "dpo_v2"]
    assert line.split() == ["dpo_v2", "DPO", "v2", "61.2", "±", "0.5", f"{printed['DPO v2']:.1f}"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("width", [64, 80, 100])
def test_every_claim_stands_under_its_verdict(width):
    text = verdicts_text(results(), "laptop", width)
    assert all(len(line) <= width for line in text.splitlines())
    assert text.startswith(f"The paper's {len(CLAIMS)} claims")
    words = " ".join(text.split())
    for kind in KINDS:
        of_kind = [one.claim for one in results() if one.verdict == kind]
        assert f"{kind} {len(of_kind)}" in words
        if kind in WHY:
            assert ", ".join(claim.name for claim in of_kind) in words
        else:
            assert all(f"{claim.name} {claim.statement}" in words for claim in of_kind)


def test_a_claim_about_real_weights_says_at_which_scale_to_judge_it():
    first = [Result(claim, (), "reproduced", 1) for claim in CLAIMS if claim.name in ("C2", "C3")]
    says = "(the embedded base is too small for this claim: judge it at scale laptop)"
    assert " ".join(verdicts_text(first, "smoke", 80).split()).count(says) == 1
    assert says not in " ".join(verdicts_text(first, "paper", 80).split())


def test_the_last_lines_say_where_the_report_is_and_what_opens_the_ui(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////place/mlflow.db")
    text = closing_text(fake_runs({"base": 50.0}), results(), Path("store/compare.html"), "registered: it")
    registered, report, ui = text.splitlines()[-3:]
    assert registered == "registered: it"
    assert report == "report: store/compare.html"
    assert ui.startswith("UI: mlflow ui --backend-store-uri ")
