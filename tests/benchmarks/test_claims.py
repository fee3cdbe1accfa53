import pytest

from benchmarks.paper.claims import CLAIMS, Claim, Figure, Part
from benchmarks.tables import TABLES
from benchmarks.verdicts import judge_part, paper_difference, paper_holds, together
from solar_repro.h6.compare_items import Difference
from solar_repro.paper import variants


def found(value, stderr):
    """A difference with a normal error."""
    return Difference(value, value, stderr**2, 1e9, (value,), 100)


def part(expected, column="H6"):
    return Part(Figure("sft_v2", column), expected, Figure("sft_v1", column))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_papers_own_tables_agree_unless_a_contradiction_is_listed(claim):
    # Sec. 2 prints no loss after up-scaling, so that C2 has no figures.
    assert paper_holds(claim, TABLES) is (None if claim.name == "C2" else not claim.contradicted)


def test_claims_are_c1_to_c14_and_the_papers_contradictions():
    assert [claim.name for claim in CLAIMS] == [f"C{n}" for n in range(1, 15)] + ["X1", "X2", "X3"]
    for claim in CLAIMS:
        for name in claim.variants:
            assert name in variants.MAIN  # `main` makes all that the claims need


@pytest.mark.parametrize(
    ("figure", "other", "expected"),
    [
        (Figure("sft_v3", "GSM8K"), Figure("sft_v2", "GSM8K"), 64.14 - 57.32),
        (Figure("merge_v1", "H6"), Figure("cand_2", "H6"), 74.00 - 73.28),  # Table 7's, not Table 2's 74.20
        (Figure("merge_v1", "contamination/GSM8K"), 90.0, 70.0 - 90.0),
        (Figure("merge_v1", "contamination/Winogrande"), 90.0, None),
        (Figure("upscaled", "loss"), Figure("base", "loss"), None),
    ],
)
def test_differences_of_printed_figures(figure, other, expected):
    assert paper_difference(Part(figure, "more", other), TABLES) == (
        expected if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("expected", "value", "stderr", "verdict"),
    [
        ("more", 5.0, 1.0, "reproduced"),
        ("more", 1.0, 1.0, "undecided"),
        ("more", -5.0, 1.0, "not reproduced"),
        ("less", -5.0, 1.0, "reproduced"),
        ("less", 5.0, 1.0, "not reproduced"),
        ("not less", 0.0, 0.1, "reproduced"),
        ("not less", -0.5, 0.1, "not reproduced"),  # a small loss that is certain is a loss
        ("not less", -0.5, 2.0, "undecided"),
        ("not more", 0.5, 0.1, "not reproduced"),
        ("not more", -3.0, 1.0, "reproduced"),
        ("same", 0.5, 0.1, "reproduced"),
        ("same", 0.5, 2.0, "undecided"),
        ("same", -3.0, 0.5, "not reproduced"),
    ],
)
def test_verdict_follows_from_the_interval(expected, value, stderr, verdict):
    assert judge_part(part(expected), found(value, stderr), parts=1) == verdict


def test_refuting_one_of_many_parts_takes_a_wider_interval():
    assert judge_part(part("more"), found(-2.2, 1.0), parts=1) == "not reproduced"
    assert judge_part(part("more"), found(-2.2, 1.0), parts=10) == "undecided"


def test_the_margin_of_a_loss_is_in_nats():
    assert judge_part(part("same", "loss"), found(0.5, 0.001), parts=1) == "not reproduced"
    assert judge_part(part("same", "loss"), found(0.005, 0.001), parts=1) == "reproduced"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["reproduced", "reproduced"], "reproduced"),
        (["reproduced", "undecided"], "undecided"),
        (["undecided", "not reproduced", "reproduced"], "not reproduced"),
        (["no runs", "reproduced"], "undecided"),
        (["no runs", "no runs"], "no runs"),
    ],
)
def test_a_claim_stands_or_falls_with_its_parts(verdicts, expected):
    assert together(verdicts) == expected


def test_a_figures_variants_are_listed_once():
    claim = Claim("", "", "", (part("more"), part("less", "ARC"), Part(Figure("base", "H6"), "more", 3.0)))
    assert claim.variants == ("sft_v2", "sft_v1", "base")
