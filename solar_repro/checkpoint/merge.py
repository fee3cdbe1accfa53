"""Merges checkpoints (paper, Sec.

3.2, Tables 6 and 7) tensor by tensor, in wide arithmetic and bounded memory.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from solar_repro.checkpoint.config import without_code
from solar_repro.checkpoint.copying import CopyRange, copy_chunks
from solar_repro.checkpoint.folder import carry_files, open_checkpoint
from solar_repro.checkpoint.headers import DTYPE_BITS, FLOAT_DTYPES, TensorRange, element_count
from solar_repro.checkpoint.merge_inputs import align_tensors, by_pattern, config_differences, widest_dtype
from solar_repro.checkpoint.merge_methods import TensorRecipe
from solar_repro.checkpoint.merge_options import METHODS, TASK_VECTOR_METHODS, Dtype, Method
from solar_repro.checkpoint.merge_report import MergeReport, report_on
from solar_repro.checkpoint.merge_schedule import TensorMerge
from solar_repro.checkpoint.merge_stream import stream_merge
from solar_repro.checkpoint.shards import SHARD_BYTES, create_shards, plan_shards
from solar_repro.errors import UserError
from solar_repro.safety.json_files import write_json
from solar_repro.safety.paths import require_space
from solar_repro.store.hashing import FollowingHasher
from solar_repro.terminal.progress import Progress

_CODES: dict[Dtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}


def merge(
    sources: Sequence[Path],
    out: Path,
    method: Method,
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    t: float | Mapping[str, float] = 0.5,
    base: Path | None = None,
    density: float = 0.5,
    scale: float = 1.0,
    dtype: Dtype | None = None,
    seed: int = 0,
    accumulate: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
    shard_bytes: int = SHARD_BYTES,
    hashing: bool = True,
) -> MergeReport:
    """Merge checkpoints of one shape into `out`, an existing empty folder; the caller publishes it.

    average          Σ wᵢ·θᵢ (weights as given, 1/k each by default)
    slerp            spherical between two parents at `t`, per tensor; linear where |cos| > 0.9995
    task_arithmetic  base + scale·Σ wᵢ·(θᵢ − base)  (arXiv 2212.04089)
    ties             trim to `density`, elect signs, mean of those that agree  (arXiv 2306.01708)
    dare             task vectors thinned to `density` by `seed` and rescaled  (arXiv 2311.03099)

    `t` and `weights` may be given by pattern of the tensor name; the first that matches counts. `dtype` is
    the output dtype; None keeps the parents' dtype, widened if they differ. `accumulate` is the dtype of the
    arithmetic. Config and tokenizer are the first parent's. Raises UserError naming the tensor that is
    missing, has another shape, or holds NaN or Inf.
    """
    _check(sources, method, base, density, scale, accumulate, dtype)
    _check_device(device)
    parents = [open_checkpoint(source) for source in sources]
    inputs = [*parents, *([open_checkpoint(base)] if base is not None else [])]
    aligned = align_tensors(inputs)
    merged = {name: ranges for name, ranges in aligned.tensors.items() if ranges[0].dtype in FLOAT_DTYPES}
    if not merged:
        raise UserError(f"{parents[0].folder}: holds no floating-point tensor; there is nothing to merge")
    recipes = _recipes(list(merged), len(parents), method, weights, t, density, scale, seed)
    planned: dict[str, TensorRange] = {}
    for name, ranges in aligned.tensors.items():
        own = widest_dtype(ranges[: len(parents)])
        code = _CODES[dtype] if dtype is not None and name in merged else own
        length = element_count(ranges[0].shape) * DTYPE_BITS[code] // 8
        planned[name] = TensorRange(Path(), code, ranges[0].shape, 0, length)
    shards = plan_shards(planned, shard_bytes)
    require_space(out, sum(shard.bytes for shard in shards))
    create_shards(shards, out)
    write_json(out / "config.json", _config(parents[0].config, planned, aligned.tied))
    carry_files(parents[0].folder, out)

    places = {name: (out / shard.name, tensor) for shard in shards for name, tensor in shard.tensors.items()}
    jobs = [
        TensorMerge(name, merged[name], _in_file(*places[name]), recipes[name], has_base=base is not None)
        for name in merged
    ]
    sizes = {out / shard.name: shard.bytes for shard in shards}
    total = sum(job.output.length for job in jobs)
    with (
        FollowingHasher(sizes if hashing else {}) as hasher,
        Progress(f"merging ({method})", total, "B") as progress,
    ):
        for shard in shards:
            hasher.written(out / shard.name, 0, len(shard.header))
        copies = [
            CopyRange(
                ranges[0].file, ranges[0].offset, places[name][0], places[name][1].offset, ranges[0].length
            )
            for name, ranges in aligned.tensors.items()
            if name not in merged
        ]
        copy_chunks(copies, lambda copy: hasher.written(copy.target, copy.target_offset, copy.length))
        stream_merge(jobs, accumulate, device, hasher, progress)
        digests = hasher.digests()
    return report_on(jobs, aligned.names, list(sources), base, config_differences(inputs), digests)


def _check(
    sources: Sequence[Path],
    method: str,
    base: Path | None,
    density: float,
    scale: float,
    accumulate: str,
    dtype: str | None,
) -> None:
    if method not in METHODS:
        raise UserError(f"merge: unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if method == "slerp" and len(sources) != 2:
        raise UserError(f"merge: slerp takes two sources, not {len(sources)}")
    if len(sources) < 1:
        raise UserError("merge: no sources; give at least one checkpoint")
    if (base is not None) != (method in TASK_VECTOR_METHODS):
        raise UserError(f"merge: {method} {'needs a' if base is None else 'takes no'} base")
    if not math.isfinite(scale):
        raise UserError(f"merge: scale must be finite, not {scale}")
    if not 0 < density <= 1:
        raise UserError(f"merge: density must lie in (0, 1], not {density}")
    if accumulate not in ("float32", "float64"):
        raise UserError(f"merge: accumulate must be float32 or float64, not {accumulate!r}")
    if dtype is not None and dtype not in _CODES:
        raise UserError(f"merge: unknown dtype {dtype!r}; choose one of {', '.join(_CODES)}")


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"merge: device {device!r} cannot be used ({reason}); choose cpu or cuda") from error


def _recipes(
    names: Sequence[str],
    parents: int,
    method: Method,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None,
    t: float | Mapping[str, float],
    density: float,
    scale: float,
    seed: int,
) -> dict[str, TensorRecipe]:
    weight_of = by_pattern("weights", [1 / parents] * parents if weights is None else weights, names)
    t_of = by_pattern("t", t, names)
    for name in names:
        if len(weight_of[name]) != parents or not all(map(math.isfinite, weight_of[name])):
            raise UserError(
                f"weights: {list(weight_of[name])} for {name!r}; give one finite number per source"
            )
        if not 0 <= t_of[name] <= 1:
            raise UserError(f"t: {t_of[name]} for {name!r} does not lie in 0 … 1")
    return {
        name: TensorRecipe(
            method, tuple(map(float, weight_of[name])), float(t_of[name]), density, scale, seed
        )
        for name in names
    }


def _config(config: Mapping[str, Any], planned: Mapping[str, TensorRange], tied: bool) -> dict[str, Any]:
    """Return the first parent's config with the dtype of most of the output; untied if a parent is.

    `auto_map` is removed, because the code that it names is not copied.
    """
    new = without_code(config)
    lengths: dict[str, int] = {}
    for tensor in planned.values():
        lengths[tensor.dtype] = lengths.get(tensor.dtype, 0) + tensor.length
    names = {code: name for name, code in _CODES.items()}
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    new[key] = names[max((code for code in lengths if code in names), key=lambda code: lengths[code])]
    if not tied:
        new["tie_word_embeddings"] = False
    return new


def _in_file(file: Path, tensor: TensorRange) -> TensorRange:
    return TensorRange(file, tensor.dtype, tensor.shape, tensor.offset, tensor.length)
