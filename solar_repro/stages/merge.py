"""Merging two models (Sec. 4.1, Table 7): average with weights, or SLERP (Shoemake 1985)."""

from pathlib import Path
from typing import Any

from solar_repro.checkpoint.merge import merge


def run(
    out: Path,
    log: Any,
    *,
    first: Path,
    second: Path,
    method: str,
    weights: list[float] | None = None,
    t: float = 0.5,
) -> None:
    """Write the merge of two checkpoints to `out`; `weights` of an average, `t` of SLERP."""
    report = merge([first, second], out, method, weights=weights, t=t)
    log({"cosine": report.cosine, "linear_fallbacks": len(report.linear)})
