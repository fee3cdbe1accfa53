"""What a merge is made of: the parents' tensors brought together by name, and the settings of each tensor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.headers import FLOAT_DTYPES, TensorRange
from solar_repro.checkpoint.tensor_names import LayerNames, embedding_name, head_name, is_recomputed
from solar_repro.errors import UserError

_COMPARED_BYTES = 1 << 20
# Config keys that say how a checkpoint was saved, not what it computes.
_INCIDENTAL = frozenset(["_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"])
T = TypeVar("T")


@dataclass(frozen=True)
class AlignedTensors:
    """For each tensor of the output the same tensor of every checkpoint."""

    tensors: Mapping[str, tuple[TensorRange, ...]]
    names: LayerNames
    tied: bool
    """Whether the output's head is its embedding, and not stored."""


def align_tensors(checkpoints: Sequence[Checkpoint]) -> AlignedTensors:
    """Bring the tensors of all checkpoints together by name, in the order of the first one's bytes.

    They may be sharded differently, stored in different dtypes, and saved with or without the prefix of the
    model inside (`transformer.`). Where one has an output head of its own, a tied one stands in with its
    embedding. Buffers that are computed anew are left out. UserError names the tensor that is missing or of
    another shape.
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
    """Config keys in which the checkpoints differ, but for those that only say how they were saved."""
    first, *others = (checkpoint.config for checkpoint in checkpoints)
    keys = sorted({key for config in (first, *others) for key in config} - _INCIDENTAL)
    missing = object()
    return [
        key for key in keys if any(other.get(key, missing) != first.get(key, missing) for other in others)
    ]


def by_pattern(setting: str, values: T | Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """The value of a setting for each tensor: one for all, or that of the first pattern that matches.

    Patterns are those of the shell (`*.mlp.*`). A tensor without a value and a pattern without a tensor are
    errors.
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
    """The dtype that holds all of these without loss: theirs if it is the same, else F32 or F64."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return dtypes.pop()
    return "F64" if "F64" in dtypes else "F32"


def _view(checkpoint: Checkpoint, names: LayerNames) -> dict[str, TensorRange]:
    """The tensors by the names that the output has, without what the model does not take from its files.

    That is buffers, and a stored head that the config ties and that is the embedding. One that differs is
    kept: transformers loads it in spite of the config.
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
