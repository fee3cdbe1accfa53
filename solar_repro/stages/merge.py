"""Merging models: average with weights or SLERP as in Sec. 4.1 and Table 7; for a recipe, every method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.merge import merge
from solar_repro.checkpoint.merge_options import Method
from solar_repro.checkpoint.model_source import model_folder
from solar_repro.store.result import NOTES, Log


def run(
    out: Path,
    log: Log,
    *,
    method: Method,
    first: Path | None = None,
    second: Path | None = None,
    models: Sequence[Path | str] = (),
    base: Path | str | None = None,
    **settings: Any,
) -> Mapping[str, str]:
    """Write the merge of `first` and `second`, or of `models`, to `out`; settings as for `checkpoint.merge`.

    The log gets the cosine between the parents by layer (the last value: the tensors outside the layers).
    Returns the sha256 of the shards by name.
    """
    parents = [path for path in (first, second) if path is not None] or [*map(model_folder, models)]
    report = merge(parents, out, method, base=None if base is None else model_folder(base), **settings)
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
