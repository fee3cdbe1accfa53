"""Records what a decoder computes, operation by operation, on PyTorch's meta device: no weights, no data.

A trace says for each layer which operations it makes, with which numbers, on its own parameters, on what the
previous layer returned and on what was made before all layers. Two layers with the same trace are the same
function of those, wherever they are.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from solar_repro.checkpoint.known_values import KnownValues
from solar_repro.checkpoint.tensor_origins import LiteralListener, comparable

TRACED_TOKENS = 7
"""Length of the traced sequence in tokens; no size of a model equals it, so no shape is mistaken."""

_ANSWERS = {torch.bool: True, torch.float32: 1.0}


class CannotTrace(Exception):
    """The model's computation cannot be recorded layer by layer; the message says why."""


@dataclass
class Trace:
    """Operations before the layers, in each layer, between two layers, and after the last."""

    before: list[Any] = field(default_factory=list)
    layers: list[list[Any]] = field(default_factory=list)
    between: list[list[Any]] = field(default_factory=list)
    behind: list[Any] = field(default_factory=list)
    identities: set[int] = field(default_factory=set)
    """Layers that return what they are given because of the parameters that are zero."""


@dataclass(frozen=True)
class _Made:
    """A tensor's origin: the `number`th one made before the layers (-1), in a layer, between or after."""

    part: str
    layer: int
    number: int


def trace(model: torch.nn.Module, layers: torch.nn.ModuleList, zero: Collection[str] = frozenset()) -> Trace:
    """Trace one forward pass of a model on the meta device, without a cache.

    `layers` is the model's list of layers, and `zero` names parameters that are zero. Raises CannotTrace if
    the pass depends on values or does not run each layer once and in order.
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
    """Names each tensor by its origin, and records each operation in terms of those names."""

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
        """In a layer: tensors of the layer before, with their paths among the arguments."""
        self._given_at: list[set[str]] = []
        self._first: dict[str, _Made] = {}
        """Paths among the first layer's arguments of tensors that were made before all layers."""
        self._known = KnownValues()
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
                self._known.add_zero(tensor)

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
        # The first layer gets tensors from before all layers; they are renamed as in the later layers.
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
        recorded: list[Any] = []
        for path, leaf in arguments:
            origin = self._origins.get(id(leaf)) if isinstance(leaf, torch.Tensor) else None
            if isinstance(origin, _Made) and origin.part != "before":
                self._render(leaf)  # raises if an earlier layer made it
                given[id(leaf)] = path
                recorded.append((path, ("given", path)))
                continue
            if number == 0 and isinstance(origin, _Made):
                self._first[path] = origin
            recorded.append((path, self._render(leaf)))
        self._part, self._current, self._count = "layer", number, 0
        self._entries = [("called with", tuple(recorded))]
        self.trace.layers.append(self._entries)
        self._given = given
        self._given_at.append(set(given.values()))
        self._known.begin_layer(
            (path, leaf)
            for path, leaf in arguments
            if isinstance(leaf, torch.Tensor) and (number == 0 or id(leaf) in given)
        )

    def _leave(self, number: int, _: torch.nn.Module, args: Any, result: Any) -> None:
        leaves = [(str(path), leaf) for path, leaf in tree_flatten_with_path(result)[0]]
        self._entries.append(("returns", tuple((path, self._render(leaf)) for path, leaf in leaves)))
        tensors = [leaf for _, leaf in leaves if isinstance(leaf, torch.Tensor)]
        self._handed.append({id(t): self._known.argument(t) for t in tensors})
        self._used.append(set())
        self._part, self._count, self._entries = "between", 0, []
        for position, tensor in enumerate(tensors):
            self._alive.append(tensor)
            self._origins[id(tensor)] = _Made("layer", number, -1 - position)
        self._given = {}
        self._known.end_layer()
        if number == len(self._layers) - 1:
            self._part, self._entries = "behind", self.trace.behind
        else:
            self.trace.between.append(self._entries)

    def _render(self, value: Any) -> Any:
        """Return a value as the trace records it."""
        if not isinstance(value, torch.Tensor):
            return comparable(value)
        if (path := self._given.get(id(value))) is not None:
            return ("given", path)
        origin = self._origins.get(id(value))
        if origin is None:
            if value.is_meta and not value.is_floating_point():
                # An index such as `x[..., [-1]]`, whose numbers are recorded behind the operation.
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
        recorded = tuple((str(path), self._render(leaf)) for path, leaf in leaves)
        if func is torch.ops.aten._local_scalar_dense.default:
            # The model reads a value, but tensors have none here. The same answer for base and deeper model
            # takes both down the same branch.
            self._entries.append((str(func), recorded, ()))
            return _ANSWERS.get(args[0].dtype, 1)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._known.follow(func, args, kwargs, made)
        for tensor in made:
            self._alive.append(tensor)
            self._given.pop(id(tensor), None)
            self._origins[id(tensor)] = _Made(self._part, self._current, self._count)
            self._count += 1
        self._entries.append((str(func), recorded, tuple((str(t.dtype), tuple(t.shape)) for t in made)))
        return result


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _replace(part: Any, renamed: Mapping[Any, Any]) -> Any:
    if isinstance(part, _Made):
        return renamed.get(part, part)
    return tuple(_replace(item, renamed) for item in part) if isinstance(part, tuple) else part
