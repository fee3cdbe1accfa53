"""Scales are read: one YAML file each, with overrides by dotted path (`-P sft.learning_rate=1e-5`).

A key that does not exist, a wrong type or an impossible value is one line that names file, key, value and the
nearest valid key.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from solar_repro.errors import UserError, did_you_mean
from solar_repro.safety.plain_yaml import read_yaml, read_yaml_file
from solar_repro.scales.explain import explain
from solar_repro.scales.settings import Scale

FOLDER = Path(__file__).parent


def scale_names() -> list[str]:
    """The scales that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_scale(scale: str, overrides: Mapping[str, str] | None = None) -> Scale:
    """Read a scale by name or by path of a YAML file, with dotted overrides. Bad input raises UserError."""
    path = Path(scale) if scale.endswith((".yaml", ".yml")) else FOLDER / f"{scale}.yaml"
    if not path.is_file():
        raise UserError(f"scale {scale!r}: no such scale; {did_you_mean(scale, scale_names())}")
    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path.name}: expected sections such as 'base:' and 'sft:'")
    source = path.name
    for dotted, text in (overrides or {}).items():
        _set(content, dotted, text)
        source = f"{path.name} with overrides"
    mirror = os.environ.get("SOLAR_MIRROR")
    if mirror and isinstance(content.get("data"), dict) and "data.mirror" not in (overrides or {}):
        content["data"]["mirror"] = mirror
    try:
        loaded = Scale.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise UserError(explain(error, source, Scale)) from None
    loaded.alignment("cand_1")
    loaded.alignment("cand_2")
    return loaded


def as_yaml(scale: Scale) -> str:
    """The whole scale as a file that `load_scale` reads: every setting, also what nobody set."""
    return yaml.safe_dump(scale.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _set(content: dict[str, Any], dotted: str, text: str) -> None:
    if not text.strip():
        raise UserError(f"override {dotted}: the value is empty; give one, or leave it out")
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        value = text
    *sections, key = dotted.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"override {dotted}={text}: {section!r} is a setting, not a section")
    content[key] = value
