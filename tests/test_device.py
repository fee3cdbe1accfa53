"""Which device and precision are taken, and what is said where they are not what was hoped for."""

import re
from pathlib import Path

import pytest
import torch

from solar_repro import device
from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from solar_repro.training.trainer import arguments

ABLE = {"architecture": "x86_64", "cpu_name": "test", "avx512_bf16": True}


@pytest.fixture(autouse=True)
def asked_anew():
    for function in (device.device, device.own_precision, device.warn_of_emulation):
        function.cache_clear()
    matmul = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(matmul)
    for function in (device.device, device.own_precision, device.warn_of_emulation):
        function.cache_clear()


@pytest.fixture
def on_a_cpu(monkeypatch):
    """A CPU with these abilities; what PyTorch and oneDNN use of it may be less."""

    def pretend(abilities, capability="AVX512", onednn=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)

    return pretend


@pytest.fixture
def on_a_gpu(monkeypatch):
    def pretend(bfloat16=True, error=None):
        def ones(*size, device):
            if error:
                raise RuntimeError(error)
            return torch.zeros(*size)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 7))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
        monkeypatch.setattr(torch, "ones", ones)

    return pretend


@pytest.mark.parametrize(
    ("abilities", "used", "precision"),
    [
        (ABLE, {}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": True}, {}, "bfloat16"),
        ({"architecture": "aarch64", "bf16": True}, {"capability": "DEFAULT"}, "bfloat16"),
        ({"architecture": "x86_64", "avx2": True}, {"capability": "AVX2", "onednn": False}, "float32"),
        (ABLE, {"capability": "AVX2"}, "float32"),  # ATEN_CPU_CAPABILITY=avx2
        (ABLE, {"onednn": False}, "float32"),  # ONEDNN_MAX_CPU_ISA=AVX2
        ({"architecture": "aarch64", "neon": True}, {"capability": "DEFAULT", "onednn": False}, "float32"),
    ],
)
def test_auto_is_what_the_cpu_multiplies(on_a_cpu, abilities, used, precision):
    on_a_cpu(abilities, **used)
    assert device.device() == "cpu"
    assert device.own_precision() == precision


@pytest.mark.parametrize(("able", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_gpu_multiplies(on_a_gpu, able, precision, capsys):
    on_a_gpu(bfloat16=able)
    assert (device.device(), device.own_precision()) == ("cuda", precision)
    told = capsys.readouterr().err
    assert told == "" if able else "Tesla K80 has no bfloat16" in told and "float16 is another format" in told


def test_a_gpu_that_cannot_compute_is_one_line(on_a_gpu):
    on_a_gpu(error="CUDA error: no kernel image is available for execution on the device\nmore")
    with pytest.raises(
        UserError, match=r"GPU Tesla K80 \(compute capability 3\.7\).*no kernel image"
    ) as error:
        device.device()
    assert "\n" not in str(error.value)


def test_a_gpu_without_a_pytorch_for_it_is_one_line(on_a_cpu, monkeypatch, capsys, tmp_path):
    on_a_cpu(ABLE)
    monkeypatch.setattr(device, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.device() == "cpu"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"a GPU is there, but PyTorch {torch.__version__} cannot use it")


def test_emulated_bfloat16_is_one_line_with_its_price(on_a_cpu, capsys):
    on_a_cpu({"architecture": "x86_64"}, capability="AVX2", onednn=False)
    for precision in ("bfloat16", "bfloat16", "float32", "auto"):
        device.warn_of_emulation(precision)
    (line,) = capsys.readouterr().err.splitlines()
    assert "precision bfloat16: this CPU only emulates it" in line
    assert "times as long as in float32" in line


def test_nothing_is_said_where_the_cpu_multiplies_bfloat16(on_a_cpu, capsys):
    on_a_cpu(ABLE)
    device.warn_of_emulation("bfloat16")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_resolved_precision_is_in_key_and_parameters(monkeypatch, precision):
    monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda: precision)
    plan = Plan(load_scale("check"))
    explicit = {
        f"{section}.precision": precision
        for section in (
            "base.training",
            "continue_pretrain",
            "sft",
            "dpo",
            "evaluate",
            "contamination.control",
        )
    }
    assert plan.main()[-1].key == Plan(load_scale("check", explicit)).main()[-1].key
    other = {"float32": "bfloat16", "bfloat16": "float32"}[precision]
    monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda: other)
    assert {step.key for step in plan.main() if "precision" in str(step.settings)}.isdisjoint(
        step.key for step in Plan(load_scale("check")).main()
    )
    for step, name in [
        (plan.model("base"), "base.precision"),
        (plan.model("solar"), "continue_pretrain.precision"),
        (plan.model("sft_v1"), "sft.precision"),
        (plan.model("dpo_v1"), "dpo.precision"),
        (plan.model("cand_1"), "dpo.precision"),
        (plan.evaluation("solar"), "evaluate.precision"),
        (plan.contamination("merge_v1"), "precision"),
        (plan.contamination("merge_v1", positive=True).inputs["target"], "control.precision"),
    ]:
        assert step.parameters()[name] == precision


def test_a_candidate_may_have_a_precision_of_its_own(monkeypatch):
    monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda: "bfloat16")
    overrides = {"cand_1.precision": "auto", "cand_2.precision": "float32", "dpo.precision": "float32"}
    plan = Plan(load_scale("check", overrides))
    precisions = [plan.model(name).parameters()["dpo.precision"] for name in ("dpo_v1", "cand_1", "cand_2")]
    assert precisions == ["float32", "bfloat16", "float32"]


