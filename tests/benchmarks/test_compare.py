"""The comparison of real runs: claims, page, CSV, cards, registry, and which runs are chosen."""

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks.compare import claims_markdown, markdown
from benchmarks.report.page import page
from benchmarks.tables import TABLES
from benchmarks.verdicts import judge
from solar_repro import variants
from tests.benchmarks.fakes import fake_runs
from tests.runs import copy_of


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def report(finished):
    return finished.store / "report" / "check"


def test_page_stands_alone_and_opens_with_the_verdicts(report):
    text = (report / "compare.html").read_text(encoding="utf-8")
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]+src|@import|url\((?!#)", text)
    assert text.index("The paper's claims") < text.index("Table 2: ")
    for name in [f"C{number}" for number in range(1, 15)]:
        assert f"<b>{name}</b>" in text
    for figure in ("recovery", "h6", "training", "contamination", "merges", "plan"):
        assert (report / f"{figure}.png").stat().st_size > 2000
        assert (report / f"{figure}.svg").stat().st_size > 2000
    assert text.count("<svg") == 6
    assert "currentColor" in text


def test_page_escapes_what_runs_say():
    planted = "<script>alert(1)</script>"
    tags = {"mlflow.source.git.commit": planted, "solar.version.torch": planted}
    runs = fake_runs({"base": 30.0, planted: 20.0}, **tags)
    text = page(runs, [], {}, planted, {"sft.learning_rate": planted})
    assert text.count("<script>") == 1  # the page's own
    assert text.count("&lt;script&gt;alert(1)") >= 5


def test_claims_are_judged_on_the_runs(report):
    lines = rows_of(report / "claims.csv")
    claims = {line["claim"] for line in lines}
    assert claims == {f"C{number}" for number in range(1, 15)} | {"X1", "X2", "X3"}
    for line in lines:
        assert line["verdict"] in ("reproduced", "not reproduced", "undecided")
        assert float(line["low"]) < float(line["high"])
    assert {line["part_verdict"] for line in lines} <= {"reproduced", "not reproduced", "undecided"}


def test_differences_are_those_of_the_logged_scores(report):
    scores = {
        (line["variant"], line["column"]): float(line["ours"]) for line in rows_of(report / "scores.csv")
    }
    checked = 0
    for line in rows_of(report / "claims.csv"):
        (first, column), (second, _) = line["figure"].split(), [*line["other"].split(), ""][:2]
        if (second, column) in scores and column != "loss":
            expected = scores[first, column] - scores[second, column]
            assert float(line["difference"]) == pytest.approx(expected, abs=1e-6), line
            checked += 1
    assert checked > 50


def test_markdown_has_every_table_and_marks_what_is_missing():
    runs = fake_runs({"base": 30.0, "solar": 40.0})
    text = markdown(runs, judge((), runs, TABLES), "a caveat")
    for table in range(1, 10):
        assert f"## Table {table}: " in text
    assert "| SOLAR 10.7B | 66.04 → **40.00** ± 0.50 (-26.04) |" in text
    assert "| base | 3.0000 | +0.0000 |" in text
    assert "a caveat" in text


def test_claims_without_runs_say_so():
    from benchmarks.paper.claims import CLAIMS

    results = judge(CLAIMS, fake_runs({}), TABLES)
    assert {result.verdict for result in results} == {"no runs"}
    assert claims_markdown(results).count("no runs") == len(CLAIMS)


def test_model_cards_name_lineage_scores_and_licence(report):
    cards = {file.stem: file.read_text(encoding="utf-8") for file in (report / "model_cards").iterdir()}
    assert set(cards) == {"solar", "merge_v1", "merge_v2", "merge_v3", "merge_v4"}
    card = cards["merge_v1"]
    for made in variants.lineage("merge_v1"):
        assert f"| `{made.name}` | {made.stage} |" in card
    assert "74.20 | 71.08" in card
    assert card.startswith("---\nlicense: apache-2.0\n")  # the embedded world's data are the project's own


def test_registered_model_answers_through_its_chat_template(finished):
    import mlflow
    from mlflow.transformers import load_model

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(finished.tracking_uri)
    try:
        pipeline = load_model("models:/solar_instruct@check")
    finally:
        mlflow.set_tracking_uri(before)
    prompt = [{"role": "user", "content": "what does the mole eat ?"}]
    rendered = pipeline.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert rendered == "### User:\nwhat does the mole eat ?\n\n### Assistant:\n"
    (answer,) = pipeline(prompt, max_new_tokens=8, do_sample=False)
    assert [turn["role"] for turn in answer["generated_text"]] == ["user", "assistant"]
    assert answer["generated_text"][1]["content"]
    (version,) = finished.client().search_model_versions("name = 'solar_instruct'")
    assert "SOLAR 10.7B-Instruct" in version.description


def test_runs_can_be_chosen_by_experiment_parent_or_id(finished, tmp_path):
    place = copy_of(finished, tmp_path)
    (main,) = [run for run in place.runs() if run.info.run_name == "main check"]
    steps = json.loads(Path(place.client().download_artifacts(main.info.run_id, "steps.json")).read_text())
    assert len(steps) >= 40
    before = (place.store / "report" / "check" / "claims.csv").read_bytes()
    done = place.entry_point("compare", "--parent", main.info.run_id)
    assert done.returncode == 0, done.stderr
    assert (place.store / "report" / "check" / "claims.csv").read_bytes() == before
    ids = [run_id for label, run_id in steps.items() if label.split()[0] in ("sft_v1", "sft_v2")]
    done = place.entry_point("compare", "--runs", ",".join(ids))
    assert done.returncode == 0, done.stderr
    verdicts = {line["claim"]: line["verdict"] for line in rows_of(place.store / "report/check/claims.csv")}
    assert {name for name, verdict in verdicts.items() if verdict != "no runs"} == {"C4"}
    done = place.entry_point("compare", "--experiment", "nowhere")
    assert done.returncode == 2
    assert "error: experiment 'nowhere': not on this tracking server; it has" in done.stderr
