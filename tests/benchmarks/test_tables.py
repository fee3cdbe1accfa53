import math

import pytest

from benchmarks import tables
from solar_repro.paper.data_sets import DATASETS
from tests.benchmarks.fakes import fake_runs


def test_a_row_without_a_run_shows_the_paper_alone():
    (row, *_) = tables.rows(3, fake_runs({}))
    assert (row.title, row.cells["H6"].paper, row.cells["H6"].ours) == ("SFT v1", 69.15, None)
    assert row.cells["H6"].delta is None
    assert row.order_ours is None


def test_order_is_taken_among_the_rows_that_have_runs():
    runs = fake_runs({"sft_v1": 30.0, "sft_v3": 0.0, "sft_v4": 25.0})
    found = {row.variant: row for row in tables.rows(3, runs)}
    assert [found[name].order_paper for name in ("sft_v1", "sft_v3", "sft_v4")] == [3, 2, 1]
    assert [found[name].order_ours for name in ("sft_v1", "sft_v3", "sft_v4")] == [1, 3, 2]


def test_delta_is_ours_minus_the_papers():
    (row,) = [row for row in tables.rows(4, fake_runs({"dpo_v1": 70.0})) if row.variant == "dpo_v1"]
    assert row.cells["GSM8K"].delta == pytest.approx(70.0 - 58.83)


def test_error_over_seeds_is_that_of_items_and_of_seeds():
    mean, stderr = tables.score(fake_runs({"sft_v1": [30.0, 33.0, 36.0]}), "sft_v1", "H6")
    assert mean == pytest.approx(33)
    assert stderr == pytest.approx(math.sqrt(0.5**2 + 3**2 / 3))


def test_other_models_can_stand_beside_the_rows():
    row = tables.rows(2, fake_runs({"given": 10.0}), {"Yi 34B": "given"})
    assert {found.title for found in row if found.cells["H6"].ours} == {"Yi 34B"}


def test_losses_are_set_against_the_bases():
    losses = tables.loss_rows(fake_runs({"upscaled": 40.0, "base": 30.0, "sft_v1": 20.0}))
    assert losses == [("base", 3.0, 0.0), ("upscaled", 4.0, pytest.approx(1.0))]


def test_table_8_and_1_come_from_the_runs_metrics():
    runs = fake_runs(
        {},
        training={
            "sft_v2": {"data/openorca/used": 90.0, "data/openorca/removed/drop:2.0.0": 7.0},
            "sft_v3": {"data/openorca/used": 100.0, "data/openorca/removed/drop:2.0.0": 7.0},
        },
    )
    assert dict(tables.filter_rows(runs))["drop:2.0.0"] == 7
    assert dict(tables.filter_rows(runs))["cot_gsm8k"] is None
    assert ("OpenOrca", DATASETS["openorca"].maximum_samples, 100) in tables.data_rows(runs)


def test_csv_has_a_line_for_every_cell_we_have():
    lines = list(tables.csv_rows(fake_runs({"merge_v1": 50.0, "upscaled": 40.0})))
    named = [(line["table"], line["variant"]) for line in lines if line["column"] == "H6"]
    assert named == [("Table 2", "merge_v1"), ("Table 7", "merge_v1"), ("", "upscaled")]
    assert lines[0]["delta"] == pytest.approx(50.0 - 74.20)


def test_table_for_a_terminal_sets_ours_below_the_papers():
    text = tables.table_text(4, fake_runs({"dpo_v1": 70.0})).splitlines()
    assert text[0] == "Table 4 at scale check"
    assert text[1].split() == tables.SCORE_COLUMNS
    assert text[2].split()[:4] == ["DPO", "v1", "paper", "73.06"]
    assert text[3].split()[:4] == ["ours", "70.00", "±", "0.50"]
    assert len({len(line) for line in text[1:]}) == 1
