"""Lays out the tensors of a new checkpoint: shards, their headers, and the index."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from solar_repro.checkpoint.headers import DISK_BLOCK, TensorRange, build_header
from solar_repro.errors import UserError
from solar_repro.safety.json_files import write_json
from solar_repro.store.model_files import INDEX_FILE, SINGLE_FILE

SHARD_BYTES = 5_000_000_000  # this is the default of transformers


@dataclass(frozen=True)
class Shard:
    """One output file: its header (the first bytes) and the range of each tensor by name."""

    name: str
    header: bytes
    tensors: Mapping[str, TensorRange]

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(tensor.length for tensor in self.tensors.values())


def plan_shards(
    tensors: Mapping[str, TensorRange], shard_bytes: int = SHARD_BYTES, clonable: bool = False
) -> tuple[Shard, ...]:
    """Divide tensors into shards, in their order; only their dtype, shape and length are used.

    A shard holds at most `shard_bytes` of tensors, or one larger tensor. With `clonable`, tensors get the
    offset within a disk block that most of their bytes have in their present files, so that file systems that
    share blocks can clone them.
    """
    if shard_bytes < 1:
        raise UserError(f"shard_bytes must be at least 1, not {shard_bytes}")
    groups: list[dict[str, TensorRange]] = []
    filled = 0
    for name, tensor in tensors.items():
        if not groups or filled + tensor.length > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += tensor.length
    return tuple(
        _shard(_file_name(number, len(groups)), group, clonable) for number, group in enumerate(groups, 1)
    )


def create_shards(shards: Sequence[Shard], out: Path) -> None:
    """Create the files of the shards at full size with their headers and zeros for tensors, and the index."""
    for shard in shards:
        with (out / shard.name).open("xb") as stream:
            stream.write(shard.header)
            stream.truncate(shard.bytes)
    write_index(shards, out)


def write_index(shards: Sequence[Shard], out: Path) -> None:
    """Write the index, which says which shard holds which tensor; a single file needs none."""
    if len(shards) > 1:
        weight_map = {name: shard.name for shard in shards for name in shard.tensors}
        total = sum(tensor.length for shard in shards for tensor in shard.tensors.values())
        write_json(out / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _file_name(number: int, count: int) -> str:
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _shard(name: str, group: Mapping[str, TensorRange], clonable: bool) -> Shard:
    place = _commonest_place(group.values()) if clonable else None
    header = build_header({tensor: (t.dtype, t.shape, t.length) for tensor, t in group.items()}, place)
    placed: dict[str, TensorRange] = {}
    offset = len(header)
    for tensor, t in group.items():
        placed[tensor] = TensorRange(Path(name), t.dtype, t.shape, offset, t.length)
        offset += t.length
    return Shard(name, header, placed)


def _commonest_place(group: Iterable[TensorRange]) -> int:
    """Return the offset in a disk block at which most bytes keep their present one; a multiple of eight."""
    bytes_by_place: dict[int, int] = {}
    position = 0
    for tensor in group:
        place = (tensor.offset - position) % DISK_BLOCK
        if place % 8 == 0:
            bytes_by_place[place] = bytes_by_place.get(place, 0) + tensor.length
        position += tensor.length
    return max(bytes_by_place, key=lambda place: bytes_by_place[place], default=0)
