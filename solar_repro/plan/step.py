"""One stage on one variant: what it runs on, and the key of its result.

A step's settings, inputs and places become the keyword arguments of its stage's `run`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from solar_repro.scales.section import Section, plain
from solar_repro.store.code_digest import code_digest, version

MODEL_STAGES = ("base", "upscale", "continue_pretrain", "sft", "dpo", "merge", "contaminate")
TRAINING_STAGES = ("continue_pretrain", "sft", "dpo")
LAUNCHED_STAGES = (*TRAINING_STAGES, "contaminate")
"""Stages that run a trainer: in several processes where that is asked for."""
STAGES = ("microworld", "data", "synth_math", *MODEL_STAGES, "untrained", "evaluate", "contamination")
_OF_A_MODEL = ("untrained", "evaluate", "contamination")
UNKNOWN = "unknown"
"""In place of a digest that the hub did not tell; in a dry plan alone."""
_LONGEST_LABEL = 48
_PARAMETER_NAME = re.compile(r"[\w. :/-]+")  # what MLflow takes


@dataclass(frozen=True)
class Step:
    """One stage on one variant: what to run, on what, and the key of its result."""

    stage: str
    variant: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """Hub id of each data set (or `model` for a base) → digest of its full content."""
    places: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that say where things lie and how they are got at, not what they are: no part of the key."""

    @cached_property
    def key(self) -> str:
        """sha256 over stage, settings, keys of the inputs, data fingerprints, code and libraries."""
        parts = {
            "stage": self.stage,
            "settings": plain(self.settings),
            "inputs": {name: step.key for name, step in self.inputs.items()},
            "data": dict(self.data),
            "code": code_digest(f"solar_repro.stages.{self.stage}"),
            "libraries": {name: version(name) for name in self._libraries()},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _libraries(self) -> tuple[str, ...]:
        sections = (value for value in self.settings.values() if isinstance(value, Section))
        return tuple(name for section in sections for name in section.libraries)

    @cached_property
    def training_seed(self) -> int | None:
        """Seed of the training behind the result; None where nothing above the base was trained.

        That of `contaminate` draws texts, and is the same in every repeat.
        """
        if self.stage in TRAINING_STAGES:
            return self.settings["seed"]
        return next((seed for step in self.inputs.values() if (seed := step.training_seed) is not None), None)

    @property
    def is_known(self) -> bool:
        """Whether all that the key rests on is known."""
        return UNKNOWN not in self.data.values() and all(step.is_known for step in self.inputs.values())

    @property
    def label(self) -> str:
        """The run's name: the variant, and behind it the stage where that makes no model."""
        return f"{self.variant}.{self.stage}" if self.stage in _OF_A_MODEL else self.variant

    @property
    def folder(self) -> str:
        """Name of the result's folder; file systems take 255 bytes, and a recipe may have any name."""
        return f"{self.label[:_LONGEST_LABEL]}-{self.key[:8]}"

    @property
    def makes_model(self) -> bool:
        return self.stage in MODEL_STAGES

    @property
    def is_copy(self) -> bool:
        """Whether the result is a copy of what the key names by its digest, a checkpoint given or shipped."""
        return self.stage == "base" and ("model" in self.places or "trained" in self.settings)

    def parameters(self) -> dict[str, str]:
        """The resolved settings, and where things lie, flat and dotted, as they are logged."""
        places = {
            name: plain(place) if isinstance(place, BaseModel) else str(place)
            for name, place in self.places.items()
        }
        return dict(_flatten(plain({**self.settings, "places": places})))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and not all(map(_PARAMETER_NAME.fullmatch, value)):
        yield prefix, json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _flatten(item, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from _flatten({k: v for k, v in item.items() if k != "name"}, f"{prefix}.{item['name']}")
    else:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def ordered(targets: list[Step]) -> list[Step]:
    """The targets and all they stand on, inputs first, each once."""
    seen: dict[str, Step] = {}

    def visit(step: Step) -> None:
        for parent in step.inputs.values():
            visit(parent)
        seen.setdefault(step.key, step)

    for target in targets:
        visit(target)
    return list(seen.values())
