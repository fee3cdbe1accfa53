"""What a dry run proposes: it can be copied, it fits, and nothing faster does."""

import shlex

import pytest

from solar_repro.plan.costs import GIB, step_config, training_memory, training_of
from solar_repro.plan.dry_run import forecast, refuse_what_cannot_fit
from solar_repro.plan.micro_batches import ENOUGH_TOKENS, FREE_SHARE, micro_batch_lines
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from tests.plan.test_dry_run import LARGE_GPU, no_hub  # noqa: F401

RECOMPUTING = "activation_checkpointing"


def planned(scale, changes):
    plan = Plan(load_scale(scale, changes), dry=True)
    execution, hardware = plan.scale.execution, plan.scale.hardware
    if execution.launches:
        hardware = hardware.model_copy(update={"gpus": execution.num_processes})
    return plan, micro_batch_lines(plan, plan.main(), hardware)


def options(lines):
    """The options of proposals, as a shell reads them."""
    words = [word for line in lines[1:] for word in shlex.split(line, comments=True)]
    assert words[::2] == ["-P"] * (len(words) // 2)
    return dict(word.split("=") for word in words[1::2])


@pytest.mark.parametrize(
    ("scale", "changes", "expected"),
    [
        (
            "paper",
            {"launcher": "fsdp2", "num_processes": "8"},
            {
                "continue_pretrain.per_device_batch_size": "4",
                "sft.activation_checkpointing": "false",
                "dpo.activation_checkpointing": "false",
            },
        ),
        (
            "one_gpu",
            {"hardware.gpu_memory_gib": "24"},
            {
                "continue_pretrain.per_device_batch_size": "1",
                "continue_pretrain.activation_checkpointing": "false",
                "sft.activation_checkpointing": "false",
                "dpo.per_device_batch_size": "2",
                "dpo.activation_checkpointing": "false",
            },
        ),
        (
            "one_gpu",
            {"hardware.gpu_memory_gib": "80"},
            {name.replace("__", "."): value for name, value in LARGE_GPU.items() if "hardware" not in name},
        ),
    ],
)
def test_what_is_proposed_fits_and_nothing_faster_does(scale, changes, expected):
    _, lines = planned(scale, changes)
    assert options(lines) == expected
    plan, lines = planned(scale, changes | expected)
    assert options(lines) == {}
    assert all(": as set, " in line for line in lines[1:])
    execution, hardware = plan.scale.execution, plan.scale.hardware
    launched = (execution.launcher, execution.num_processes) if execution.launches else ("ddp", 1)
    room = (1 - FREE_SHARE) * hardware.gpu_memory_gib * GIB
    tight = set()
    for step in filter(training_of, plan.main()):
        training, pairs = training_of(step), step.stage == "dpo"
        config = step_config(plan.scale.base.shape, step)
        assert training_memory(config, training, *launched, pairs) <= room
        doubled = {"per_device_batch_size": 2 * training.per_device_batch_size}
        faster = {"per_device_batch_size": 1, "activation_checkpointing": False}
        for changes in (doubled, faster) if training.activation_checkpointing else (doubled,):
            other = training.model_copy(update=changes)
            tokens = other.per_device_batch_size * training.max_length * (1 + pairs)
            if tokens > ENOUGH_TOKENS or training_memory(config, other, *launched, pairs) > room:
                tight.add((step.stage, *changes))
    # One model of a section is enough to forbid what is faster.
    assert {stage for stage, *_ in tight} == {"continue_pretrain", "sft", "dpo"}
    recomputing = {step.stage for step in plan.main() if getattr(training_of(step), RECOMPUTING, False)}
    assert {stage for stage, *changed in tight if RECOMPUTING in changed} == recomputing


@pytest.mark.parametrize(
    ("scale", "changes", "expected"),
    [
        ("paper", {}, {"launcher": "fsdp2", "num_processes": "8"}),
        (
            "one_gpu",
            {"launcher": "ddp", "num_processes": "4", "hardware.gpu_memory_gib": "10"},
            {"launcher": "fsdp2"},
        ),
        (
            "paper",
            {"launcher": "fsdp2", "num_processes": "16", "fsdp2_replicas": "8"},
            {"fsdp2_replicas": "1"},
        ),
    ],
)
def test_sharding_is_proposed_where_whole_weights_do_not_fit(tmp_path, scale, changes, expected):
    _, lines = planned(scale, changes)
    assert options(lines).items() >= expected.items()
    assert "by fsdp2" in lines[0]
    plan, lines = planned(scale, changes | options(lines))
    refuse_what_cannot_fit(plan, forecast(plan, tmp_path))
    assert options(lines) == {}


def test_where_nothing_fits_one_line_says_so():
    changes = {"launcher": "fsdp2", "num_processes": "8", "hardware.gpu_memory_gib": "20"}
    (line,) = planned("paper", changes)[1]
    assert (
        "none fits; the smallest, with recomputing, needs in GiB: repeat_continued 35.1, sft_v1 24.5" in line
    )


def test_a_candidate_with_a_micro_batch_of_its_own_gets_its_own_proposal():
    _, lines = planned("one_gpu", {"hardware.gpu_memory_gib": "80", "cand_1.per_device_batch_size": "1"})
    found = options(lines)
    assert found["cand_1.per_device_batch_size"] == found["dpo.per_device_batch_size"] == "8"
    assert not any(name.startswith("cand_2") for name in found)


def test_nothing_is_proposed_where_nothing_is_trained():
    plan = Plan(load_scale("one_gpu"), dry=True)
    assert micro_batch_lines(plan, [plan.model("upscaled")], plan.scale.hardware) == []
