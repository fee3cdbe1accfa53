"""Aligns the tensors of a merge's parents by name, and selects settings for each tensor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.headers import FLOAT_DTYPES, TensorRange
from solar_repro.checkpoint.tensor_names import LayerNames, embedding_name, head_name, is_recomputed
from solar_repro.errors import UserError

_COMPARED_BYTES = 1 << 20
# These config keys say how a checkpoint was saved, not what it computes.
_INCIDENTAL = frozenset(["_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"])
T = TypeVar("T")


@dataclass(frozen=True)
class AlignedTensors:
    """For each tensor of the output, the same tensor of every checkpoint."""

    tensors: Mapping[str, tuple[TensorRange, ...]]
    names: LayerNames
    tied: bool
    """Whether the output head is the embedding and is not stored."""


def align_tensors(checkpoints: Sequence[Checkpoint]) -> AlignedTensors:
    """Align the tensors of all checkpoints by name, in the order of the first one's bytes.

    Checkpoints may be sharded differently, have different dtypes, and be saved with or without the prefix of
    the inner model (`transformer.`). If one has an output head of its own, the embedding of a tied one is
    used as its head. Buffers that are recomputed are left out. Raises UserError naming the tensor that is
    missing or has another shape.
    """
    names = max((checkpoint.names for checkpoint in checkpoints), key=lambda names: len(names.prefix))
    views = [_view(checkpoint, names) for checkpoint in checkpoints]
    head = next(filter(None, map(head_name, views)), None)
    tensors: dict[str, tuple[TensorRange, ...]] = {}
    for name in dict.fromkeys(name for view in views for name in view):
        found = [_embedding_for(view, name, head) for view in views]
        for checkpoint, tensor in zip(checkpoints, found, strict=True):
            first = found[0] or tensor
            if tensor is None:
                raise UserError(
                    f"{checkpoint.folder}: has no tensor {name!r}; only models of one kind can be merged"
                )
            if tensor.shape != first.shape:
                raise UserError(
                    f"{checkpoint.folder}: tensor {name!r} is {list(tensor.shape)}, not {list(first.shape)}; "
                    "only models of one shape can be merged"
                )
            _refuse_unmergeable(name, tensor, first)
        tensors[name] = tuple(tensor for tensor in found if tensor is not None)
    return AlignedTensors(tensors, names, tied=head is None)


def config_differences(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return the config keys in which the checkpoints differ, except those about how they were saved."""
    first, *others = (checkpoint.config for checkpoint in checkpoints)
    keys = sorted({key for config in (first, *others) for key in config} - _INCIDENTAL)
    missing = object()
    return [
        key for key in keys if any(other.get(key, missing) != first.get(key, missing) for other in others)
    ]


def by_pattern(setting: str, values: T | Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """Return the value of a setting for each tensor: one for all, or that of the first matching pattern.

    Patterns are those of the shell (`*.mlp.*`). Raises UserError for a tensor without a pattern and a pattern
    without a tensor.
    """
    if not isinstance(values, Mapping):
        return dict.fromkeys(names, values)
    chosen: dict[str, T] = {}
    unused = dict.fromkeys(values)
    for name in names:
        pattern = next((pattern for pattern in values if fnmatchcase(name, pattern)), None)
        if pattern is None:
            raise UserError(f"{setting}: no pattern matches tensor {name!r}; add one, or '*' as the last")
        chosen[name] = values[pattern]
        unused.pop(pattern, None)
    for pattern in unused:
        raise UserError(f"{setting}: pattern {pattern!r} is used for no tensor; correct or remove it")
    return chosen


def widest_dtype(tensors: Sequence[TensorRange]) -> str:
    """Return the dtype that holds all of these without loss: the common one, else F32 or F64."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return dtypes.pop()
    return "F64" if "F64" in dtypes else "F32"


def _view(checkpoint: Checkpoint, names: LayerNames) -> dict[str, TensorRange]:
    """Return the tensors by their names in the output, without those that the model does not load.

    These are recomputed buffers, and a stored head that the config ties and that equals the embedding. A head
    that differs is kept, because transformers loads it in spite of the config.
    """
    own = checkpoint.names.prefix
    missing = names.prefix.removesuffix(own) if names.prefix != own and names.prefix.endswith(own) else ""
    head, embedding = head_name(checkpoint.tensors), embedding_name(checkpoint.tensors)
    if head is not None and not (
        checkpoint.config.get("tie_word_embeddings") is True
        and embedding is not None
        and _equal(checkpoint.tensors[head], checkpoint.tensors[embedding])
    ):
        head = None
    return {
        name if head_name([name]) else missing + name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name != head and not is_recomputed(name, tensor.shape)
    }


def _equal(one: TensorRange, other: TensorRange) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and _same_bytes(one, other)


def _embedding_for(view: Mapping[str, TensorRange], name: str, head: str | None) -> TensorRange | None:
    if name in view or name != head:
        return view.get(name)
    embedding = embedding_name(view)
    return None if embedding is None else view[embedding]


def _refuse_unmergeable(name: str, tensor: TensorRange, first: TensorRange) -> None:
    if tensor.dtype in FLOAT_DTYPES and first.dtype in FLOAT_DTYPES:
        return
    if tensor.dtype != first.dtype or tensor.dtype.startswith("F") or not _same_bytes(tensor, first):
        raise UserError(
            f"{tensor.file}: tensor {name!r} is {tensor.dtype} and differs from the others; "
            f"only {', '.join(sorted(FLOAT_DTYPES))} can be merged"
        )


def _same_bytes(one: TensorRange, other: TensorRange) -> bool:
    with one.file.open("rb") as a, other.file.open("rb") as b:
        a.seek(one.offset)
        b.seek(other.offset)
        for start in range(0, one.length, _COMPARED_BYTES):
            count = min(_COMPARED_BYTES, one.length - start)
            if a.read(count) != b.read(count):
                return False
    return True
