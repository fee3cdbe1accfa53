"""Proves on the meta device, before a byte is copied, that a deeper model is what its layer map says.

Base and deeper model are built from their configs with transformers' own classes, without weights or code of
the checkpoint. Each layer of the deeper model must be what its source is: classes, parameters, attributes,
the numbers of its buffers, and every operation of a forward pass. What cannot be proved is refused.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from solar_repro.checkpoint.config import follow_layers
from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.headers import TensorRange
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.checkpoint.meta_model import MetaModel, NotProved, build_on_meta, shorten
from solar_repro.checkpoint.tensor_names import COUNT_KEYS, is_recomputed
from solar_repro.checkpoint.tracing import CannotTrace, trace
from solar_repro.errors import UserError

_OWN_INDEX = re.compile(r".*(idx|index|layer_id|layer_num|layer_number|block_id).*")
_RULES = re.compile(r".*(layer|period|offset|interval|pattern|idx|every|sparse_step|dense|index|depth).*")


@dataclass(frozen=True)
class _Pair:
    """Base and deeper model, and which base layer each new layer copies."""

    old: MetaModel
    new: MetaModel
    layer_map: LayerMap

    def expected(self, key: str, value: Any) -> Any:
        """Return a value of the base as the deeper model should have it."""
        return follow_layers(key, value, self.layer_map.base_layers, self.layer_map)

    def is_count(self, one: Any, other: Any) -> bool:
        """Whether the two values are the numbers of layers, under any name."""
        return one == self.layer_map.base_layers and other == len(self.layer_map.layers)


def prove_layer_map(
    base: Checkpoint,
    config: Mapping[str, Any],
    layer_map: LayerMap,
    tensors: Mapping[str, TensorRange],
    zeroed: Collection[str],
) -> None:
    """Prove that a model of this `config` and these `tensors` is the base's layers in the order of the map.

    `zeroed` names the tensors that are zero; layers that hold them must return what they are given. Raises
    UserError, which names layer, attribute and config keys, for what cannot be proved.
    """
    try:
        old, new = build_on_meta(base.config, base.layers), build_on_meta(config, len(layer_map.layers))
        pair = _Pair(old, new, layer_map)
        _same_settings(pair)
        _same_outside(pair)
        _same_layers(pair)
        zero = _fitting_names(base, new, tensors, zeroed)
        _same_computation(pair, zero)
    except NotProved as reason:
        raise UserError(
            f"{base.folder / 'config.json'}: it is not proved that {layer_map.name} is right for this model: "
            f"{reason}{_rules(base.config)}; choose another layer map, or continue at your own risk with "
            "-P upscale.unproved=true"
        ) from None


def _rules(config: Mapping[str, Any]) -> str:
    """Return a hint with the config keys that may say which layer is of which kind."""
    keys = [
        key
        for key, value in config.items()
        if _RULES.fullmatch(key)
        and "norm" not in key
        and key not in COUNT_KEYS
        and value is not None
        and not isinstance(value, float | dict)
        and value is not False
    ]
    return f" (config: {', '.join(sorted(keys)[:6])})" if keys else ""


def _same_settings(pair: _Pair) -> None:
    for key, value in pair.old.settings.items():
        if key in COUNT_KEYS or key in ("transformers_version", "dtype", "_name_or_path"):
            continue
        expected, got = pair.expected(key, value), pair.new.settings.get(key)
        if got != expected and not pair.is_count(value, got):
            raise NotProved(f"config key {key} would be {shorten(got)} and not {shorten(expected)}")


def _same_outside(pair: _Pair) -> None:
    """Compare all that belongs to no layer: classes, parameters, buffers."""
    before, after = (dict(_outside(built)) for built in (pair.old, pair.new))
    for name in sorted(before.keys() ^ after.keys()):
        raise NotProved(f"{name} exists in only one of the base and the new model")
    for name, module in before.items():
        if type(module) is not type(after[name]):
            raise NotProved(
                f"{name} would be a {type(after[name]).__name__} and not a {type(module).__name__}"
            )
        _same_module(module, after[name], name or "the model", pair, 0, 0)


def _outside(built: MetaModel) -> Iterator[tuple[str, Any]]:
    for name, module in built.model.named_modules():
        if not f"{name}.".startswith(f"{built.prefix}."):
            yield name, module


def _same_layers(pair: _Pair) -> None:
    for target, source in enumerate(pair.layer_map.layers):
        given = dict(pair.old.layers[source].named_modules())
        made = dict(pair.new.layers[target].named_modules())
        where = f"new layer {target}, a copy of layer {source}"
        for name in (name for name in given if name in made):
            kinds = [type(module).__name__ for module in (given[name], made[name])]
            if kinds[0] != kinds[1]:
                part = f"{where}: {name}" if name else f"{where},"
                raise NotProved(f"{part} would be a {kinds[1]} and not a {kinds[0]}")
        for name in sorted(given.keys() ^ made.keys()):
            has = "would have" if name in made else "would lack"
            raise NotProved(f"{where}, {has} {name}")
        for name, module in given.items():
            _same_module(module, made[name], f"{where}: {name}".removesuffix(": "), pair, source, target)


def _same_module(given: Any, made: Any, where: str, pair: _Pair, source: int, target: int) -> None:
    for kind in ("_parameters", "_buffers"):
        before, after = getattr(given, kind), getattr(made, kind)
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            shapes = [None if t is None else (tuple(t.shape), t.dtype) for t in (one, other)]
            if shapes[0] != shapes[1]:
                raise NotProved(f"{where}: {name} would be {shapes[1]} and not {shapes[0]}")
            if kind == "_buffers" and one is not None and pair.old.made.of(one) != pair.new.made.of(other):
                raise NotProved(f"{where}: the buffer {name} would hold other numbers")
    before, after = (_attributes(module) for module in (given, made))
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            one, other = pair.old.made.of(one), pair.new.made.of(other)
        if _same_value(pair.expected(name, one), other) or pair.is_count(one, other):
            continue
        if (
            _OWN_INDEX.fullmatch(name)
            and _is_count(one)
            and _is_count(other)
            and other - one == target - source
        ):
            continue
        raise NotProved(f"{where}: {name} would be {shorten(other)} and not {shorten(one)}")


def _attributes(module: Any) -> dict[str, Any]:
    hidden = ("_parameters", "_buffers", "_modules", "training")
    return {name: value for name, value in vars(module).items() if name not in hidden and "hook" not in name}


def _same_value(one: Any, other: Any) -> bool:
    """Whether two values are equal; other objects than plain values count as equal if their classes are."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same_value(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same_value, one, other))
    if isinstance(one, type(None) | bool | int | float | str | bytes | set | frozenset):
        return one == other
    if callable(one):
        return getattr(one, "__qualname__", None) == getattr(other, "__qualname__", None)
    return True


