"""The comparison of real runs: claims, page, CSV, cards, registry, and which runs are chosen."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.compare import claim_rows, claims_markdown, markdown
from benchmarks.find_runs import of_server
from benchmarks.paper.claims import CLAIMS
from benchmarks.report.page import page
from benchmarks.tables import TABLES, contamination_rows
from benchmarks.verdicts import judge
from solar_repro.errors import UserError
from solar_repro.paper import variants
from tests.benchmarks.fakes import fake_runs
from tests.runs import EXPERIMENT


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


def test_page_tells_what_became_of_the_rows(report):
    text = (report / "compare.html").read_text(encoding="utf-8")
    for name in ("alpaca_gpt4", "openorca", "synth_math_instruct", "ultrafeedback", "synth_math_alignment"):
        assert f"<td>{name}</td>" in text


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
        first, second = (tuple(line[side].split(" ", 1)) for side in ("figure", "other"))
        if first in scores and second in scores:
            expected = scores[first] - scores[second]
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
    results = judge(CLAIMS, fake_runs({}), TABLES)
    assert {result.verdict for result in results} == {"no runs"}
    assert claims_markdown(results).count("no runs") == len(CLAIMS)


def test_model_cards_name_lineage_scores_and_licence(report):
    cards = {file.stem: file.read_text(encoding="utf-8") for file in (report / "model_cards").iterdir()}
    assert set(cards) == {"solar", "merge_v1", "merge_v2", "merge_v3", "merge_v4"}
    card = cards["merge_v1"]
    assert yaml.safe_load(card.split("---")[1])["datasets"] == []  # the hub has none of them
    for made in variants.lineage("merge_v1"):
        assert f"| `{made.name}` | {made.stage} |" in card
    assert "74.20 | 71.08" in card
    assert card.startswith("---\nlicense: apache-2.0\n")  # the embedded world's data are the project's own


def test_registered_model_answers_through_its_chat_template(place):
    from mlflow.transformers import load_model

    pipeline = load_model("models:/solar_instruct@check")
    prompt = [{"role": "user", "content": "what does the mole eat ?"}]
    rendered = pipeline.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    bos = pipeline.tokenizer.bos_token
    assert rendered == f"{bos}### User:\nwhat does the mole eat ?\n\n### Assistant:\n"
    (answer,) = pipeline(prompt, max_new_tokens=8, do_sample=False)
    assert [turn["role"] for turn in answer["generated_text"]] == ["user", "assistant"]
    assert answer["generated_text"][1]["content"]
    (version,) = place.client().search_model_versions("name = 'solar_instruct'")
    assert "SOLAR 10.7B-Instruct" in version.description


def test_runs_can_be_chosen_by_experiment_parent_or_id(place, tracker, report):
    main, *_ = [run for run in place.runs() if run.info.run_name == "main check"]
    claims = rows_of(report / "claims.csv")
    for chosen in ({"parent": main.info.run_id}, {"experiment": EXPERIMENT}):
        lines = claim_rows(judge(CLAIMS, of_server("check", tracker, **chosen), TABLES))
        assert [line["verdict"] for line in lines] == [line["verdict"] for line in claims]
    steps = json.loads(Path(place.client().download_artifacts(main.info.run_id, "steps.json")).read_text())
    ids = [run_id for label, run_id in steps.items() if label.split()[0] in ("sft_v1", "sft_v2")]
    results = judge(CLAIMS, of_server("check", tracker, ids=ids), TABLES)
    assert [found.claim.name for found in results if found.verdict != "no runs"] == ["C4"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"experiment": "nowhere"}, "experiment 'nowhere': not on this tracking server; it has"),
        ({"parent": "0" * 32}, "not on this tracking server, or it made no steps"),
        ({"ids": ["0" * 32]}, "not on this tracking server; the UI lists its runs"),
        ({"experiment": "Default"}, "experiment 'Default': no finished run of scale check"),
    ],
)
def test_runs_that_are_not_there_are_the_users_mistake(tracker, chosen, message):
    with pytest.raises(UserError, match=re.escape(message)):
        of_server("check", tracker, **chosen)


def test_results_in_no_store_of_this_machine_come_from_the_server(place, tracker):
    shutil.rmtree(place.store)
    runs = of_server("check", tracker, experiment=EXPERIMENT)
    for kind in runs.found.values():
        for run in [run for seeds in kind.values() for run in seeds.values()]:
            run.data.tags["solar.output"] = "/nowhere"
    assert runs.items("sft_v1", "ARC", ["42"]).values.shape == (1, 6)
    assert runs.items("merge_v1", "contamination/ARC", ["42"]).values.shape == (1, 6)
    assert runs.note(runs.first("model", "sft_v1"), "data/alpaca_gpt4.json")["rows"]["used"]
    assert runs.note(runs.first("model", "sft_v1"), "data/nothing.json") is None


def test_the_positive_control_stands_beside_table_9(place, tracker):
    rows = {row.task: row for row in contamination_rows(of_server("check", tracker, experiment=EXPERIMENT))}
    assert rows["HellaSwag"].control is None  # not tested in the paper
    for task in ("ARC", "MMLU", "GSM8K"):
        assert rows[task].control >= rows[task].ours
        assert rows[task].control_min_k_pp > rows[task].min_k_pp
