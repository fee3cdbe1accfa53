"""The plan without a network, and what it refuses."""

from dataclasses import dataclass

import pytest

from solar_repro.errors import UserError
from solar_repro.plan.dry_run import describe, forecast, refuse_what_cannot_fit
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", NoHub)
    monkeypatch.delenv("SOLAR_MIRROR", raising=False)


class NoHub:
    def __getattr__(self, name):
        raise OSError("no route to host")


def dry(scale, tmp_path, **changes):
    plan = Plan(
        load_scale(scale, {name.replace("__", "."): value for name, value in changes.items()}), dry=True
    )
    return plan, forecast(plan, tmp_path)


@pytest.mark.parametrize("scale", ["paper", "one_gpu"])
def test_a_scale_of_the_hub_is_planned_without_it(scale, tmp_path):
    plan, found = dry(scale, tmp_path)
    refuse_what_cannot_fit(plan, found)
    text = describe(plan, found, tmp_path)
    assert {item.state for item in found} == {"unknown"}
    assert "GPU-hours" in text
    assert "no route to host" in text
    assert "Open-Orca/OpenOrca" in text.splitlines()[-2]  # of a size not known here


def test_the_papers_size_needs_several_gpus(tmp_path):
    plan, found = dry("paper", tmp_path)
    by_label = {item.step.label: item for item in found}
    assert by_label["solar"].parameters == 10_731_524_096
    assert by_label["upscaled"].disk == 2 * 10_731_524_096
    assert by_label["sft_v1"].disk == 4 * 10_731_524_096
    # 5e9 tokens × (6 · 10.73e9 + 12 · 48 · 4096 · 4096) at 0.4 · 989.4e12 a second
    assert by_label["solar"].hours == pytest.approx(5e9 * 7.4053e10 / 3.9576e14 / 3600, rel=1e-3)
    plan, found = dry("paper", tmp_path, hardware__gpus="1")
    with pytest.raises(UserError, match=r"solar: needs 185\.\d GiB with ddp.*-P hardware\.gpus=4 would fit"):
        refuse_what_cannot_fit(plan, found)


