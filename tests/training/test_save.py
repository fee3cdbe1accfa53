import errno

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from solar_repro.errors import UserError
from solar_repro.plan.costs import checkpoint_bytes
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from solar_repro.store.publish import publish
from solar_repro.training.save import save_checkpoint, to_bfloat16
from tests.steps import run_step


class Model:
    """Raises what safetensors raises while it writes."""

    def __init__(self, message):
        self.message = message

    def save_pretrained(self, out, state_dict):
        raise SafetensorError(self.message)


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


def test_a_full_disk_keeps_its_errno(tmp_path):
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(Model(FULL), {}, None, tmp_path)
    assert error.value.errno == errno.ENOSPC


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), publish(tmp_path / "result") as work:
        save_checkpoint(Model(FULL), {}, None, work)
    assert not list(tmp_path.iterdir())


def test_other_faults_of_safetensors_pass(tmp_path):
    with pytest.raises(SafetensorError, match="invalid shape"):
        save_checkpoint(Model("invalid shape"), {}, None, tmp_path)


def test_weights_that_diverged_are_refused(tmp_path):
    with pytest.raises(UserError, match="training diverged"):
        save_checkpoint(Model(""), {"weight": torch.tensor([1.0, float("nan")])}, None, tmp_path)


def test_rounding_goes_to_a_neighbour_keeps_the_mean_and_is_the_same_each_time():
    torch.manual_seed(0)
    exact = torch.randn(1000).bfloat16().float()
    between = torch.randn(200_000)
    found = to_bfloat16({"between": between, "exact": exact}, seed=7)
    assert list(found) == ["between", "exact"]
    assert found["exact"].float().equal(exact)
    error = found["between"].float() - between
    assert (error.abs() <= between.abs() * 2**-7).all()  # the gap of two neighbours at most
    assert abs(float(error.mean())) < 5 * float(error.std()) / 200_000**0.5
    again = to_bfloat16({"exact": exact, "between": between}, seed=7)
    assert again["between"].equal(found["between"])
    assert not to_bfloat16({"between": between}, seed=8)["between"].equal(found["between"])


def test_a_small_update_survives_where_rounding_to_the_nearest_loses_it():
    """Of a linear layer, as DPO changes it: by a thousandth of a weight, where bfloat16 has 2 to 3 digits."""
    torch.manual_seed(0)
    before = (torch.randn(512, 512) * 0.02).bfloat16().float()
    inputs = torch.randn(64, 512).sign()
    update = 1e-5 * torch.outer(torch.randn(512).sign(), torch.randn(512).sign())
    update += 1e-5 * inputs.mean(0)  # what is common to the inputs moves all outputs
    wanted = inputs @ update.T

    def kept(stored):
        moved = inputs @ (stored.float() - before).T
        return float((moved * wanted).sum() / wanted.square().sum())

    assert kept(to_bfloat16({"w": before + update}, seed=0)["w"]) == pytest.approx(1, abs=0.2)
    assert abs(kept((before + update).bfloat16())) < 0.5


def test_a_training_stores_bfloat16_where_it_is_asked_to(finished, tmp_path):
    scale = load_scale("check", {"checkpoint.dtype": "bfloat16", "dpo.max_steps": "2"})
    step = Plan(scale).model("dpo_v1")
    inputs = {role: finished.folder(parent.label) for role, parent in step.inputs.items()}
    run_step(step, tmp_path, lambda metrics, step=0: None, inputs)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == torch.bfloat16
    content = (tmp_path / "model.safetensors").stat().st_size
    assert checkpoint_bytes(None, step) == pytest.approx(content, rel=0.05)
    whole = Plan(load_scale("check")).model("dpo_v1")
    assert checkpoint_bytes(None, whole) == 2 * checkpoint_bytes(None, step)
    assert "checkpoint" not in whole.parameters()
