"""A stage whose results change has to get another version: its old results would be taken for new ones."""

import json

import pytest

from tests.stages.golden import FILE, results

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))
ADVICE = (
    "results changed: raise the version of the stage in solar_repro/stages/table.py (of those that read rows "
    "also VERSION in solar_repro/data/), then run: python -m tests.stages.golden"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results(tmp_path_factory.mktemp("golden"))


def test_the_same_steps_are_made(found):
    assert found.keys() == EXPECTED.keys()


@pytest.mark.parametrize("label", EXPECTED)
def test_results_are_those_of_the_stages_version(found, label):
    expected = EXPECTED[label]
    if "digest" in expected:
        assert found[label] == expected, ADVICE
    else:
        # Another CPU rounds elsewhere: by less than any change of an algorithm.
        assert found[label] == pytest.approx(expected, rel=2e-3, abs=1e-6), ADVICE
