"""Variants × scale = a graph of steps, each with a key made of everything that can change its result.

A step's settings, inputs and places become the keyword arguments of its stage's `run`.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from solar_repro import variants
from solar_repro.code_digest import code_digest
from solar_repro.data.fingerprint import fingerprint
from solar_repro.data.locate import locate
from solar_repro.errors import UserError
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.microworld.trained_base import trained_base_digest
from solar_repro.scales import EMBEDDED, Scale

MODEL_STAGES = ("base", "upscale", "continue_pretrain", "sft", "dpo", "merge")
STAGES = ("microworld", "data", "synth_math", *MODEL_STAGES, "evaluate", "contamination")


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
    """Arguments that say where things lie, not what they are: no part of the key."""

    @cached_property
    def key(self) -> str:
        """sha256 over stage, settings, keys of the inputs, data fingerprints and the code that runs."""
        parts = {
            "stage": self.stage,
            "settings": plain(self.settings),
            "inputs": {name: step.key for name, step in self.inputs.items()},
            "data": dict(self.data),
            "code": code_digest(f"solar_repro.stages.{self.stage}"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def label(self) -> str:
        """The run's name: the variant, and behind it the stage where that makes no model."""
        return f"{self.variant}.{self.stage}" if self.stage in ("evaluate", "contamination") else self.variant

    @property
    def folder(self) -> str:
        return f"{self.label}-{self.key[:8]}"

    @property
    def makes_model(self) -> bool:
        return self.stage in MODEL_STAGES

    def parameters(self) -> dict[str, str]:
        """The resolved settings, and where things lie, flat and dotted, as they are logged."""
        places = {name: str(place) for name, place in self.places.items()}
        return dict(_flatten(plain({**self.settings, "places": places})))


