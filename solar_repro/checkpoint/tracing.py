"""What a decoder computes, written down operation by operation on PyTorch's meta device: no weights, no data.

A trace tells of each layer which operations it makes, with which numbers, on its own parameters, on what the
layer before it gave and on what was made before all layers. Two layers with the same trace are the same
function of those, whatever their place.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from solar_repro.checkpoint.tensor_origins import LiteralListener, comparable

TRACED_TOKENS = 7
"""Tokens of the traced sequence: no size of a model, so that no shape is taken for another."""

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


_ANSWERS = {torch.bool: True, torch.float32: 1.0}


class CannotTrace(Exception):
    """The model's computation cannot be written down layer by layer; the message says why."""


@dataclass
class Trace:
    """Operations before the layers, of each layer, between one layer and the next, and behind them."""

    before: list[Any] = field(default_factory=list)
    layers: list[list[Any]] = field(default_factory=list)
    between: list[list[Any]] = field(default_factory=list)
    behind: list[Any] = field(default_factory=list)
    identities: set[int] = field(default_factory=set)
    """Layers that hand on what they are given, unchanged, because of the parameters that are zero."""


@dataclass(frozen=True)
class _Made:
    """A tensor's origin: the `number`th tensor made before the layers (-1), in a layer, between or behind."""

    part: str
    layer: int
    number: int


