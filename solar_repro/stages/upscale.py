"""Depthwise scaling (Sec. 2, Fig. 1): layers of the base are copied as bytes; no arithmetic, no torch."""

from pathlib import Path
from typing import Any

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import variant_map
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale


def run(
    out: Path,
    log: Any,
    *,
    model: Path,
    layer_map: str,
    shard_bytes: int,
    m: int | None = None,
    unproved: bool = False,
) -> dict[str, str]:
    """Write the deeper model to `out`; the log gets layers, parameters and the widest seam.

    `layer_map` and `m` as for `variant_map`, `unproved` as for `plan_upscale`. Returns the sha256 of the
    shards by name.
    """
    chosen = variant_map(layer_map, open_checkpoint(model).layers, m)
    plan = plan_upscale(model, chosen, shard_bytes, unproved)
    digests = write_upscale(plan, out)
    widest = max((seam.distance for seam in chosen.seams), default=1)
    log({"layers": len(chosen.layers), "parameters": plan.parameters, "seam_distance": widest})
    return digests
