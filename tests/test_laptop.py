"""Every stage of scale `laptop` on real data from a mirror, with a tiny real base and few tokens."""

import pytest

from solar_repro.safety.json_files import read_json
from solar_repro.stages.table import STAGES
from tests.runs import workplace

SMALL = {
    "upscale.m": "1",
    "data.math": "rule",
    "data.math_seed_split": "test",
    "data.maximum_samples": "{alpaca_gpt4: 60, openorca: 60, synth_math_instruct: 40, ultrafeedback: 60, "
    "orca_dpo_pairs: 8, synth_math_alignment: 20}",
    "data.corpus.held_out_documents": "6",
    "continue_pretrain.tokens": "40000",
    "continue_pretrain.held_out_evaluations": "1",
    "evaluate.limits": "{ARC: 3, HellaSwag: 3, MMLU: 1, TruthfulQA: 3, Winogrande: 3, GSM8K: 2}",
    "evaluate.subjects": "[anatomy, virology]",
    "contamination.examples": "4",
    "contamination.neighbours": "8",
    "contamination.tasks": "[ARC, GSM8K]",
}


@pytest.mark.slow
def test_every_stage_of_laptop(shared, tmp_path):
    place = workplace(tmp_path)
    given = SMALL | {"base.model": str(shared / "models" / "stories260K"), "data.mirror": str(shared / "hub")}
    options = ["--scale", "laptop", *(word for name, value in given.items() for word in (f"--{name}", value))]
    # The lineage of this merge has every stage that makes something.
    for entry, variant in (("evaluate", "dpo_v1_v2"), ("contamination", "solar")):
        done = place.entry_point(entry, "--variant", variant, *options)
        assert done.returncode == 0, done.stderr[-3000:]
    made = {run.data.tags["solar.stage"] for run in place.runs("tags.`solar.stage` != ''")}
    assert made == set(STAGES) - {"microworld", "data", "untrained", "contaminate"}
    (scored,) = place.runs("tags.`solar.stage` = 'evaluate'")
    assert 0 <= scored.data.metrics["H6"] <= 100
    # A real base loses by up-scaling, and continued pretraining brings some of it back.
    (solar,) = place.runs("tags.`solar.stage` = 'continue_pretrain'")
    losses = place.client().get_metric_history(solar.info.run_id, "recovery/held_out_loss")
    assert losses[-1].value < losses[0].value
    used = read_json(place.folder("sft_v3") / "solar" / "data" / "openorca.json")
    assert used["rows"]["used"] == "google-research/flan-cot"
