"""The contamination test and its positive control at scale `check`, through the entry point."""

import json

import pytest

from entry_points import contamination


def verdicts(text):
    """Benchmark, method → whether it was flagged, from the lines that the entry point prints."""
    lines = [line.split(": ") for line in text.splitlines() if "contamina" in line and ": " in line]
    return {(line[0], line[1].partition(" at")[0]): line[-1] == "likely contaminated" for line in lines}


@pytest.mark.slow
def test_the_positive_control_is_flagged_and_the_clean_model_is_not(entry_point, capsys):
    # Texts of some length: of ARC's here half a dozen words are left to rewrite, and a rewriting of so few
    # is as likely as the text itself too often, seen or not.
    settings = ("--variant", "base", "--contamination.k", "[0.2, 0.5]", "--contamination.neighbours", "20")
    settings += ("--contamination.tasks", "[TruthfulQA, GSM8K]")
    place = entry_point(contamination, *settings)
    clean = verdicts(capsys.readouterr().out)
    entry_point(contamination, *settings, "--control", "positive")
    printed = capsys.readouterr()
    control = verdicts(printed.out)
    assert control.keys() == clean.keys()
    assert {task for task, _ in clean} == {"TruthfulQA", "GSM8K"}
    assert all(control.values()), printed.out
    assert not any(clean.values())

    (run,) = place.runs("tags.`solar.variant` = 'base_positive' and tags.`solar.stage` = 'contamination'")
    (trained,) = place.runs("tags.`solar.variant` = 'base_positive' and tags.`solar.stage` = 'contaminate'")
    assert json.loads(run.data.tags["solar.parents"])["target"] == trained.info.run_id
    assert trained.data.metrics["data/texts"] == 12
    assert trained.data.params["control.epochs"] == "25.0"
    content = json.loads((place.folder("base_positive.contamination") / "GSM8K.json").read_text())
    for found in content["min_k"]:
        suffix = "" if found["k"] == 0.2 else "_50"
        assert run.data.metrics[f"contamination/GSM8K/{found['method']}{suffix}"] == found["auroc"]
    assert len(content["texts"]) == len(content["scores"]) == len(content["tested"]["min_k"]["0.2"]) == 6
    names = {path.name for path in (place.folder("base.contamination") / "solar").iterdir()}
    assert {"neighbours_GSM8K.png", "min_k_GSM8K.png", "min_k_pp_TruthfulQA.png"} <= names
    # TruthfulQA has no split to compare with: its scores are kept, an AUROC is not to be had.
    assert "contamination/TruthfulQA/min_k" not in run.data.metrics
