import errno

import pytest
from safetensors import SafetensorError

from solar_repro.errors import UserError
from solar_repro.store.publish import publish
from solar_repro.training.save import save_checkpoint


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
    import torch

    with pytest.raises(UserError, match="training diverged"):
        save_checkpoint(Model(""), {"weight": torch.tensor([1.0, float("nan")])}, None, tmp_path)
