"""What a user sees: the report in light, dark and on a phone, and the runs in the MLflow UI."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.run_page import compare_path
from benchmarks.runs import MODEL, Runs
from solar_repro.paper import variants
from solar_repro.tracking.descriptions import MODEL_TRAINING, run_path
from tests.browser import chromium, free_port, serving
from tests.conftest import ROOT
from tests.runs import EXPERIMENT, for_servers


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def ui(browser, finished, tmp_path_factory):
    """Address of a real `mlflow server` with the finished runs."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1"),
        *("--port", str(port), "--backend-store-uri", finished.tracking_uri, "--workers", "1"),
    ]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with serving(command, f"{address}/health", log, cwd=ROOT, env=for_servers()):
        yield address


@pytest.fixture(scope="module")
def runs(finished):
    """The runs of `main`, by name."""
    (experiment,) = {r.info.experiment_id for r in finished.runs() if r.info.run_name == "sft_v1"}
    assert finished.client().get_experiment(experiment).name == EXPERIMENT
    return {run.info.run_name: run.info for run in finished.runs()}


def address_of(browser, text, whole=False):
    """Where the first link goes whose text begins so, or is `whole` so."""
    begins = f"=== '{text}'" if whole else f".startsWith('{text}')"
    find = f"[...document.querySelectorAll('a')].find(link => link.innerText{begins})"
    return browser.wait_for(f"const found = {find}; return found && found.href")


def test_report_in_light_dark_and_on_a_phone(browser, finished):
    page = (finished.store / "report" / "check" / "compare.html").as_uri()
    paper = {}
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
        browser.prefer(scheme)
        browser.resize(width, 900)
        browser.open(page)
        browser.wait_for_text("The paper's claims", "C14", "Table 7", "Environment")
        assert browser.script("return performance.getEntriesByType('resource').length") == 0
        # Tables scroll within their boxes, the page itself does not.
        assert browser.script("return document.documentElement.scrollWidth") <= width
        colour = browser.script("return getComputedStyle(document.body).backgroundColor")
        # Every part that has runs is drawn within its axis, with text of a readable size on a phone too.
        browser.script("document.querySelectorAll('details').forEach(claim => claim.open = true)")
        outside = (
            "return [...document.querySelectorAll('.forest .span, .forest .ours, .forest "
            ".its')].filter(mark => {"
            "const [own, track] = [mark, mark.parentElement].map(found => found.getBoundingClientRect());"
            "return own.left < track.left - 8 || own.right > track.right + 8 }).length"
        )
        assert browser.script(outside) == 0
        sizes = (
            "return [...document.querySelectorAll('.forest .part > :first-child small')]"
            ".map(text => parseFloat(getComputedStyle(text).fontSize))"
        )
        assert min(browser.script(sizes)) >= 12
        tracks = "return [...document.querySelectorAll('.forest .track')].map(track => track.offsetWidth)"
        assert min(browser.script(tracks)) >= 300
        assert browser.script("return document.documentElement.scrollWidth") <= width
        paper[scheme] = sum(int(part) for part in colour.strip("rgb()").split(","))
        inks = browser.script(
            "const texts = [...document.querySelectorAll('svg text')];"
            "return [...new Set(texts.map(text => getComputedStyle(text).fill))]"
        )
        assert inks == [browser.script("return getComputedStyle(document.body).color")]
    assert paper["dark"] < 3 * 80 < 3 * 200 < paper["light"]


def test_tables_of_the_report_are_sorted_by_a_click(browser, finished):
    browser.prefer("light")
    browser.open((finished.store / "report" / "check" / "compare.html").as_uri())
    column = (
        "const table = document.querySelector('#table-3').nextElementSibling.nextElementSibling"
        ".querySelector('table');"
        "{}; return [...table.tBodies[0].rows].map(row => parseFloat(row.cells[1].dataset.value))"
    )
    click = "table.tHead.rows[0].cells[1].click()"
    before = browser.script(column.format(""))
    assert browser.script(column.format(click)) == sorted(before, reverse=True)
    assert browser.script(column.format(click)) == sorted(before)


@pytest.mark.slow
def test_ui_begins_with_the_experiments_description_and_a_link_to_its_runs(browser, ui, runs):
    browser.resize(1600, 1400)
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}")
    browser.wait_for_text("Open the runs", "SOLAR 10.7B, reproduced", "Which columns to show")
    browser.open(address_of(browser, "Open the runs"))
    browser.wait_for_text("Runs", "Model registry", "main check")
    assert "Sessions" not in browser.text()  # what the GenAI mode has instead


@pytest.mark.slow
def test_ui_lists_the_runs_by_variant(browser, ui, runs):
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}/runs?{MODEL_TRAINING}")
    browser.wait_for_text("main check")
    browser.wait_for("return document.querySelector('.ag-row button') !== null")
    browser.click("//*[contains(@class, 'ag-row')]//button")  # the runs nested under it
    browser.wait_for_text("merge_v4", "merge_v1.contamination")


