"""The config of a deeper model: the layer count, and whatever the base's config says layer by layer."""

from collections.abc import Callable, Mapping
from typing import Any

from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.errors import UserError

# Config keys that decide what a layer is by its index, and how. A copy must be what its source is.
_INDEX_RULES: Mapping[str, Callable[[int, int], Any]] = {
    "sliding_window_pattern": lambda layer, period: (layer + 1) % period == 0,
    "decoder_sparse_step": lambda layer, period: (layer + 1) % period == 0,
    "max_window_layers": lambda layer, count: layer < count,
    "first_k_dense_replace": lambda layer, count: layer < count,
    "scale_attn_by_inverse_layer_idx": lambda layer, on: layer if on else 0,
}
_NO_LAYER_LISTS = frozenset(["architectures", "bos_token_id", "eos_token_id", "pad_token_id"])


def deepen_config(base: Checkpoint, layer_map: LayerMap) -> dict[str, Any]:
    """Return the config with the new layer count and its per-layer lists (`layer_types`, …) re-mapped.

    A config that gives layers a kind by their index alone is refused where a copy would change its kind.
    """
    config = dict(base.config)
    config |= dict.fromkeys(base.names.count_keys, len(layer_map.layers))
    for key, value in base.config.items():
        if isinstance(value, list) and key not in _NO_LAYER_LISTS:
            config[key] = _remap(key, value, base.layers, layer_map)
    for key, period in _index_settings(base.config).items():
        kind = _INDEX_RULES[key]
        for new, old in enumerate(layer_map.layers):
            if kind(new, period) != kind(old, period):
                raise UserError(
                    f"{base.folder / 'config.json'}: {key} = {base.config.get(key, period)} would make new "
                    f"layer {new} another kind than its source {old}; write layer_types or choose another map"
                )
    return config


def _remap(key: str, values: list[Any], layers: int, layer_map: LayerMap) -> list[Any]:
    is_index_list = (
        key.endswith("layers")
        and all(type(value) is int and 0 <= value < layers for value in values)
        and len(set(values)) == len(values)
        and (len(values) != layers or sorted(values) == list(range(layers)))
    )
    if is_index_list:
        return [new for new, old in enumerate(layer_map.layers) if old in values]
    return [values[old] for old in layer_map.layers] if len(values) == layers else values


def _index_settings(config: Mapping[str, Any]) -> dict[str, int]:
    settings = {key: config[key] for key in _INDEX_RULES if type(config.get(key)) in (int, bool)}
    if isinstance(config.get("layer_types"), list):
        settings.pop("sliding_window_pattern", None)
        settings.pop("max_window_layers", None)
    elif config.get("model_type") == "gemma2":  # every second layer slides; old configs don't say so
        settings["sliding_window_pattern"] = 2
    if not config.get("use_sliding_window", False):
        settings.pop("max_window_layers", None)
    return {key: value for key, value in settings.items() if value}
