import dataclasses

import pytest

from benchmarks import compare
from solar_repro import scales, variants
from solar_repro.plan import Plan


def scores(**h6):
    """Runs whose variants have these H6 and the same score on every task."""
    metrics = {
        name: dict.fromkeys(compare.COLUMNS, value)
        | {f"{column}_stderr": 0.5 for column in compare.COLUMNS}
        | {"held_out_loss": value / 10}
        for name, value in h6.items()
    }
    return compare.Runs(metrics, {}, {}, {}, {name: f"run-{name}" for name in h6})


@pytest.fixture(scope="module")
def plan():
    return Plan(scales.load("check"))


def test_a_row_without_a_run_shows_the_paper_alone():
    (row, *_) = compare.rows(3, scores())
    assert (row.title, row.cells["H6"].paper, row.cells["H6"].ours) == ("SFT v1", 69.15, None)
    assert row.cells["H6"].delta is None
    assert row.order_ours is None


def test_order_is_taken_among_the_rows_that_have_runs():
    found = {row.variant: row for row in compare.rows(3, scores(sft_v1=30.0, sft_v3=20.0, sft_v4=25.0))}
    assert [found[name].order_paper for name in ("sft_v1", "sft_v3", "sft_v4")] == [3, 2, 1]
    assert [found[name].order_ours for name in ("sft_v1", "sft_v3", "sft_v4")] == [1, 3, 2]


def test_delta_is_ours_minus_the_papers():
    (row,) = [row for row in compare.rows(4, scores(dpo_v1=70.0)) if row.variant == "dpo_v1"]
    assert row.cells["GSM8K"].delta == pytest.approx(70.0 - 58.83)


def test_markdown_has_every_table_and_marks_what_is_missing(plan):
    text = compare.markdown(plan, scores(base=30.0, solar=40.0))
    for table in range(1, 10):
        assert f"## Table {table}: " in text
    assert "| SOLAR 10.7B | 66.04 → **40.00** ± 0.50 (-26.04) |" in text
    assert "| base | 3.0000 |" in text
    assert "not comparable in size" in text


def test_pages_escape_what_runs_and_scales_say():
    runs = dataclasses.replace(scores(base=30.0), run_ids={"base": "<script>alert(1)</script>"})
    planted = Plan(scales.load("check", {"description": "A world <script>alert(2)</script>."}))
    page = compare.html(planted, runs, {"scores": "<svg></svg>"})
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 2
    assert "<script>" not in compare.markdown(planted, runs)


def test_table_8_and_1_come_from_the_runs_metrics():
    runs = dataclasses.replace(
        scores(),
        training={
            "sft_v2": {"data/openorca/used": 90.0, "data/openorca/removed/drop:2.0.0": 7.0},
            "sft_v3": {"data/openorca/used": 100.0, "data/openorca/removed/drop:2.0.0": 7.0},
        },
    )
    assert dict(compare.filter_rows(runs))["drop:2.0.0"] == 7
    assert dict(compare.filter_rows(runs))["cot_gsm8k"] is None
    assert ("OpenOrca", variants.DATASETS["openorca"].maximum_samples, 100) in compare.data_rows(runs)


def test_table_for_a_terminal_sets_ours_below_the_papers():
    text = compare.table_text(4, scores(dpo_v1=70.0), "check").splitlines()
    assert text[0] == "Table 4 at scale check"
    assert text[1].split() == compare.COLUMNS
    assert text[2].split()[:4] == ["DPO", "v1", "paper", "73.06"]
    assert text[3].split()[:4] == ["ours", "70.00", "±", "0.50"]
    assert len({len(line) for line in text[1:]}) == 1
