"""Digests of how tensors were computed, on PyTorch's meta device, which computes no values."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path


class LiteralListener(TorchFunctionMode):
    """Report literal numbers in a model's code, which PyTorch does not pass on to a TorchDispatchMode."""

    def __init__(self, made: Callable[[torch.Tensor, str], None], indexed: Callable[[str], None]) -> None:
        super().__init__()
        self._made, self._indexed = made, indexed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.tensor:
            self._made(result, _literal_text(args[:1] or kwargs.get("data")))
        elif func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            self._indexed(_literal_text(args[1]))
        return result


class TensorOrigins(TorchDispatchMode):
    """While entered, give each tensor that is made a digest of all that its value depends on."""

    def __init__(self) -> None:
        super().__init__()
        self._digests: dict[int, str] = {}
        self._alive: list[torch.Tensor] = []

    def of(self, tensor: torch.Tensor) -> str:
        """Return the digest of the operations that made a tensor, or of its values if it has some."""
        if (known := self._digests.get(id(tensor))) is not None:
            return known
        values = f"unknown {id(tensor)}" if tensor.is_meta else str(tensor.tolist())
        return _digest(str(tensor.dtype), str(tuple(tensor.shape)), values)

    @contextmanager
    def listening(self) -> Iterator[None]:
        with LiteralListener(self._literal, lambda _: None), self:
            yield

    def _literal(self, tensor: torch.Tensor, value: str) -> None:
        self._alive.append(tensor)
        self._digests[id(tensor)] = _digest(str(tensor.dtype), value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, _ = tree_flatten_with_path((args, kwargs))
        recorded = [
            (str(path), self.of(leaf) if isinstance(leaf, torch.Tensor) else comparable(leaf))
            for path, leaf in leaves
        ]
        result = func(*args, **kwargs)
        for number, (_, leaf) in enumerate(tree_flatten_with_path(result)[0]):
            if isinstance(leaf, torch.Tensor):
                self._alive.append(leaf)
                self._digests[id(leaf)] = _digest(str(func), str(recorded), str(number))
        return result


def comparable(value: Any) -> Any:
    """Return what a value that is no tensor is compared by: a number or text itself, else its class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return str(value)
    return type(value).__qualname__


def _literal_text(value: Any) -> str:
    """Return literal numbers, in whatever containers, as text."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_literal_text, value))})"
    if isinstance(value, slice):
        return f"{_literal_text(value.start)}:{_literal_text(value.stop)}:{_literal_text(value.step)}"
    return str(comparable(value))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
