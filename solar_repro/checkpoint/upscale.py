"""Depth up-scaling (paper, Sec.

2): copies the base's tensors as ranges of bytes to the deeper model's shards.

Nothing here imports torch, and no tensor passes through Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.config import deepen_config, is_plain, without_code
from solar_repro.checkpoint.copying import CHUNK_BYTES, CopyRange, coalesce, copy_chunks, split
from solar_repro.checkpoint.folder import Checkpoint, carry_files, open_checkpoint
from solar_repro.checkpoint.headers import FLOAT_DTYPES, TensorRange
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.checkpoint.shards import SHARD_BYTES, Shard, create_shards, plan_shards
from solar_repro.checkpoint.tensor_names import output_projections
from solar_repro.errors import UserError
from solar_repro.safety.json_files import write_json
from solar_repro.safety.paths import require_space
from solar_repro.store.hashing import FollowingHasher
from solar_repro.terminal.progress import Progress


@dataclass(frozen=True)
class UpscalePlan:
    """Everything about an up-scaling before a byte is written."""

    base: Checkpoint
    layer_map: LayerMap
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    sources: dict[str, TensorRange]
    """The base's range that each new tensor copies; a zeroed tensor has none."""
    parameters: int

    @property
    def bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the base that are read, each counted once however often it is copied."""
        return sum(tensor.length for tensor in set(self.sources.values()))

    def __str__(self) -> str:
        base = self.base
        lines = [
            f"base         {base.folder}",
            f"             {base.layers} layers, {base.parameters:,} parameters, {base.bytes:,} bytes",
            f"layer map    {self.layer_map}",
            f"new model    {len(self.layer_map.layers)} layers, {self.parameters:,} parameters",
            f"reads        {self.bytes_to_read:,} bytes",
            f"writes       {self.bytes:,} bytes, files: {len(self.shards)}",
            f"time         about {self.bytes / 1e9:.1f} s at 1 GB/s",
        ]
        return "\n".join(lines)


def plan_upscale(
    source: Path, layer_map: LayerMap, shard_bytes: int = SHARD_BYTES, unproved: bool = False
) -> UpscalePlan:
    """Plan the deeper model from the base's headers; raises UserError if map and checkpoint do not fit.

    If the base's type is not known to be plain, the plan is proved on PyTorch's meta device, or refused;
    `unproved` skips the proof.
    """
    base = open_checkpoint(source)
    names = base.names
    if layer_map.base_layers != base.layers:
        raise UserError(
            f"{base.folder}: has {base.layers} layers, but {layer_map.name} is for {layer_map.base_layers}; "
            "make the layer map for this base"
        )
    plain = is_plain(base)
    by_layer: list[dict[str, TensorRange]] = [{} for _ in range(base.layers)]
    new: dict[str, TensorRange] = {}
    for name, tensor in base.tensors.items():
        if place := names.split(name):
            by_layer[place[0]][place[1]] = tensor
        else:
            new[name] = tensor
    zeroed: set[str] = set()
    for layer, base_layer in enumerate(layer_map.layers):
        tensors = by_layer[base_layer]
        new |= {names.join(layer, rest): tensor for rest, tensor in tensors.items()}
        if layer in layer_map.zeroed:
            projections = output_projections(list(tensors))
            # For other types the proof decides whether they are enough.
            if len({rest.rpartition(".")[0] for rest in projections}) < (2 if plain else 1):
                raise UserError(
                    f"{base.folder}: cannot identify the output projections of layer {base_layer} among "
                    f"{', '.join(sorted(tensors))}; block expansion needs one of attention and one of the MLP"
                )
            zeroed |= {names.join(layer, rest) for rest in projections}
    if zeroed:
        _refuse_quantised(base, {name: new[name] for name in zeroed})
    config = without_code(deepen_config(base, layer_map))
    if not plain:
        from solar_repro.checkpoint.meta_model import complete_config
        from solar_repro.checkpoint.proof import prove_layer_map

        config = complete_config(base, config, layer_map)
        if not unproved:
            prove_layer_map(base, config, layer_map, new, zeroed)
    deeper = Checkpoint(base.folder, config, new)
    sources = {name: tensor for name, tensor in new.items() if name not in zeroed}
    return UpscalePlan(
        base, layer_map, config, plan_shards(new, shard_bytes, clonable=True), sources, deeper.parameters
    )


def _refuse_quantised(base: Checkpoint, zeroed: Mapping[str, TensorRange]) -> None:
    """Refuse zeros in quantised weights: such a zero depends on the scale and the code table."""
    quantised = next((name for name, tensor in zeroed.items() if tensor.dtype not in FLOAT_DTYPES), None)
    if quantised or base.config.get("quantization_config"):
        what = f"{quantised} holds {zeroed[quantised].dtype}" if quantised else "quantization_config is set"
        raise UserError(
            f"{base.folder}: block expansion needs weights that are not quantised, but {what}; "
            "up-scale the model it was quantised from"
        )


def write_upscale(plan: UpscalePlan, out: Path, hashing: bool = True) -> dict[str, str]:
    """Write the planned model to `out`, an existing empty folder; the caller publishes it.

    Returns the SHA-256 of each shard by file name, an empty dictionary without `hashing`.
    """
    require_space(out, plan.bytes)
    create_shards(plan.shards, out)
    write_json(out / "config.json", plan.config)
    carry_files(plan.base.folder, out)
    chunks = _chunks(plan, out)
    total = sum(chunk.length for chunk in chunks)
    with (
        FollowingHasher(
            {out / shard.name: shard.bytes for shard in plan.shards} if hashing else {}
        ) as hasher,
        Progress("up-scaling", total, "B") as progress,
    ):

        def done(chunk: CopyRange) -> None:
            progress.advance(chunk.length)
            hasher.written(chunk.target, chunk.target_offset, chunk.length)

        for shard in plan.shards:
            hasher.written(out / shard.name, 0, len(shard.header))
            for name, tensor in shard.tensors.items():
                if name not in plan.sources:
                    hasher.written(out / shard.name, tensor.offset, tensor.length)
        copy_chunks(chunks, done)
        return hasher.digests()


def _chunks(plan: UpscalePlan, out: Path) -> list[CopyRange]:
    """Return the copies in chunks; those of one range of the base are adjacent, so that it is read once."""
    copies = coalesce(
        CopyRange(source.file, source.offset, out / shard.name, tensor.offset, tensor.length)
        for shard in plan.shards
        for name, tensor in shard.tensors.items()
        if (source := plan.sources.get(name)) is not None
    )
    first_use: dict[tuple[Path, int], int] = {}
    chunks = [chunk for copy in copies for chunk in split(copy, CHUNK_BYTES)]
    for position, chunk in enumerate(chunks):
        first_use.setdefault((chunk.source, chunk.source_offset // CHUNK_BYTES), position)
    return sorted(chunks, key=lambda chunk: first_use[chunk.source, chunk.source_offset // CHUNK_BYTES])