def test_the_shipped_base_has_one_key_on_every_machine(monkeypatch):
    keys = set()
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda precision=precision: precision)
        step = Plan(load_scale("smoke")).model("base")
        keys.add(step.key)
        assert step.parameters()["base.precision"] == "bfloat16"  # it was trained so
    assert len(keys) == 1


def test_a_dry_run_reckons_with_the_gpus_it_names(monkeypatch):
    monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda: "float32")
    assert Plan(load_scale("paper"), dry=True).scale.sft.precision == "bfloat16"
    assert Plan(load_scale("check"), dry=True).scale.sft.precision == "float32"


def test_trainings_get_the_resolved_precision(monkeypatch):
    for own, autocast in (("float32", False), ("bfloat16", True)):
        monkeypatch.setattr("solar_repro.plan.plan.own_precision", lambda own=own: own)
        settings = Plan(load_scale("check")).model("sft_v1").settings.sft
        assert arguments(settings, 1000, 0)["bf16"] is autocast


def test_the_peak_of_a_gpu_is_that_of_the_longest_name_that_fits(on_a_gpu, monkeypatch):
    on_a_gpu()
    for name, peak in {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA A10": 125e12,
        "NVIDIA GeForce RTX 4090": 165.2e12,
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "NVIDIA H100 NVL": 835.5e12,
        "NVIDIA L40S": 362e12,
        **dict.fromkeys(["Tesla K80", "NVIDIA L40", "NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA A10G"]),
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert device.peak_flops() == peak
    assert torch.get_float32_matmul_precision() == "high"  # TF32


def test_a_cpu_has_no_peak(on_a_cpu):
    on_a_cpu(ABLE)
    assert device.peak_flops() is None


def test_apples_gpu_computes_in_float32(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (device.device(), device.own_precision(), device.peak_flops()) == ("mps", "float32", None)
    device.warn_of_emulation("bfloat16")  # it may be told to use it
    assert capsys.readouterr().err == ""
    given = arguments(load_scale("check").sft, 64, 1)
    assert (given["use_cpu"], given["dataloader_pin_memory"], given["bf16"]) == (False, False, False)


def test_float64_is_used_on_the_cpu_alone():
    """Apple's GPUs have none, so a tensor goes to the CPU first."""
    package = Path(device.__file__).parent
    for file in package.glob("shared_prefix/*.py"):
        assert not re.findall(r"(?<!\.cpu\(\))\.double\(\)", file.read_text()), file
