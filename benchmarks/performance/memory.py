"""The most memory that this process held since it was asked last: resident, or on its GPU."""

import resource
from pathlib import Path


def reset_peak() -> bool:
    """Let the high-water mark start again from here; False where the system cannot (it is Linux's)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mib() -> float:
    """The high-water mark of the resident set, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_gpu_peak() -> None:
    """Let the most that PyTorch held on the GPU start again from what it holds."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()


def gpu_peak_mib() -> float:
    """The most that PyTorch held on the GPU, in MiB."""
    import torch

    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated()) / 2**20