def plain(value: Any) -> Any:
    """Settings as JSON values: sections become dictionaries, tuples lists."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flatten(item, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from _flatten({k: v for k, v in item.items() if k != "name"}, f"{prefix}.{item['name']}")
    else:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class Plan:
    """The steps of a scale. Steps are made once, when first asked for, with what they stand on."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._steps: dict[tuple[str, str], Step] = {}
        self._embedded = scale.data.mirror == EMBEDDED
        self._mirror = Path(scale.data.mirror).resolve() if scale.data.mirror and not self._embedded else None
        if self._mirror and not self._mirror.is_dir():
            raise UserError(
                f"data.mirror: {scale.data.mirror} is no folder; set SOLAR_MIRROR or -P data.mirror=DIR to a "
                "folder laid out as the hub"
            )

    def model(self, name: str) -> Step:
        """The step that makes the variant's checkpoint."""
        variant = variants.variant(name)
        return self._once(variant.stage, variant.name, lambda: getattr(self, f"_{variant.stage}")(variant))

    def evaluation(self, name: str) -> Step:
        """H6 and held-out loss of the variant."""
        name = variants.variant(name).name
        return self._once("evaluate", name, lambda: self._evaluate(name))

    def contamination(self, name: str) -> Step:
        """Table 9's test of the variant."""
        name = variants.variant(name).name
        return self._once("contamination", name, lambda: self._contamination(name))

    def synth_math(self) -> Step:
        """Synth. Math-Instruct and Synth. Math-Alignment."""
        return self._once("synth_math", "synth_math", self._synth_math)

    def data(self, dataset: str) -> Step:
        """One set of Table 1 prepared and reported by itself, with the base's tokenizer."""
        if dataset not in variants.DATASETS:
            nearest = difflib.get_close_matches(dataset, variants.DATASETS, n=1, cutoff=0.3)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(variants.DATASETS)}"
            raise UserError(f"data set {dataset!r} is none of Table 1; {hint}")
        return self._once("data", dataset, lambda: self._data(dataset))

    def microworld(self) -> Step:
        """The embedded world's mirror."""
        if self.scale.world is None:
            raise UserError(f"scale {self.scale.name}: has no embedded world (section 'world')")
        settings = {"world": self.scale.world}
        return self._once("microworld", "microworld", lambda: Step("microworld", "microworld", settings))

    def main(self) -> list[Step]:
        """Every step of the paper at this scale, parents first, each model's scores behind it."""
        targets = [self.evaluation(name) for name in variants.MAIN]
        targets += [self.contamination(name) for name in self.scale.contamination.variants]
        return ordered(targets)

    def _once(self, stage: str, variant: str, make: Any) -> Step:
        if (stage, variant) not in self._steps:
            self._steps[stage, variant] = make()
        return self._steps[stage, variant]

    def _world(self) -> dict[str, Step]:
        return {"mirror": self.microworld()} if self._embedded else {}

    def _places(self) -> dict[str, Path | None]:
        return {} if self._embedded else {"mirror": self._mirror}

    def _locate(self, hub_id: str, stand_in: str | None = None) -> tuple[str, dict[str, str]]:
        """The id that is used, and its fingerprint by id (the embedded world's key speaks for its sets)."""
        if self._embedded:
            return hub_id, {hub_id: f"microworld:{self.microworld().key}"}
        location = locate(hub_id, self._mirror, stand_in)
        return location.used, {location.used: fingerprint(location)}

    def _base(self, variant: variants.Variant) -> Step:
        model = self.scale.base.model
        if model == EMBEDDED:
            settings: dict[str, Any] = {"base": self.scale.base.training}
            if not self.scale.base.retrain:
                settings["trained"] = trained_base_digest(self.scale.base.training)
            return Step("base", variant.name, settings, self._world())
        from solar_repro.stages.base import fingerprint_model

        digest = fingerprint_model(model)
        return Step("base", variant.name, {}, data={"model": digest}, places={"model": model})

    def _upscale(self, variant: variants.Variant) -> Step:
        settings: dict[str, Any] = {
            "layer_map": variant.layer_map,
            "shard_bytes": self.scale.upscale.shard_bytes,
        }
        if variant.layer_map == "dus":
            settings["m"] = self.scale.upscale.m
        return Step("upscale", variant.name, settings, {"model": self.model(variant.parents[0])})

    def _continue_pretrain(self, variant: variants.Variant) -> Step:
        _, data = self._locate(self.scale.data.corpus.id)
        settings = {
            "corpus": self.scale.data.corpus,
            "continue_pretrain": self.scale.continue_pretrain,
            "seed": self.scale.seed,
        }
        inputs = {"model": self.model(variant.parents[0]), **self._world()}
        return Step("continue_pretrain", variant.name, settings, inputs, data, self._places())

    def _synth_math(self) -> Step:
        section = self.scale.data
        ids = [variants.MATH_SEEDS]
        if section.math == "metamath":
            ids.append(variants.DATASETS["synth_math_instruct"].hub_id)
        data: dict[str, str] = {}
        for hub_id in ids:
            data |= self._locate(hub_id)[1]
        settings = {
            "method": section.math,
            "seed_split": section.math_seed_split,
            "maximum_instruct": section.samples("synth_math_instruct"),
            "maximum_alignment": section.samples("synth_math_alignment"),
            "seed": self.scale.seed,
        }
        return Step("synth_math", "synth_math", settings, self._world(), data, self._places())

    def _datasets(
        self, names: tuple[str, ...]
    ) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, Step]]:
        """Settings, fingerprints and input steps of sets of Table 1."""
        chosen: list[dict[str, Any]] = []
        data: dict[str, str] = {}
        inputs = self._world()
        for name in names:
            if name.startswith("synth_math"):
                inputs["synth_math"] = self.synth_math()
                most = self.scale.data.samples(name)
                chosen.append({"name": name, "id": "synth_math", "maximum_samples": most})
                continue
            stand_in = self.scale.data.stand_ins.get(name)
            hub_id, found = self._locate(variants.DATASETS[name].hub_id, stand_in)
            data |= found
            chosen.append({"name": name, "id": hub_id, "maximum_samples": self.scale.data.samples(name)})
            if name == "openorca":
                chosen[-1]["filtered_tasks"] = list(variants.FILTERED_TASKS)
        return chosen, data, inputs

    def _tuned(self, variant: variants.Variant, stage: str, section: Any) -> Step:
        chosen, data, inputs = self._datasets(variant.datasets)
        inputs = {"model": self.model(variant.parents[0]), **inputs}
        settings = {
            "datasets": chosen,
            "template": self.scale.data.template,
            stage: section,
            "seed": self.scale.seed,
        }
        return Step(stage, variant.name, settings, inputs, data, self._places())

    def _data(self, dataset: str) -> Step:
        (chosen,), data, inputs = self._datasets((dataset,))
        stage = "sft" if variants.DATASETS[dataset].stage == "instruction" else "dpo"
        settings = {
            "dataset": chosen,
            "template": self.scale.data.template,
            "max_length": getattr(self.scale, stage).max_length,
            "seed": self.scale.seed,
        }
        for column in COLUMNS:  # the overlap with every benchmark is reported
            data |= self._locate(column.hub_id)[1]
        inputs = {"model": self.model("base"), **inputs}
        return Step("data", dataset, settings, inputs, data, self._places())

    def _sft(self, variant: variants.Variant) -> Step:
        return self._tuned(variant, "sft", self.scale.sft)

    def _dpo(self, variant: variants.Variant) -> Step:
        return self._tuned(variant, "dpo", self.scale.alignment(variant.overrides))

    def _merge(self, variant: variants.Variant) -> Step:
        settings: dict[str, Any] = {"method": variant.merge_method}
        if variant.merge_method == "slerp":
            settings["t"] = self.scale.merge.slerp_t
        else:
            settings["weights"] = list(variant.merge_weights)
        first, second = variant.parents
        return Step(
            "merge", variant.name, settings, {"first": self.model(first), "second": self.model(second)}
        )

    def _evaluate(self, name: str) -> Step:
        data: dict[str, str] = {}
        for hub_id in (*(column.hub_id for column in COLUMNS), self.scale.data.corpus.id):
            data |= self._locate(hub_id)[1]
        settings = {
            "evaluate": self.scale.evaluate,
            "corpus": self.scale.data.corpus,
            "seed": self.scale.seed,
        }
        inputs = {"model": self.model(name), **self._world()}
        return Step("evaluate", name, settings, inputs, data, self._places())

    def _contamination(self, name: str) -> Step:
        section = self.scale.contamination
        data: dict[str, str] = {}
        for column in COLUMNS:
            if column.name in section.tasks:
                data |= self._locate(column.hub_id)[1]
        settings = {
            "tasks": section.tasks,
            "examples": section.examples,
            "neighbours": section.neighbours,
            "k": section.k,
            "seed": self.scale.seed,
        }
        inputs = {"target": self.model(name), "reference": self.model(section.reference), **self._world()}
        return Step("contamination", name, settings, inputs, data, self._places())


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
