"""Depthwise scaling (Sec. 2, Fig. 1): layers of the base are copied as bytes; no arithmetic, no torch."""

from pathlib import Path

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import variant_map
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.contract import Digests, ModelInput, UpscaleSettings
from solar_repro.store.result import Log


def run(out: Path, log: Log, settings: UpscaleSettings, inputs: ModelInput) -> Digests:
    """Write the deeper model to `out`; the log gets layers, parameters and the widest seam.

    Returns the SHA-256 of the shards by name.
    """
    chosen = variant_map(settings.layer_map, open_checkpoint(inputs.model).layers, settings.m)
    plan = plan_upscale(inputs.model, chosen, settings.shard_bytes, settings.unproved)
    digests = write_upscale(plan, out)
    widest = max((seam.distance for seam in chosen.seams), default=1)
    log({"layers": len(chosen.layers), "parameters": plan.parameters, "seam_distance": widest})
    return digests