def trace(model: torch.nn.Module, layers: torch.nn.ModuleList, zero: Collection[str] = frozenset()) -> Trace:
    """Trace one forward pass of a model on the meta device, without a cache.

    `layers` is the model's list of layers; `zero` names parameters that are zero. What depends on values, or
    does not run each layer once and in order, raises CannotTrace.
    """
    recorder = _Recorder(model, layers, zero)
    tokens = torch.zeros((1, TRACED_TOKENS), dtype=torch.long, device="meta")
    recorder.name(tokens, "tokens")
    for module in model.modules():
        if getattr(getattr(module, "config", None), "pad_token_id", None) is not None:
            object.__setattr__(
                module.config, "pad_token_id", None
            )  # else the model looks for padding among the tokens
    try:
        with recorder.listening(), torch.no_grad():
            model(input_ids=tokens, use_cache=False)
    except CannotTrace:
        raise
    except Exception as error:  # models raise whatever they like where a value is missing
        raise CannotTrace(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return recorder.finish()


class _Recorder(TorchDispatchMode):
    """Names each tensor by where it comes from, and writes each operation down in terms of those names."""

    def __init__(self, model: torch.nn.Module, layers: torch.nn.ModuleList, zero: Collection[str]) -> None:
        super().__init__()
        self.trace = Trace()
        self._layers = layers
        self._part, self._current = "before", -1
        self._entries = self.trace.before
        self._count = 0
        self._origins: dict[int, Any] = {}
        self._alive: list[torch.Tensor] = []
        self._given: dict[int, str] = {}
        """In a layer: what the layer before it made, by the place among the arguments."""
        self._given_at: list[set[str]] = []
        self._first: dict[str, _Made] = {}
        """Where among the first layer's arguments lies what was made before all layers."""
        self._zero: dict[int, torch.Tensor] = {}
        self._same: dict[int, tuple[torch.Tensor, str]] = {}
        """What has the value of an argument of the layer, and of which."""
        self._handed: list[dict[int, str | None]] = []
        self._used: list[set[tuple[int, str | None]]] = []
        places = {id(layer): number for number, layer in enumerate(layers)}
        prefixes = {
            f"{name}.": places[id(module)] for name, module in model.named_modules() if id(module) in places
        }
        for name, tensor in _tensors(model):
            prefix = next((p for p in prefixes if name.startswith(p)), None)
            origin = ("layer", prefixes[prefix], name.removeprefix(prefix)) if prefix else ("model", name)
            self._origins.setdefault(id(tensor), origin)
            if name in zero:
                self._zero[id(tensor)] = tensor

    def name(self, tensor: torch.Tensor, name: str) -> None:
        self._origins[id(tensor)] = ("model", name)
        self._alive.append(tensor)

    @contextmanager
    def listening(self) -> Iterator[None]:
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                for handle in (
                    layer.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True),
                    layer.register_forward_hook(partial(self._leave, number)),
                ):
                    stack.callback(handle.remove)
            with LiteralListener(self.name, self._indexed), self:
                yield

    def _indexed(self, index: str) -> None:
        self._entries.append(("index", index))

    def finish(self) -> Trace:
        if self._part != "behind":
            raise CannotTrace("not every layer is run")
        paths = self._given_at[1] if len(self._layers) > 1 else set()
        if any(found != paths for found in self._given_at[1:]):
            raise CannotTrace("layers pass different things on")
        # What the first layer is given comes from before all layers; it is called as in those behind it.
        renamed = {self._first[path]: ("given", path) for path in paths if path in self._first}
        first = self.trace.layers[0]
        self.trace.before.append(tuple((path, self._first.get(path)) for path in sorted(paths)))
        self.trace.layers[0] = [_replace(entry, renamed) for entry in first]
        for number, (handed, used) in enumerate(zip(self._handed, self._used, strict=True)):
            if len(paths) == 1 and used and all(handed.get(i) in paths for i, _ in used):
                self.trace.identities.add(number)
        return self.trace

    def _enter(self, number: int, _: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if number != self._current + 1 or self._part == "layer":
            raise CannotTrace(f"layer {number} is run out of order")
        arguments = [(str(path), leaf) for path, leaf in tree_flatten_with_path((args, kwargs))[0]]
        given: dict[int, str] = {}
        said: list[Any] = []
        for path, leaf in arguments:
            origin = self._origins.get(id(leaf)) if isinstance(leaf, torch.Tensor) else None
            if isinstance(origin, _Made) and origin.part != "before":
                self._render(leaf)  # refuses what an earlier layer made
                given[id(leaf)] = path
                said.append((path, ("given", path)))
                continue
            if number == 0 and isinstance(origin, _Made):
                self._first[path] = origin
            said.append((path, self._render(leaf)))
        self._part, self._current, self._count = "layer", number, 0
        self._entries = [("called with", tuple(said))]
        self.trace.layers.append(self._entries)
        self._given = given
        self._given_at.append(set(given.values()))
        self._same = {
            id(leaf): (leaf, path)
            for path, leaf in arguments
            if isinstance(leaf, torch.Tensor) and (number == 0 or id(leaf) in given)
        }

    def _leave(self, number: int, _: torch.nn.Module, args: Any, result: Any) -> None:
        leaves = [(str(path), leaf) for path, leaf in tree_flatten_with_path(result)[0]]
        self._entries.append(("returns", tuple((path, self._render(leaf)) for path, leaf in leaves)))
        tensors = [leaf for _, leaf in leaves if isinstance(leaf, torch.Tensor)]
        self._handed.append({id(t): self._same.get(id(t), (t, None))[1] for t in tensors})
        self._used.append(set())
        self._part, self._count, self._entries = "between", 0, []
        for position, tensor in enumerate(tensors):
            self._alive.append(tensor)
            self._origins[id(tensor)] = _Made("layer", number, -1 - position)
        self._given, self._same = {}, {}
        if number == len(self._layers) - 1:
            self._part, self._entries = "behind", self.trace.behind
        else:
            self.trace.between.append(self._entries)

    def _render(self, value: Any) -> Any:
        """A value as it stands in the trace."""
        if not isinstance(value, torch.Tensor):
            return comparable(value)
        if (path := self._given.get(id(value))) is not None:
            return ("given", path)
        origin = self._origins.get(id(value))
        if origin is None:
            if value.is_meta and not value.is_floating_point():
                # An index such as `x[..., [-1]]`, whose numbers are said behind the operation.
                return ("index", str(value.dtype), tuple(value.shape))
            if value.is_meta:
                raise CannotTrace("a tensor comes from outside the model")
            return ("constant", str(value.dtype), str(value.tolist()))
        if isinstance(origin, _Made):
            if origin.part == "before":
                return origin
            if origin.layer == self._current:
                if self._part in ("between", "behind") and origin.part == "layer":
                    self._used[-1].add((id(value), None))
                return (origin.part, origin.number)
            raise CannotTrace(f"what layer {origin.layer} makes is used in layer {self._current} too")
        if origin[0] == "layer":
            _, layer, rest = origin
            if self._part == "layer" and layer == self._current:
                return ("own", rest)
            raise CannotTrace(f"{rest} of layer {layer} is used outside that layer")
        return origin

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_flatten_with_path((args, kwargs))[0]
        said = tuple((str(path), self._render(leaf)) for path, leaf in leaves)
        if func is torch.ops.aten._local_scalar_dense.default:
            # The model looks at a value, which nothing here has. One and the same answer, for base and deeper
            # model alike, takes both down the same branch.
            self._entries.append((str(func), said, ()))
            return _ANSWERS.get(args[0].dtype, 1)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._follow_zeros(func, args, kwargs, made)
        for tensor in made:
            self._alive.append(tensor)
            self._given.pop(id(tensor), None)
            self._origins[id(tensor)] = _Made(self._part, self._current, self._count)
            self._count += 1
        self._entries.append((str(func), said, tuple((str(t.dtype), tuple(t.shape)) for t in made)))
        return result

    def _follow_zeros(self, func: Any, args: Any, kwargs: Any, made: list[torch.Tensor]) -> None:
        """Which of the tensors made are zero for certain, and which have the value of an argument."""
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        zero = [id(t) in self._zero for t in tensors]
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
            same = self._same.get(id(tensors[0 if zero[1] else 1]))
        elif name in _KEEPS_VALUE and first is not None:
            same = self._same.get(id(first))
        if func._schema.is_mutable and not is_zero:
            # What shares memory with a tensor that is changed is not what it was.
            for changed in made:
                storage = changed.untyped_storage()._cdata
                for table in (self._zero, self._same):
                    for i, entry in list(table.items()):
                        tensor = entry if isinstance(entry, torch.Tensor) else entry[0]
                        if tensor.untyped_storage()._cdata == storage:
                            del table[i]
        for tensor in made:
            self._zero.pop(id(tensor), None)
            self._same.pop(id(tensor), None)
            if is_zero:
                self._zero[id(tensor)] = tensor
            if same is not None:
                self._same[id(tensor)] = (tensor, same[1])


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _replace(part: Any, renamed: Mapping[Any, Any]) -> Any:
    if isinstance(part, _Made):
        return renamed.get(part, part)
    return tuple(_replace(item, renamed) for item in part) if isinstance(part, tuple) else part
