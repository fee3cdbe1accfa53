"""Direct preference optimisation as a stage, and the reference that it needs."""

from contextlib import nullcontext

import pytest
import torch
from datasets import Dataset
from safetensors.numpy import load_file
from trl.trainer import dpo_trainer

from solar_repro.contract import FrozenModel
from solar_repro.errors import Stopped, UserError
from solar_repro.plan.plan import Plan
from solar_repro.running.launch import Job, launch
from solar_repro.scales.execution import Execution
from solar_repro.scales.load import load_scale
from solar_repro.stages import dpo
from solar_repro.stages.reference import log_probabilities
from solar_repro.stages.table import STAGES
from solar_repro.terminal.stopping import StopRequest
from solar_repro.training import reference
from solar_repro.training.reference import COLUMNS, with_reference
from solar_repro.training.trainer import PlainTrainer
from tests.steps import run_step
from tests.tiny_decoders import random_model

ONE_STEP = {"dpo.max_steps": "1"}


def inputs_of(finished, step):
    return {role: finished.folder(parent.label) for role, parent in step.inputs.items()}


def silent(metrics, step=0):
    pass


def test_the_reference_is_computed_once_for_all_that_share_model_and_pairs():
    plan = Plan(load_scale("check"))
    references = {
        name: plan.model(name).inputs["reference"] for name in ("dpo_v1", "dpo_v2", "cand_1", "cand_2")
    }
    assert references["cand_1"] is references["dpo_v2"]
    assert references["cand_2"] is plan.model("dpo_v3").inputs["reference"]
    assert references["dpo_v1"].key != references["dpo_v2"].key  # of other pairs
    assert sorted(step.label for step in plan.main() if step.stage == "reference") == [
        "dpo_v1.reference",
        "dpo_v2.reference",
        "dpo_v3.reference",
    ]
    longer = Plan(load_scale("check", {"cand_1.max_length": "128"}))
    assert longer.model("cand_1").inputs["reference"].label == "cand_1.reference"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_reference_is_what_trl_computes(finished, tmp_path, monkeypatch, precision):
    step = Plan(load_scale("check", {**ONE_STEP, "dpo.precision": precision})).model("dpo_v1")
    folder = tmp_path / "reference"
    folder.mkdir()
    of_reference = step.inputs["reference"]
    run_step(of_reference, folder, silent, inputs_of(finished, of_reference))
    seen = {}

    def compare(trainer, dataset, *args, **kwargs):
        assert "ref_chosen_logps" in dataset.column_names
        rows = dataset.select(range(16))
        batch = trainer.data_collator(list(rows.remove_columns(COLUMNS)))
        with torch.no_grad():
            seen["trl"] = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch))
        seen["ours"] = torch.tensor([*rows[COLUMNS[0]], *rows[COLUMNS[1]]])
        return dataset

    monkeypatch.setattr(dpo.TokenisedDPOTrainer, "_precompute_ref_logps", compare)
    run_step(step, tmp_path / "dpo", silent, inputs_of(finished, step) | {"reference": folder})
    digits = {"float32": 1e-6, "bfloat16": 2e-3}[precision]
    assert seen["trl"].tolist() == pytest.approx(seen["ours"].tolist(), rel=digits)


def test_sharding_does_not_load_a_second_model(finished, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    make = PlainTrainer.create_accelerator_and_postprocess

    def sharded(trainer):
        make(trainer)
        trainer.is_fsdp_enabled = True
        trainer.place_model_on_device = False

    def last(trainer, *args, **kwargs):
        assert trainer.ref_model is None
        raise Enough

    monkeypatch.setattr(PlainTrainer, "create_accelerator_and_postprocess", sharded)
    monkeypatch.setattr(dpo.TokenisedDPOTrainer, "_precompute_ref_logps", last)
    monkeypatch.setattr(dpo_trainer, "create_model_from_path", lambda *args, **kwargs: pytest.fail("loaded"))
    step = Plan(load_scale("check", ONE_STEP)).model("dpo_v1")
    with pytest.raises(Enough):
        run_step(step, tmp_path, silent, inputs_of(finished, step))


def test_before_the_first_step_no_answer_has_a_margin(finished, tmp_path):
    step = Plan(load_scale("check", ONE_STEP)).model("dpo_v1")
    metrics = {}
    run_step(step, tmp_path, lambda found, step=0: metrics.update(found), inputs_of(finished, step))
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert metrics["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_processes_share_the_pairs_out(finished, tmp_path):
    step = Plan(load_scale("check")).model("dpo_v1").inputs["reference"]
    inputs = STAGES["reference"].inputs(**inputs_of(finished, step), **step.places)
    out = tmp_path / "out"
    out.mkdir()
    job = Job("reference", out, step.settings, inputs, None)
    launch(tmp_path / "job.json", job, silent, Execution(launcher="ddp", num_processes=2))
    alone, found = (load_file(folder / reference.FILE) for folder in (finished.folder(step.label), out))
    for name in COLUMNS:
        assert found[name] == pytest.approx(alone[name], rel=1e-6)


def test_a_process_without_pairs_in_the_last_round_leaves_it_to_the_others():
    pairs = Dataset.from_dict({"prompt_ids": [[1, 2]], "chosen_ids": [[3, 4]], "rejected_ids": [[5]]})
    how = FrozenModel(weights="float32", precision="float32")
    model = random_model("llama")
    alone = log_probabilities(model, pairs, how, rounds=1)
    assert (log_probabilities(model, pairs, how, rounds=2) == alone).all()


def test_asked_to_end_it_stops_between_batches(finished, tmp_path, monkeypatch):
    asked = nullcontext(StopRequest(ends_on_second=False, number=15))
    monkeypatch.setattr("solar_repro.stages.reference.deferred_stop", lambda: asked)
    step = Plan(load_scale("check")).model("dpo_v1").inputs["reference"]
    with pytest.raises(Stopped, match="stopped after 0 pairs, of which nothing is kept"):
        run_step(step, tmp_path, silent, inputs_of(finished, step))


def test_a_reference_of_other_pairs_is_refused(tmp_path):
    rows = {name: [[1, 2], [3]] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    pairs = Dataset.from_dict(rows)
    reference.write_reference(tmp_path, pairs, torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]).numpy())
    assert with_reference(pairs, tmp_path)["ref_rejected_logps"][:] == [-2.0, -4.0]
    moved = Dataset.from_dict(rows | {"chosen_ids": [[1], [2, 3]]})
    with pytest.raises(UserError, match="is of other pairs than those that were read here"):
        with_reference(moved, tmp_path)
    (tmp_path / reference.FILE).write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="cannot be read as the reference of DPO"):
        with_reference(pairs, tmp_path)
