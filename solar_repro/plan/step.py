"""One stage on one variant: what it runs on, and the key of its result."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from solar_repro.contract import (
    BaseModelSettings,
    ContaminateSettings,
    MergeSettings,
    PackedSettings,
    StageSettings,
    TrainingSettings,
)
from solar_repro.scales.section import Section, plain
from solar_repro.stages.table import STAGES
from solar_repro.store.versions import version

MODEL_STAGES = tuple(name for name, stage in STAGES.items() if stage.makes_model)
_NAMED_IN_LABEL = ("packed", "reference", "untrained", "evaluate", "contamination")
UNKNOWN = "unknown"
"""Stands in a dry plan for a digest that the hub did not give."""
_LONGEST_LABEL = 48
_PARAMETER_NAME = re.compile(r"[\w. :/-]+")  # what MLflow takes


@dataclass(frozen=True)
class Step:
    """One stage on one variant: what to run, on what, and the key of its result."""

    stage: str
    variant: str
    settings: StageSettings
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """Hub id of each data set (or `model` for a base) → digest of its full content."""
    places: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the stage's inputs that do not come from other steps. They say where things lie and how to
    reach them, and the key leaves them out."""

    @cached_property
    def key(self) -> str:
        """SHA-256 over the stage and its version, settings, keys of the inputs, data and libraries."""
        stage = STAGES[self.stage]
        parts = {
            "stage": self.stage,
            "version": stage.version,
            "settings": plain(self.settings),
            "inputs": {name: step.key for name, step in self.inputs.items()},
            "data": dict(self.data),
            "libraries": {name: version(name) for name in (*stage.libraries, *self._optional_libraries())},
        }
        if isinstance(self.settings, MergeSettings) and self.settings.patterns:
            parts["order"] = self.settings.patterns  # sorted below, but the first match counts
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _optional_libraries(self) -> tuple[str, ...]:
        """Distributions that the settings ask for."""
        sections = (value for _, value in self.settings if isinstance(value, Section))
        return tuple(name for section in sections for name in section.libraries)

    @cached_property
    def training_seed(self) -> int | None:
        """Seed of the training behind the result, or before it; None where nothing above the base is trained.

        The seed of `contaminate` draws texts and ignores `seed_offset`, so it does not count.
        """
        settings = self.settings
        if isinstance(settings, TrainingSettings | PackedSettings) and not isinstance(
            settings, ContaminateSettings
        ):
            return settings.seed
        return next((seed for step in self.inputs.values() if (seed := step.training_seed) is not None), None)

    @property
    def is_known(self) -> bool:
        """Whether all that the key rests on is known."""
        return UNKNOWN not in self.data.values() and all(step.is_known for step in self.inputs.values())

    @property
    def label(self) -> str:
        """The run's name: the variant, and behind it the stage where that is of a model, or of a text."""
        return f"{self.variant}.{self.stage}" if self.stage in _NAMED_IN_LABEL else self.variant

    @property
    def folder(self) -> str:
        """Name of the result's folder; file systems take 255 bytes, and a recipe may have any name."""
        return f"{self.label[:_LONGEST_LABEL]}-{self.key[:8]}"

    @property
    def makes_model(self) -> bool:
        return STAGES[self.stage].makes_model

    @property
    def is_copy(self) -> bool:
        """Whether the result is a copy of what the key names by its digest, a checkpoint given or shipped."""
        settings = self.settings
        return isinstance(settings, BaseModelSettings) and (
            settings.base is None or settings.trained is not None
        )

    def parameters(self) -> dict[str, str]:
        """The resolved settings, and where things lie, flat and dotted, as they are logged."""
        places = {
            name: plain(place) if isinstance(place, BaseModel) else str(place)
            for name, place in self.places.items()
        }
        return dict(_flatten({**plain(self.settings), "places": places}))


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
    """The targets and all that they are made from, inputs first, each once."""
    seen: dict[str, Step] = {}

    def visit(step: Step) -> None:
        for parent in step.inputs.values():
            visit(parent)
        seen.setdefault(step.key, step)

    for target in targets:
        visit(target)
    return list(seen.values())