@pytest.mark.slow
def test_ui_has_a_saved_view_of_the_scores(browser, ui, runs):
    browser.resize(2400, 1400)
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}?{MODEL_TRAINING}")
    browser.wait_for_text("The scores of all models")
    browser.open(address_of(browser, "The scores of all models"))
    browser.wait_for_text("Scores of the models", "21 matching runs", "TruthfulQA", "scratch_continued")
    assert "sft_v1.evaluate" not in browser.text()


@pytest.mark.slow
def test_ui_shows_verdicts_scores_and_command_of_the_whole(browser, ui, runs):
    main = runs["main check"]
    browser.open(f"{ui}/{run_path(main.experiment_id, main.run_id)}")
    browser.wait_for_text(
        "Of 17 claims: ",
        "H6 of the instruct model: ",
        "The command that makes it",
        "mlflow run . -e main --env-manager local -P scale=check",
        "claims/undecided",
        "peak_memory_megabytes",
        "Child runs",
    )
    text = browser.text()
    assert re.search(r"merge_v4\t73\.96\t\d+\.\d\d\t", text)
    assert re.search(r"C14\t.+\t(reproduced|not reproduced|undecided)", text)
    assert re.search(r"Created by\n\S+", text)
    browser.open(address_of(browser, "Table 7"))
    browser.wait_for_text("Comparing 4 Runs", "merge_v1", "merge_v4")


@pytest.mark.slow
def test_ui_shows_a_step_its_parents_and_its_checkpoint(browser, ui, runs):
    run = runs["sft_v3"]
    browser.open(f"{ui}/{run_path(run.experiment_id, run.run_id)}")
    browser.wait_for_text(
        "Instruction tuning (Sec. 3). In the paper: Table 3, row “SFT v3”.",
        "Trained on Alpaca-GPT4 (at most 100 rows)",
        "learning_rate = 0.0005",
        "mlflow run . -e sft --env-manager local -P scale=check -P variant=sft_v3",
        "sft.py",
        "Logged models",
    )
    assert re.search(r"Created by\n\S+", browser.text())
    parent = address_of(browser, "solar", whole=True)  # the experiment's name begins so too
    assert "/models/m-" in address_of(browser, "m-")
    browser.open(parent)
    browser.wait_for_text("Continued pretraining (Sec. 2). In the paper: Table 2, row “SOLAR 10.7B”.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft_v3", "sft_v3.evaluate"])
def test_ui_charts_what_a_step_took_of_the_machine(browser, ui, runs, name):
    run = runs[name]
    browser.open(f"{ui}/#/experiments/{run.experiment_id}/runs/{run.run_id}/system-metrics?{MODEL_TRAINING}")
    browser.wait_for_text("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage")


@pytest.mark.slow
def test_ui_charts_the_pictures_of_the_whole(browser, ui, runs):
    main = runs["main check"]
    browser.resize(1600, 3000)
    browser.open(f"{ui}/#/experiments/{main.experiment_id}/runs/{main.run_id}/model-metrics?{MODEL_TRAINING}")
    browser.wait_for_text("undecided", "recovery", "merges")
    browser.wait_for("return [...document.images].some(image => image.naturalWidth > 100)")


@pytest.mark.slow
def test_ui_compares_the_runs_of_a_table(browser, ui, runs, finished):
    found = {name: SimpleNamespace(info=info) for name, info in runs.items()}
    models = {name: {"42": found[name]} for name in variants.PAPER}
    browser.resize(1600, 1400)
    browser.open(f"{ui}/{compare_path(Runs('check', {MODEL: models}, tracker=None), 3)}")
    browser.wait_for_text(
        "Comparing 5 Runs", "sft_v1", "sft_v3_v4", "datasets.openorca.maximum_samples", "GSM8K"
    )


@pytest.mark.slow
def test_ui_compares_checkpoints_by_their_scores(browser, ui, runs):
    browser.resize(5000, 1400)  # columns out of sight are not there
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}/models")
    browser.wait_for_text("merge_v1", "allenai/ai2_arc")


@pytest.mark.slow
def test_ui_shows_pictures_and_the_report(browser, ui, runs):
    main = runs["main check"]
    artifacts = f"{ui}/#/experiments/{main.experiment_id}/runs/{main.run_id}/artifacts/report"
    browser.open(f"{artifacts}/h6.png")
    browser.wait_for("return [...document.images].some(image => image.naturalWidth > 800)")
    browser.open(f"{artifacts}/compare.html")
    browser.wait_for("return document.querySelector('iframe') !== null")
    browser.into_frame()
    browser.wait_for_text("The paper's claims", "Table 7")
