"""The config of a deeper model: the new layer count, and all that the base's config says per layer."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.errors import UserError

PLAIN_TYPES = frozenset(
    ["gemma", "gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3", "starcoder2"]
)
"""Model types with equal, pre-norm layers, so that any layer may be anywhere; a test proves each."""
_UNLIKE_LAYERS = ("scale_attn_by_inverse_layer_idx", "add_cross_attention", "quantization_config")
"""Config keys that make layers differ even in those model types."""
_NO_LAYER_LISTS = frozenset(["architectures", "bos_token_id", "eos_token_id", "pad_token_id"])
_INDEX_LIST = re.compile(r".*(layers|idxs|indices|layer_ids)")


def deepen_config(base: Checkpoint, layer_map: LayerMap) -> dict[str, Any]:
    """Return the base's config with the new layer count, re-mapped per-layer lists and renamed layers."""
    config = dict(base.config)
    for key, value in base.config.items():
        if isinstance(value, list | str) and key not in _NO_LAYER_LISTS:
            value = follow_layers(key, value, base.layers, layer_map)
        config[key] = _rename(base, key, value, layer_map)
    return config | dict.fromkeys(base.names.count_keys, len(layer_map.layers))


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without `auto_map`, whose code is not copied, if transformers has its own class."""
    if "auto_map" not in config:
        return dict(config)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = config.get("model_type") in CONFIG_MAPPING
    return {key: value for key, value in config.items() if key != "auto_map" or not known}


def follow_layers(key: str, value: Any, layers: int, layer_map: LayerMap) -> Any:
    """Return a config value, if it describes each of the base's `layers`, as the deeper model needs it.

    That can be a list or pattern with an entry per layer, a list of layer indices, or GPT-Neo's
    `attention_types`; any other value is returned unchanged.
    """
    if key == "attention_types" and (each := _attention_types(value)) and len(each) == layers:
        return [[[each[old] for old in layer_map.layers], 1]]
    if isinstance(value, str):
        is_pattern = key.endswith("pattern") and len(value) == layers
        return "".join(value[old] for old in layer_map.layers) if is_pattern else value
    if not isinstance(value, list):
        return value
    is_index_list = (
        _INDEX_LIST.fullmatch(key) is not None
        and all(type(item) is int and 0 <= item < layers for item in value)
        and len(set(value)) == len(value)
        and (len(value) != layers or sorted(value) == list(range(layers)))
    )
    if is_index_list:
        return [new for new, old in enumerate(layer_map.layers) if old in value]
    return [value[old] for old in layer_map.layers] if len(value) == layers else value


def is_plain(base: Checkpoint) -> bool:
    """Whether any layer of the base may be anywhere in a deeper model, as far as is known without PyTorch.

    True for the model types in PLAIN_TYPES if neither config nor tensors make one layer unlike the others.
    """
    config = base.config
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in PLAIN_TYPES or any(config.get(key) for key in _UNLIKE_LAYERS):
        return False
    if config.get("use_sliding_window") and "layer_types" not in config:
        return False
    for key, value in config.items():
        if isinstance(value, list) and key not in _NO_LAYER_LISTS and len(value) == base.layers:
            if any(item != value[0] for item in value):
                return False
        elif isinstance(value, list) and _INDEX_LIST.fullmatch(key) and value:
            return False
    shapes: list[dict[str, tuple[int, ...]]] = [{} for _ in range(base.layers)]
    for name, tensor in base.tensors.items():
        if place := base.names.split(name):
            shapes[place[0]][place[1]] = tensor.shape
    return all(layer == shapes[0] for layer in shapes)


def _attention_types(value: Any) -> list[Any]:
    """Return GPT-Neo's `[[["global", "local"], 12]]` layer by layer; an empty list for anything else."""
    try:
        each = (kind for kinds, times in value if kinds for _ in range(times) for kind in kinds)
        return list(itertools.islice(each, 10_000))
    except (TypeError, ValueError):
        return []


def _rename(base: Checkpoint, key: str, value: Any, layer_map: LayerMap) -> Any:
    """Return the value with the names of layers, anywhere inside it, as they are in the deeper model.

    A name in a list (`quantization_config.modules_to_not_convert`) or as a key stands for a module, and each
    copy gets one. Raises UserError for other texts that name a layer, and for patterns.
    """
    if isinstance(value, Mapping):
        renamed: dict[str, Any] = {}
        for name, item in value.items():
            for new in _renamed(base, key, name, layer_map):
                renamed[new] = _rename(base, f"{key}.{name}", item, layer_map)
        return renamed
    if isinstance(value, list):
        found: list[Any] = []
        for item in value:
            if isinstance(item, str):
                found += _renamed(base, key, item, layer_map)
            else:
                found.append(_rename(base, key, item, layer_map))
        return found
    if isinstance(value, str) and "." in key and _renamed(base, key, value, layer_map) != [value]:
        raise UserError(
            f"{base.folder / 'config.json'}: {key} = {value!r} names a layer by its number, which changes "
            "here; remove the key"
        )
    return value


def _renamed(base: Checkpoint, key: str, name: str, layer_map: LayerMap) -> list[str]:
    container = base.names.prefix.rstrip(".").rpartition(".")[2]
    match = re.fullmatch(rf"((?:[\w.]*\.)?{re.escape(container)}\.)(\d+)((?:\.[\w.*]*)?)", name)
    if match:
        source = int(match[2])
        return [f"{match[1]}{new}{match[3]}" for new, old in enumerate(layer_map.layers) if old == source]
    if re.search(rf"(?<!\w){re.escape(container)}\W{{1,4}}\d|\\\.\W*\d", name):
        raise UserError(
            f"{base.folder / 'config.json'}: {key} holds {name!r}, a pattern that names layers by number, "
            "and their new numbers cannot be derived from it; write the modules' names instead"
        )
    return [name]
