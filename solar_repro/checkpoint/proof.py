"""Whether a deeper model is what the layer map says, settled on PyTorch's meta device before a byte is copied.

Base and deeper model are built from their configs with transformers' own classes, without weights and without
code of the checkpoint's. Each layer of the deeper one must be what its source is: classes, parameters, attributes,
the numbers its buffers come from, and every operation of a forward pass. What cannot be shown is refused.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.config import COUNT_KEYS, follow_layers
from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.errors import UserError

if TYPE_CHECKING:
    import torch

    from solar_repro.checkpoint.tracing import Expressions

_NOT_BUILT_FROM = ("quantization_config", "auto_map", "_name_or_path")
_OWN_INDEX = re.compile(r".*(idx|index|layer_id|layer_num|layer_number|block_id).*")
_RULES = re.compile(r".*(layer|period|offset|interval|pattern|idx|every|sparse_step|index|depth).*")


class Unproved(Exception):
    """What could not be shown; the message is the middle of a sentence."""


@dataclass(frozen=True)
class _Built:
    """A model on the meta device, its resolved config, its layers and what its buffers come from."""

    settings: dict[str, Any]
    model: Any
    prefix: str
    layers: Any
    made: "Expressions"


@dataclass(frozen=True)
class _Pair:
    """Base and deeper model, and how the layers of the one come from those of the other."""

    old: _Built
    new: _Built
    layer_map: LayerMap

    def expected(self, key: str, value: Any) -> Any:
        """A value of the base's as the deeper model should have it."""
        return follow_layers(key, value, self.layer_map.base_layers, self.layer_map)

    def is_count(self, one: Any, other: Any) -> bool:
        """Whether the two are the numbers of layers, by whatever name."""
        return one == self.layer_map.base_layers and other == len(self.layer_map.layers)


def complete_config(base: Checkpoint, config: dict[str, Any], layer_map: LayerMap) -> dict[str, Any]:
    """The deeper model's config with the per-layer lists that transformers derives from the base's own keys.

    What a config decides by the layer's index alone (an interval, a count) then follows the layers.
    """
    try:
        resolved = _resolve(base.config).to_dict()
    except Unproved:
        return config
    added = {
        key: follow_layers(key, value, base.layers, layer_map)
        for key, value in resolved.items()
        if isinstance(value, list) and len(value) == base.layers and base.config.get(key) is None
    }
    changed = {key: value for key, value in added.items() if value != _default(config, key)}
    return {**config, **changed}


def prove(
    base: Checkpoint,
    config: Mapping[str, Any],
    layer_map: LayerMap,
    names: Collection[str],
    zeroed: Collection[str],
) -> None:
    """Show that a model of this `config` and these tensor `names` is the base's layers in the map's order.

    `zeroed` are the names whose tensors are zero; layers that hold them must leave what they get unchanged.
    What cannot be shown: UserError that names the layer, the attribute and the config's keys.
    """
    try:
        old, new = _build(base.config, base.layers), _build(config, len(layer_map.layers))
        pair = _Pair(old, new, layer_map)
        _same_settings(pair)
        _same_outside(pair)
        _same_layers(pair)
        zero = _fitting_names(base, new, names, zeroed)
        _same_computation(pair, zero)
    except Unproved as reason:
        raise UserError(
            f"{base.folder / 'config.json'}: it is not proved that {layer_map.name} is right for this model: "
            f"{reason}{_rules(base.config)}; choose another layer map, or go on at your own risk with "
            "-P upscale.unproved=true"
        ) from None


def _rules(config: Mapping[str, Any]) -> str:
    """The config's keys that may say which layer is of which kind."""
    keys = [
        key
        for key, value in config.items()
        if _RULES.fullmatch(key)
        and key not in COUNT_KEYS
        and value is not None
        and not isinstance(value, float | dict)
        and value is not False
    ]
    return f" (config: {', '.join(sorted(keys)[:6])})" if keys else ""


