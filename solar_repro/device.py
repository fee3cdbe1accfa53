"""The device that models are computed on, and the precision that it computes in."""

import ctypes
import functools
import gc
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError

if TYPE_CHECKING:
    import torch

BFLOAT16_ABILITIES = ("avx512_bf16", "amx_bf16", "bf16")
"""Names that PyTorch has for instructions that multiply bfloat16: of x86 the first two, of Arm the last."""
PEAK_TFLOPS = {
    "A100": 312.0, "A10": 125.0, "A30": 165.0, "A40": 149.7, "B200": 2250.0, "H100 PCIe": 756.0,
    "H100 NVL": 835.5, "H100": 989.4, "H200": 989.4, "L40S": 362.0, "L4": 121.0, "RTX 3090": 71.0,
    "RTX 4090": 165.2, "RTX A6000": 154.8,
}  # fmt: skip
"""TFLOP/s of dense bfloat16 with float32 sums, from NVIDIA's data sheets, by words of the GPU's name."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
CONTAINER = Path("/sys/fs/cgroup")


@functools.cache
def device() -> str:
    """`cuda` or `mps` where PyTorch can compute on a GPU, NVIDIA's or Apple's, else `cpu`.

    A GPU that this PyTorch cannot use: UserError. One whose driver PyTorch does not find is named in a line
    on stderr, and the CPU computes.
    """
    import torch

    if torch.backends.mps.is_available():
        return "mps"
    if not torch.cuda.is_available():
        if NVIDIA_DRIVER.is_dir() and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
            why = "its driver does not answer" if torch.version.cuda else "it is built for CPUs alone"
            _say(f"a GPU is there, but PyTorch {torch.__version__} cannot use it ({why}): the CPU computes")
        return "cpu"
    if "LOCAL_RANK" in os.environ:  # of launched processes each opens its own GPU alone
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        torch.ones(8, 8, device="cuda").matmul(torch.ones(8, 8, device="cuda")).cpu()
    except RuntimeError as error:
        major, minor = torch.cuda.get_device_capability()
        why = str(error).splitlines()[0]
        raise UserError(
            f"GPU {torch.cuda.get_device_name()} (compute capability {major}.{minor}): PyTorch "
            f"{torch.__version__} cannot compute on it ({why}); install a PyTorch built for it, or hide it "
            "with CUDA_VISIBLE_DEVICES= to compute on the CPU"
        ) from None
    torch.set_float32_matmul_precision("high")  # TF32: float32 is asked for where bfloat16 is too coarse
    return "cuda"


def peak_flops() -> float | None:
    """FLOPs per second that this GPU can do in bfloat16; None for a CPU and for a GPU that is not listed."""
    import torch

    if device() != "cuda":
        return None
    name = torch.cuda.get_device_name()
    if {"Laptop", "Max-Q", "D"} & set(name.split()):  # slower than the GPU whose name they bear
        return None
    found = [part for part in PEAK_TFLOPS if re.search(rf"\b{part}\b", name)]
    return PEAK_TFLOPS[max(found, key=len)] * 1e12 if found else None


def free_memory() -> int:
    """Bytes of memory that the device can still give: of a GPU, else of the machine or its container."""
    import psutil
    import torch

    if device() == "cuda":
        return torch.cuda.mem_get_info()[0]
    if device() == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # no container, or one without a limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(kept["inactive_file"]))
    return free


def give_memory_back() -> None:
    """Return what a finished step has freed to the machine, for other processes and launched trainings.

    PyTorch keeps the memory of a GPU, and glibc keeps pieces that are too small for the next step.
    """
    gc.collect()  # a trainer and its model refer to each other
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch is not None and torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def computes_in_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 in hardware; where it does not, PyTorch emulates it slowly.

    Apple's GPUs differ in it, and PyTorch does not say which ones do: they count as if they did not.
    """
    import torch

    if device() == "mps":
        return False
    if device() == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)  # compute capability 8.0
    abilities = torch.cpu.get_capabilities()
    if not any(abilities.get(name) for name in BFLOAT16_ABILITIES):
        return False
    # What the processor can do may be switched off, by ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA.
    if abilities["architecture"] == "x86_64" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def own_precision() -> str:
    """What the precision `auto` means here: `bfloat16` where the device computes in it, else `float32`.

    Of a GPU without bfloat16 a line on stderr says so: float16 is another format, and is not taken instead.
    """
    import torch

    if computes_in_bfloat16():
        return "bfloat16"
    if device() == "cuda":
        _say(
            f"{torch.cuda.get_device_name()} has no bfloat16 (compute capability 8.0 or higher has it): "
            "precision auto is float32 here; float16 is another format, in which small gradients vanish"
        )
    return "float32"


@functools.cache
def warn_of_emulation(precision: str) -> None:
    """Say in a line on stderr how much slower a precision is that the device only emulates."""
    import torch

    if device() == "mps" or (precision == "float16" and device() == "cuda"):
        return
    if precision in ("float16", "bfloat16") and own_precision() == "float32":
        slower = _seconds(getattr(torch, precision)) / _seconds(torch.float32)
        kind = "GPU" if device() == "cuda" else "CPU"
        _say(
            f"precision {precision}: this {kind} only emulates it; a product of matrices takes {slower:.0f} "
            "times as long as in float32, which precision auto is here"
        )


def _seconds(dtype: "torch.dtype") -> float:
    """The time of a small product of matrices, the best of three."""
    import torch

    left = torch.ones(256, 128, dtype=dtype, device=device())
    right = torch.ones(128, 384, dtype=dtype, device=device())
    times = []
    for _ in range(4):
        started = time.perf_counter()
        (left @ right).sum().item()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def machine() -> dict[str, str]:
    """What decides the last digits of results beside the code: the device and what it can do."""
    import torch

    found = {"device": device(), "cpu": str(torch.cpu.get_capabilities().get("cpu_name", "unknown"))}
    found |= {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "precision": own_precision()}
    if device() == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
