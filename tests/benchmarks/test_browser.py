"""What a user sees: the report in light, dark and on a phone, and the runs in the MLflow UI."""

import json
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

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


def test_ui_lists_the_runs_by_variant(browser, ui, runs):
    browser.resize(1600, 1400)
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}/runs")
    browser.wait_for_text("main check")
    browser.wait_for("return document.querySelector('.ag-row button') !== null")
    browser.click("//*[contains(@class, 'ag-row')]//button")  # the runs nested under it
    browser.wait_for_text("merge_v4", "merge_v1.contamination")


def test_ui_compares_the_runs_of_a_table(browser, ui, runs):
    chosen = [runs[f"sft_v{number}"].run_id for number in range(1, 5)]
    experiments = [runs["sft_v1"].experiment_id]
    browser.open(
        f"{ui}/#/compare-runs?runs={quote(json.dumps(chosen))}&experiments={quote(json.dumps(experiments))}"
    )
    browser.wait_for_text(
        "Comparing 4 Runs", "sft_v1", "sft_v4", "datasets.openorca.maximum_samples", "GSM8K"
    )


def test_ui_compares_checkpoints_by_their_scores(browser, ui, runs):
    browser.resize(5000, 1400)  # columns out of sight are not there
    browser.open(f"{ui}/#/experiments/{runs['sft_v1'].experiment_id}/models")
    browser.wait_for_text("merge_v1", "allenai/ai2_arc")


def test_ui_shows_pictures_and_the_report(browser, ui, runs):
    main = runs["main check"]
    artifacts = f"{ui}/#/experiments/{main.experiment_id}/runs/{main.run_id}/artifacts/report"
    browser.open(f"{artifacts}/h6.png")
    browser.wait_for("return [...document.images].some(image => image.naturalWidth > 800)")
    browser.open(f"{artifacts}/compare.html")
    browser.wait_for("return document.querySelector('iframe') !== null")
    browser.into_frame()
    browser.wait_for_text("The paper's claims", "Table 7")