def _is_count(value: Any) -> bool:
    return type(value) is int


def _fitting_names(
    base: Checkpoint, new: MetaModel, tensors: Mapping[str, TensorRange], zeroed: Collection[str]
) -> set[str]:
    """Return the model's parameters that are zero, once planned and expected tensors are the same set.

    Quantised checkpoints hold tensors that the model does not have; for them only the layers are compared.
    """
    state = new.model.state_dict()
    wanted, called = set(state), _model_names(new.model, state)
    stored: dict[str, list[str]] = {}
    for name in tensors:
        stored.setdefault(called(name), []).append(name)
    if base.config.get("quantization_config") is None:
        tied = set(getattr(new.model, "all_tied_weights_keys", None) or ())
        for name in sorted(wanted - stored.keys() - tied):
            raise NotProved(f"the model wants a tensor {name}, which the base lacks")
        ignored = getattr(new.model, "_keys_to_ignore_on_load_unexpected", None) or ()
        buffers = {name for name, _ in new.model.named_buffers()}
        for name in sorted(stored.keys() - wanted - buffers - tied):
            own = stored[name][0]
            recomputed = is_recomputed(name, tensors[own].shape)
            if not recomputed and not any(re.search(pattern, name) for pattern in ignored):
                raise NotProved(f"the base holds a tensor {own}, which the model has no place for")
    return {name for name, sources in stored.items() if set(sources) <= set(zeroed)}


def _model_names(model: Any, wanted: Mapping[str, Any]) -> Callable[[str], str]:
    """Return the function that gives the name under which transformers loads a stored tensor."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix
    return lambda name: rename_source_key(name, renamings, converters, prefix, wanted)[0]


def _same_computation(pair: _Pair, zero: Collection[str]) -> None:
    old, new, layer_map = pair.old, pair.new, pair.layer_map
    try:
        before, after = trace(old.model, old.layers), trace(new.model, new.layers, zero)
    except CannotTrace as reason:
        raise NotProved(f"its forward pass cannot be followed layer by layer: {reason}") from None
    for what, one, other in (
        ("before", before.before, after.before),
        ("behind", before.behind, after.behind),
    ):
        if one != other:
            raise NotProved(f"what is computed {what} the layers would change: {_difference(one, other)}")
    for target, source in enumerate(layer_map.layers):
        if after.layers[target] != before.layers[source]:
            raise NotProved(
                f"new layer {target} would compute something else than its source {source}: "
                f"{_difference(before.layers[source], after.layers[target])}"
            )
    steps = [*before.between, *after.between]
    if any(step != steps[0] for step in steps):
        raise NotProved("what is computed between two layers depends on their numbers")
    for layer in layer_map.zeroed:
        if layer not in after.identities:
            raise NotProved(
                f"new layer {layer} would not hand on what it is given, though its output projections are "
                "zero (a bias, a norm behind them, or a scale)"
            )


def _difference(one: list[Any], other: list[Any]) -> str:
    for first, second in zip(one, other, strict=False):
        if first != second:
            return f"{shorten(first)} would be {shorten(second)}"
    return f"{len(one)} operations would be {len(other)}"
