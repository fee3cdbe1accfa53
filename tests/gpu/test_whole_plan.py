"""The whole plan on one GPU, beside what a CPU has made of it."""

import pytest

from benchmarks.regression import FOLDER, measure, moved, read_baseline
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from solar_repro.tracking.tracker import Tracker


@pytest.mark.usefixtures("own_place")
def test_the_scores_are_those_of_the_baseline(place):
    """By the regression gate's own comparison, of all that it holds but times."""
    baseline = read_baseline(FOLDER / "check.json", "check")
    assert baseline["machine"]["device"] == "cpu"
    found = measure([Plan(load_scale("check"))], Tracker("test", "check"))
    assert found["machine"]["device"] == place
    assert [line.text for line in moved(baseline, found | {"seconds": {}})] == []
