"""Merging two models (Sec. 4.1, Table 7): average with weights, or SLERP (Shoemake 1985)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.merge import merge
from solar_repro.stages import NOTES


def run(
    out: Path,
    log: Any,
    *,
    first: Path,
    second: Path,
    method: str,
    weights: list[float] | None = None,
    t: float = 0.5,
) -> Mapping[str, str]:
    """Write the merge of two checkpoints to `out`; `weights` of an average, `t` of SLERP.

    The log gets the cosine between the parents by layer (the last value: the tensors outside the layers).
    Returns the sha256 of the shards by name.
    """
    report = merge([first, second], out, method, weights=weights, t=t)
    (out / NOTES).mkdir(exist_ok=True)
    report.write(out / NOTES / "merge.json")
    report.plot(out / NOTES / "merge_cosine.png")
    log({"linear_fallbacks": len(report.linear_fallbacks)})
    for layer, (cosine,) in enumerate(report.layer_cosines.values()):
        if cosine is not None:
            log({"parents_cosine": cosine}, layer)
    return report.digests