def _resolve(config: Mapping[str, Any]) -> Any:
    """The config as transformers reads it, in the class of its model_type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise Unproved(f"transformers has no model_type {kind!r} of its own")
    try:
        return CONFIG_MAPPING[kind].from_dict(
            {key: value for key, value in config.items() if key not in _NOT_BUILT_FROM}
        )
    except Exception as error:  # each class checks in its own way
        raise Unproved(f"transformers does not take the config ({_line(error)})") from error


def _default(config: Mapping[str, Any], key: str) -> Any:
    try:
        return _resolve(config).to_dict().get(key)
    except Unproved:
        return None


def _build(config: Mapping[str, Any], layers: int) -> _Built:
    import torch
    from transformers import AutoModelForCausalLM

    from solar_repro.checkpoint.tracing import Expressions

    resolved = _resolve(config)
    settings = resolved.to_dict()
    made = Expressions()
    try:
        with torch.device("meta"), made.listening():
            model = AutoModelForCausalLM.from_config(
                resolved,
                attn_implementation="eager",
                experts_implementation="batched_mm",
                dtype=torch.float32,
                trust_remote_code=False,
            ).eval()
    except Exception as error:  # whatever a model's constructor raises
        raise Unproved(f"transformers does not build the model ({_line(error)})") from error
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers
    ]
    outer = [
        (name, module)
        for name, module in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists if other != name)
    ]
    if len(outer) != 1:
        found = ", ".join(name for name, _ in outer) or "none"
        raise Unproved(f"one list of {layers} layers is expected in {type(model).__name__}, found {found}")
    ((prefix, module),) = outer
    return _Built(settings, model, prefix, module, made)


def _same_settings(pair: _Pair) -> None:
    for key, value in pair.old.settings.items():
        if key in COUNT_KEYS or key in ("transformers_version", "dtype"):
            continue
        expected, got = pair.expected(key, value), pair.new.settings.get(key)
        if got != expected and not pair.is_count(value, got):
            raise Unproved(f"config key {key} would be {_short(got)} and not {_short(expected)}")


def _same_outside(pair: _Pair) -> None:
    """All that belongs to no layer: classes, parameters, buffers."""
    before, after = (dict(_outside(built)) for built in (pair.old, pair.new))
    for name in sorted(before.keys() ^ after.keys()):
        raise Unproved(f"{name} is there in one of base and new model alone")
    for name, module in before.items():
        _same_module(module, after[name], name, pair, 0, 0)


def _outside(built: _Built) -> Iterator[tuple[str, Any]]:
    for name, module in built.model.named_modules():
        if not f"{name}.".startswith(f"{built.prefix}."):
            yield name, module


def _same_layers(pair: _Pair) -> None:
    for target, source in enumerate(pair.layer_map.layers):
        given = dict(pair.old.layers[source].named_modules())
        made = dict(pair.new.layers[target].named_modules())
        where = f"new layer {target}, a copy of layer {source}"
        if type(given[""]) is not type(made[""]):
            raise Unproved(f"{where}, would be a {type(made['']).__name__} and not a {type(given['']).__name__}")
        for name in sorted(given.keys() ^ made.keys()):
            has = "would have" if name in made else "would lack"
            raise Unproved(f"{where}, {has} {name}")
        for name, module in given.items():
            _same_module(module, made[name], f"{where}: {name}".removesuffix(": "), pair, source, target)


def _same_module(given: Any, made: Any, where: str, pair: _Pair, source: int, target: int) -> None:
    import torch

    if type(given) is not type(made):
        raise Unproved(f"{where} would be a {type(made).__name__} and not a {type(given).__name__}")
    for kind in ("_parameters", "_buffers"):
        before, after = getattr(given, kind), getattr(made, kind)
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            shapes = [None if t is None else (tuple(t.shape), t.dtype) for t in (one, other)]
            if shapes[0] != shapes[1]:
                raise Unproved(f"{where}: {name} would be {shapes[1]} and not {shapes[0]}")
            if kind == "_buffers" and one is not None and pair.old.made.of(one) != pair.new.made.of(other):
                raise Unproved(f"{where}: the buffer {name} would hold other numbers")
    before, after = (_attributes(module) for module in (given, made))
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            one, other = pair.old.made.of(one), pair.new.made.of(other)
        if _same_value(pair.expected(name, one), other) or pair.is_count(one, other):
            continue
        if _OWN_INDEX.fullmatch(name) and _is_count(one) and _is_count(other) and other - one == target - source:
            continue
        raise Unproved(f"{where}: {name} would be {_short(other)} and not {_short(one)}")


def _attributes(module: Any) -> dict[str, Any]:
    hidden = ("_parameters", "_buffers", "_modules", "training")
    return {name: value for name, value in vars(module).items() if name not in hidden and "hook" not in name}


def _same_value(one: Any, other: Any) -> bool:
    """Equality of plain values; objects that are none count as equal where their classes are."""
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
    base: Checkpoint, new: _Built, names: Collection[str], zeroed: Collection[str]
) -> set[str]:
    """The model's parameters that are zero, where every tensor of the plan is one of the model's and the reverse.

    Quantised checkpoints hold tensors that the model has none of; of these the layers alone speak.
    """
    wanted = _wanted(new)
    stored: dict[str, list[str]] = {}
    for name in names:
        stored.setdefault(_model_name(new.model, name), []).append(name)
    if base.config.get("quantization_config") is None:
        tied = set(getattr(new.model, "all_tied_weights_keys", None) or ())
        for name in sorted(wanted - stored.keys() - tied):
            raise Unproved(f"the model wants a tensor {name}, which the base lacks")
        ignored = getattr(new.model, "_keys_to_ignore_on_load_unexpected", None) or ()
        buffers = {name for name, _ in new.model.named_buffers()}
        for name in sorted(stored.keys() - wanted - buffers - tied):
            recomputed = name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))
            if not recomputed and not any(re.search(pattern, name) for pattern in ignored):
                raise Unproved(f"the base holds a tensor {stored[name][0]}, which the model has no place for")
    return {name for name, sources in stored.items() if set(sources) <= set(zeroed)}


def _wanted(built: _Built) -> set[str]:
    return set(built.model.state_dict())


def _model_name(model: Any, name: str) -> str:
    """What transformers calls a stored tensor when it loads it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    return rename_source_key(name, renamings, converters, model.base_model_prefix, model.state_dict())[0]


