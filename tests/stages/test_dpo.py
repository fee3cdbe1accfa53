"""Direct preference optimisation as a stage."""

from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from solar_repro.stages import dpo
from tests.steps import run_step


def test_every_run_computes_what_the_reference_says_of_its_pairs(finished, tmp_path, monkeypatch):
    step = Plan(load_scale("check", {"dpo.max_steps": "1"})).model("dpo_v1")
    inputs = {role: finished.folder(parent.label) for role, parent in step.inputs.items()}
    compute = dpo.TokenisedDPOTrainer.compute_ref_log_probs
    batches = []

    def count(trainer, model, batch):
        batches.append(len(batch["input_ids"]))
        return compute(trainer, model, batch)

    monkeypatch.setattr(dpo.TokenisedDPOTrainer, "compute_ref_log_probs", count)
    for name in ("first", "second"):
        run_step(step, tmp_path / name, lambda metrics, step=0: None, inputs)
    assert len(batches) >= 2
    assert batches[: len(batches) // 2] == batches[len(batches) // 2 :]
