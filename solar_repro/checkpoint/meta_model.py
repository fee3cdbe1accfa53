"""Builds a model from its config on the meta device with transformers' own class: no weights, no code."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from solar_repro.checkpoint.config import follow_layers
from solar_repro.checkpoint.folder import Checkpoint
from solar_repro.checkpoint.layer_map import LayerMap
from solar_repro.checkpoint.tensor_origins import TensorOrigins
from solar_repro.safety.json_files import write_json

_NOT_BUILT_FROM = ("quantization_config", "auto_map", "_name_or_path")


class NotProved(Exception):
    """Something could not be proved; the message is the middle of a sentence."""


@dataclass(frozen=True)
class MetaModel:
    """A model on the meta device, its resolved config, its list of layers and the origins of its buffers."""

    settings: dict[str, Any]
    model: Any
    prefix: str
    layers: Any
    made: TensorOrigins


def complete_config(base: Checkpoint, config: dict[str, Any], layer_map: LayerMap) -> dict[str, Any]:
    """Add to the deeper model's `config` the per-layer lists that transformers derives from the base's.

    What a config decides by a layer's index alone (an interval, a count) then follows the layers.
    """
    try:
        resolved = _resolve(base.config).to_dict()
    except NotProved:
        return config
    added = {
        key: follow_layers(key, value, base.layers, layer_map)
        for key, value in resolved.items()
        if isinstance(value, list) and len(value) == base.layers and base.config.get(key) is None
    }
    changed = {key: value for key, value in added.items() if value != _default(config, key)}
    return {**config, **changed}


def _resolve(config: Mapping[str, Any]) -> Any:
    """Return the config as transformers reads it, in the class of its model_type; raises NotProved."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise NotProved(f"transformers has no model_type {kind!r} of its own")
    content = {key: value for key, value in config.items() if key not in _NOT_BUILT_FROM}
    try:  # through a file, because transformers reads its own spelling of infinity only there
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder, "config.json"), content)
            return CONFIG_MAPPING[kind].from_pretrained(folder)
    except Exception as error:  # each config class raises its own errors
        raise NotProved(f"transformers does not take the config ({_line(error)})") from error


def _default(config: Mapping[str, Any], key: str) -> Any:
    try:
        return _resolve(config).to_dict().get(key)
    except NotProved:
        return None


def build_on_meta(config: Mapping[str, Any], layers: int) -> MetaModel:
    """Build the causal decoder of a config; raises NotProved unless it has one list of `layers` layers."""
    resolved = _resolve(config)
    settings = resolved.to_dict()
    made = TensorOrigins()
    try:
        with torch.device("meta"), made.listening():
            model = AutoModelForCausalLM.from_config(
                resolved,
                attn_implementation="eager",
                experts_implementation="batched_mm",
                dtype=torch.float32,
                trust_remote_code=False,
            ).eval()
    except Exception as error:  # a model's constructor may raise anything
        raise NotProved(f"transformers does not build the model ({_line(error)})") from error
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
        raise NotProved(f"one list of {layers} layers is expected in {type(model).__name__}, found {found}")
    ((prefix, module),) = outer
    return MetaModel(settings, model, prefix, module, made)


def shorten(value: Any) -> str:
    """Return a value as one line of at most 120 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}…"


def _line(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}")
