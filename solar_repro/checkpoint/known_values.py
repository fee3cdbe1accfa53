"""Which tensors of a traced forward pass are zero for certain, and which equal an argument of their layer.

Block expansion zeroes the output projections of a layer. Following these zeros through the operations shows
that the layer returns what it is given.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_MAKES_ZERO = frozenset(["zeros", "zeros_like", "new_zeros", "zero_"])
_KEEPS_ZERO = frozenset(
    [
        "t",
        "view",
        "_unsafe_view",
        "transpose",
        "permute",
        "expand",
        "clone",
        "slice",
        "select",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "sum",
        "mean",
        "cat",
        "stack",
        "neg",
        "abs",
        "relu",
        "gelu",
        "silu",
        "tanh",
        "sqrt",
        "alias",
        "detach",
        "unsqueeze",
        "squeeze",
        "reshape",
        "_to_copy",
        "flip",
    ]
)
_ZERO_IF_FIRST = frozenset(["index_select", "gather", "index", "div", "repeat"])
_ZERO_IF_ANY = frozenset(["mm", "bmm", "mul", "mul_", "_grouped_mm", "_scaled_mm", "dot", "mv"])
_ADDS_INTO = frozenset(["index_add", "index_add_", "scatter_add", "scatter_add_"])
_KEEPS_VALUE = frozenset(["view", "_unsafe_view", "clone", "alias", "detach", "reshape"])


class KnownValues:
    """Tensors known to be zero, or to equal an argument of the layer that runs; updated by each operation.

    Tensors are known by `id`, and the tables keep them alive, so that no id is used twice.
    """

    def __init__(self) -> None:
        self._zeros: dict[int, torch.Tensor] = {}
        self._arguments: dict[int, tuple[torch.Tensor, str]] = {}

    def add_zero(self, tensor: torch.Tensor) -> None:
        """Count a tensor as zero."""
        self._zeros[id(tensor)] = tensor

    def begin_layer(self, arguments: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Begin a layer that is called with these tensors, each by its path among the arguments."""
        self._arguments = {id(tensor): (tensor, path) for path, tensor in arguments}

    def end_layer(self) -> None:
        """Forget the arguments of the layer."""
        self._arguments = {}

    def argument(self, tensor: torch.Tensor) -> str | None:
        """Return the path of the argument that a tensor equals, None if that is not known."""
        return self._arguments.get(id(tensor), (tensor, None))[1]

    def follow(self, func: Any, args: Any, kwargs: Any, made: list[torch.Tensor]) -> None:
        """Record what is known of the tensors that the operation `func` has made."""
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        zero = [id(t) in self._zeros for t in tensors]
        first = tensors[0] if tensors else None
        is_zero, same = False, None
        if name in _MAKES_ZERO:
            is_zero = True
        elif name in _KEEPS_ZERO:
            is_zero = bool(zero) and all(zero)
        elif name in _ZERO_IF_FIRST:
            is_zero = bool(zero) and zero[0] and not (name == "div" and any(zero[1:]))
        elif name in _ZERO_IF_ANY:
            is_zero = any(zero)
        elif name in ("add", "add_", "sub") and len(tensors) == 2:
            is_zero = all(zero)
        elif name in ("addmm", "baddbmm"):
            is_zero = zero[0] and any(zero[1:])
        elif name in _ADDS_INTO:
            is_zero = zero[0] and zero[-1]
        if name in ("add", "add_") and len(tensors) == 2 and any(zero) and kwargs.get("alpha", 1) == 1:
            same = self._arguments.get(id(tensors[0 if zero[1] else 1]))
        elif name in _KEEPS_VALUE and first is not None:
            same = self._arguments.get(id(first))
        if func._schema.is_mutable and not is_zero:
            # An operation in place also changes all tensors that share the memory.
            for changed in made:
                storage = changed.untyped_storage()._cdata
                for table in (self._zeros, self._arguments):
                    for i, entry in list(table.items()):
                        tensor = entry if isinstance(entry, torch.Tensor) else entry[0]
                        if tensor.untyped_storage()._cdata == storage:
                            del table[i]
        for tensor in made:
            self._zeros.pop(id(tensor), None)
            self._arguments.pop(id(tensor), None)
            if is_zero:
                self._zeros[id(tensor)] = tensor
            if same is not None:
                self._arguments[id(tensor)] = (tensor, same[1])
