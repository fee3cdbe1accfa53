"""Results of claims in words and as forest plots, from made-up differences."""

import pytest

from benchmarks.compare import claim_rows
from benchmarks.paper.claims import CLAIMS, Claim, Figure, Part
from benchmarks.power import Missing
from benchmarks.report.forest import forests
from benchmarks.report.page import page
from benchmarks.report.text_tables import undecided_parts
from benchmarks.verdicts import PartResult, Result, judge_part, together
from benchmarks.wording import needed, says, summary
from solar_repro.h6.compare_items import Difference
from tests.benchmarks.fakes import fake_runs


def part(expected="more", column="GSM8K", other="sft_v1"):
    return Part(Figure("sft_v2", column), expected, Figure(other, column))


def result(*found, name="C3", title="the math data helps", contradicted=""):
    """A claim's result from (part, value, stderr, the paper's difference)."""
    claim = Claim(name, "Sec. 4", "It helps.", tuple(one[0] for one in found), contradicted, title)
    parts = []
    for one, value, stderr, paper in found:
        difference = Difference(value, value, stderr**2, 1e9, (value,), 100)
        verdict = judge_part(one, difference, len(found))
        parts.append(PartResult(one, paper, difference, verdict))
    return Result(claim, tuple(parts), together([one.verdict for one in parts]), 1)


REPRODUCED = result((part(), 9.0, 2.0, 6.8))
CONTRADICTED = result((part("less"), 9.0, 2.0, -3.0), name="C8", title="the base is worse")
UNDECIDED = result((part(), 1.0, 2.0, 0.5), (part(column="H6"), 0.5, 1.0, 0.3), name="C9")
ON_THE_BOUNDARY = result((part(), 0.0, 2.0, 0.5), name="C5")


def test_every_claim_has_a_title():
    assert all(claim.title and not claim.title.endswith(".") for claim in CLAIMS)


def test_summary_says_what_is_reproduced_contradicted_and_not_told():
    assert summary([REPRODUCED, CONTRADICTED, UNDECIDED, ON_THE_BOUNDARY]) == (
        "Of the paper's 4 claims, these runs reproduce 1: C3 (the math data helps). They contradict 1: C8 "
        "(the "
        "base is worse), for sft_v2 GSM8K minus sft_v1 GSM8K is +9.00 points (+5.08 … +12.92). They cannot "
        "tell "
        "2: C9, C5. The reason is that the benchmarks have few items: the smallest effect that they tell "
        "is 5.6 "
        "points on one benchmark and 2.8 points on H6, and the paper's differences there are 0.5 points "
        "(medians). If the differences and the spread stay as seen, more items would first "
        "decide C9 (32 times as many). More items alone would not decide C5."
    )


def test_summary_of_what_is_all_decided_or_has_no_runs():
    assert summary([REPRODUCED]).endswith("They contradict none. They decide every one.")
    missing = Result(CLAIMS[0], (), "no runs", 0)
    assert summary([missing]) == "There are no runs yet, so none of the paper's claims is judged."
    assert summary([REPRODUCED, missing]).endswith("For 1 more, models have no runs.")


def test_summary_says_when_the_papers_tables_contradict_too():
    both = result((part("less"), 9.0, 2.0, 3.0), contradicted="they say more.")
    assert "(+5.08 … +12.92), and the paper's own tables contradict it too." in summary([both])


def test_summary_names_the_seeds_where_they_differ_most():
    seeds = Difference(1.0, 1.0, 0.01, 99.0, (1.0, 4.0, -2.0), 100)
    found = PartResult(part(), 0.5, seeds, "undecided")
    text = summary([Result(CLAIMS[2], (found,), "undecided", 3)])
    assert "The reason is that the 3 seeds differ from each other: " in text


@pytest.mark.parametrize(
    ("lack", "text"),
    [
        (Missing(5.0, 7.74, 774, None, None), "780 items (× 7.8)"),
        (Missing(5.0, 42.0, 4217, 12, None), "4,300 items (× 42) or 12 seeds"),
        (Missing(5.0, None, None, 12, None), "12 seeds"),
        (Missing(5.0, None, None, None, 3.0), "3.0 times the items and the seeds"),
        (Missing(5.0, None, None, None, None), "over 10,000 times as many"),
    ],
)
def test_what_would_decide_a_part(lack, text):
    assert needed(lack) == text


def test_a_part_is_a_sentence():
    assert says(part("not less")) == "sft_v2 GSM8K is not less than sft_v1 GSM8K"
    assert says(Part(Figure("merge_v1", "contamination/ARC"), "less", 90.0)) == (
        "share of ARC below 0.1 is less than 90 %"
    )


def test_undecided_parts_are_listed_with_what_they_lack():
    (head, _, *lines) = undecided_parts([REPRODUCED, UNDECIDED]).markdown().splitlines()
    assert head.startswith("| claim | part | paper Δ | our Δ | boundary | smallest effect told |")
    assert len(lines) == 2
    assert lines[0] == (
        "| C9 | sft_v2 GSM8K is more than sft_v1 GSM8K | +0.50 | +1.00 | 0 | 5.60 | 3,200 items (× 32) |"
    )
    assert undecided_parts([REPRODUCED]).rows == ()
    rows = claim_rows([REPRODUCED, UNDECIDED])
    assert [row["smallest_effect"] is None for row in rows] == [True, False, False]
    assert 3100 < rows[1]["items_to_decide"] < 3200


def test_forest_shows_interval_claimed_region_margin_and_paper_on_one_axis():
    (found,) = forests(result((part(), 5.0, 2.0, 7.0), (part("same", "ARC"), 0.0, 3.0, None)))
    first, second = found.lines
    start, width = first.span
    assert found.zero < start < first.ours < first.paper < 100
    assert start + width / 2 == pytest.approx(first.ours, abs=0.02)
    assert first.claimed == (found.zero, pytest.approx(100 - found.zero))
    assert second.claimed == (found.margins[0], pytest.approx(found.margins[1] - found.margins[0], abs=0.02))
    assert second.paper is None
    assert (found.zero, "0") in found.ticks
    assert len(found.ticks) > 2
    assert first.told == "ours +5.00 (+1.08 … +8.92), the paper's +7.00"


def test_losses_have_an_axis_of_their_own():
    found = forests(result((part(), 5.0, 2.0, 7.0), (part(column="loss"), 0.02, 0.01, None)))
    assert [one.unit for one in found] == ["points", "nats per token"]


def test_a_part_that_is_ten_times_larger_does_not_share_the_axis_of_the_small_ones():
    small, smaller, large = (part(column="loss", other=other) for other in ("base", "solar", "sft_v1"))
    found = forests(result((small, 0.03, 0.01, None), (large, -4.0, 0.1, None), (smaller, 0.01, 0.001, None)))
    assert [[line.text for line in one.lines] for one in found] == [
        [says(small), says(smaller)],
        [says(large)],
    ]
    assert found[0].lines[1].span[1] > 5  # percent of the axis


def test_page_draws_a_forest_for_each_claim_and_says_what_is_missing():
    text = page(fake_runs({}), [REPRODUCED, UNDECIDED], {}, "a caveat", {})
    assert text.count('<div class="forest">') == 2
    assert text.count('<div class="track" role="img"') == 3
    assert "3,200 items (× 32)" in text
    assert text.index("these runs reproduce 1: C3") < text.index("a caveat") < text.index("<summary>")
