"""Merging models: average with weights or SLERP as in Sec. 4.1 and Table 7; for a recipe, every method."""

from pathlib import Path

from solar_repro.checkpoint.merge import merge
from solar_repro.checkpoint.model_source import model_folder
from solar_repro.contract import Digests, MergeInputs, MergeSettings
from solar_repro.store.result import NOTES, Log


def run(out: Path, log: Log, settings: MergeSettings, inputs: MergeInputs) -> Digests:
    """Write the merge of the given models to `out`.

    The log gets the cosine between the parents by layer (the last value: the tensors outside the layers).
    Returns the SHA-256 of the shards by name.
    """
    parents = [path for path in (inputs.first, inputs.second) if path is not None]
    report = merge(
        parents or [*map(model_folder, inputs.models)],
        out,
        settings.method,
        weights=settings.weights,
        t=0.5 if settings.t is None else settings.t,
        base=None if inputs.base is None else model_folder(inputs.base),
        density=settings.density,
        scale=settings.scale,
        dtype=settings.dtype,
        seed=settings.seed,
        accumulate=settings.accumulate,
        device=inputs.device,
        shard_bytes=settings.shard_bytes,
    )
    (out / NOTES).mkdir(exist_ok=True)
    report.write(out / NOTES / "merge.json")
    report.plot(out / NOTES / "merge_cosine.png")
    log({"linear_fallbacks": len(report.linear_fallbacks)})
    names = ["parents_cosine"]
    if len(report.pairs) > 1:
        names = [f"parents_cosine_{i + 1}_{j + 1}" for i, j in report.pairs]
    for layer, cosines in enumerate(report.layer_cosines.values()):
        known = zip(names, cosines, strict=True) if report.pairs else ()
        log({name: cosine for name, cosine in known if cosine is not None}, layer)
    return report.digests