@pytest.mark.parametrize(
    ("changes", "helps"),
    [
        (
            {"sft__activation_checkpointing": "false", "hardware__gpu_memory_gib": "48"},
            "sft.per_device_batch_size=1",
        ),
        (
            {
                "sft__activation_checkpointing": "false",
                "sft__per_device_batch_size": "1",
                "hardware__gpu_memory_gib": "30",
            },
            "sft.activation_checkpointing=true",
        ),
        ({"hardware__gpu_memory_gib": "4"}, "a smaller base or larger GPUs are needed"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_helps(tmp_path, changes, helps):
    plan, found = dry("paper", tmp_path, **changes)
    with pytest.raises(UserError) as error:
        refuse_what_cannot_fit(plan, found)
    assert helps in str(error.value)
    assert "\n" not in str(error.value)


def test_advice_that_is_followed_fits(tmp_path):
    changes = {"sft__activation_checkpointing": "false", "hardware__gpu_memory_gib": "48"}
    plan, found = dry("paper", tmp_path, **changes, sft__per_device_batch_size="1")
    refuse_what_cannot_fit(plan, found)


def test_a_batch_that_the_gpus_do_not_divide_is_refused(tmp_path):
    plan, found = dry("paper", tmp_path, hardware__gpus="3")
    with pytest.raises(
        UserError, match=r"solar: global_batch_size 1024 is not a multiple .* -P hardware\.gpus"
    ):
        refuse_what_cannot_fit(plan, found)


def test_a_plan_that_is_no_dry_run_needs_the_hub():
    with pytest.raises(UserError, match="it could not be fetched from the hub"):
        Plan(load_scale("one_gpu")).main()


def test_a_base_that_is_neither_folder_nor_hub_id_is_an_error_in_a_dry_run_too(tmp_path):
    with pytest.raises(UserError, match=r"\./none is not a folder"):
        Plan(load_scale("one_gpu", {"base.model": "./none"}), dry=True).model("base")


def test_the_hub_tells_the_size_of_the_download(tmp_path, monkeypatch):
    import huggingface_hub

    @dataclass
    class File:
        rfilename: str
        size: int = 1_500_000_000

    class Hub:
        sha, siblings = "1" * 40, (File("a.parquet"), File("b.parquet"), File("same-rows.txt"))

        def dataset_info(self, name, files_metadata=False):
            return self

        model_info = dataset_info

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    plan, found = dry("one_gpu", tmp_path)
    assert {item.state for item in found} == {"to do"}
    # 13 sets of 3 GB (DROP among them, of Table 8) and the base's 0.72 GB
    assert f"download: at most {len(plan.locations.hub_sets) * 3 + 0.7236:.1f} GB" in describe(
        plan, found, tmp_path
    )
    assert len(plan.locations.hub_sets) == 13


def test_adapters_are_named_where_whole_weights_do_not_fit(tmp_path):
    plan, found = dry("one_gpu", tmp_path, hardware__gpu_memory_gib="9")
    (tuned,) = [item for item in found if item.step.label == "sft_v1"]
    with pytest.raises(
        UserError, match=r"so would adapters in place of whole weights: -P sft\.lora\.rank=64$"
    ):
        refuse_what_cannot_fit(plan, [tuned])


@pytest.mark.parametrize("processes", ["4", "8", "16", "32"])
def test_the_papers_size_fits_as_many_gpus_as_are_launched(tmp_path, processes):
    plan, found = dry("paper", tmp_path, launcher="fsdp2", num_processes=processes)
    refuse_what_cannot_fit(plan, found)
    assert f"on {processes} GPUs of" in describe(plan, found, tmp_path)


def test_too_few_that_are_launched_are_refused_by_their_number(tmp_path):
    plan, found = dry("paper", tmp_path, launcher="fsdp2", num_processes="2")
    with pytest.raises(UserError, match=r"on each of 2 GPU\(s\) of 80 GiB; -P num_processes=4 would fit"):
        refuse_what_cannot_fit(plan, found)


def test_a_copy_on_each_machine_takes_the_memory_of_one_machine(tmp_path):
    plan, found = dry("paper", tmp_path, launcher="fsdp2", num_processes="16", fsdp2_replicas="2")
    refuse_what_cannot_fit(plan, found)
    one_machine = dry("paper", tmp_path, launcher="fsdp2", num_processes="8")[1]
    assert [item.memory.get("fsdp2") for item in found] == [item.memory.get("fsdp2") for item in one_machine]


def test_fewer_copies_are_named_where_they_would_fit(tmp_path):
    plan, found = dry("paper", tmp_path, launcher="fsdp2", num_processes="16", fsdp2_replicas="8")
    with pytest.raises(UserError, match=r"on each of 16 GPU\(s\) of 80 GiB; -P fsdp2_replicas=1 would fit"):
        refuse_what_cannot_fit(plan, found)


def test_the_controls_batch_is_looked_at_where_it_is_trained_alone(tmp_path):
    plan, _ = dry("paper", tmp_path, launcher="fsdp2", num_processes="16")
    assert "merge_v1_positive" not in [step.label for step in plan.main()]
    with pytest.raises(UserError, match=r"contamination\.control: global_batch_size 8 is not a multiple"):
        plan.contamination("merge_v1", positive=True)


LARGE_GPU = {
    "hardware__gpu_memory_gib": "80",
    "continue_pretrain__per_device_batch_size": "8",
    "continue_pretrain__activation_checkpointing": "false",
    "sft__per_device_batch_size": "16",
    "sft__activation_checkpointing": "false",
    "dpo__per_device_batch_size": "8",
    "dpo__activation_checkpointing": "false",
}
"""What docs/gpus.md says of a GPU of 80 GB."""


@pytest.mark.parametrize("changes", [{}, LARGE_GPU])
def test_one_person_makes_the_plan_on_one_gpu_in_a_day(tmp_path, changes):
    plan, found = dry("one_gpu", tmp_path, **changes)
    refuse_what_cannot_fit(plan, found)
    assert sum(item.hours or 0 for item in found) <= 24  # of an RTX 4090
    page = " ".join((ROOT / "docs" / "gpus.md").read_text(encoding="utf-8").split())
    for name, value in changes.items():
        assert f"-P {name.replace('__', '.')}={value}" in page