def _same_computation(pair: _Pair, zero: Collection[str]) -> None:
    from solar_repro.checkpoint.tracing import CannotTrace, trace

    old, new, layer_map = pair.old, pair.new, pair.layer_map
    try:
        before, after = trace(old.model, old.layers), trace(new.model, new.layers, zero)
    except CannotTrace as reason:
        raise Unproved(f"its forward pass cannot be followed layer by layer: {reason}") from None
    for what, one, other in (("before", before.before, after.before), ("behind", before.behind, after.behind)):
        if one != other:
            raise Unproved(f"what is computed {what} the layers would change: {_difference(one, other)}")
    for target, source in enumerate(layer_map.layers):
        if after.layers[target] != before.layers[source]:
            raise Unproved(
                f"new layer {target} would compute something else than its source {source}: "
                f"{_difference(before.layers[source], after.layers[target])}"
            )
    steps = [*before.between, *after.between]
    if any(step != steps[0] for step in steps):
        raise Unproved("what is computed between two layers depends on which they are")
    for layer in layer_map.zeroed:
        if layer not in after.identities:
            raise Unproved(
                f"new layer {layer} would not hand on what it is given, though its output projections are zero "
                "(a bias, a norm behind them, or a scale)"
            )


def _difference(one: list[Any], other: list[Any]) -> str:
    for first, second in zip(one, other, strict=False):
        if first != second:
            return f"{_short(first)} would be {_short(second)}"
    return f"{len(one)} operations would be {len(other)}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}…"


def _line(error: Exception) -> str:
    return _short(f"{type(error).__name__}: {error}")
