"""Variants and a scale make a graph of steps, each with a key made of what decides its result."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import variant_map
from solar_repro.checkpoint.model_source import fingerprint_model, locate_model
from solar_repro.checkpoint.upscale import plan_upscale
from solar_repro.contract import (
    BaseModelSettings,
    ContaminateSettings,
    ContaminationSettings,
    ContinuePretrainSettings,
    DataSettings,
    DpoSettings,
    EvaluateSettings,
    FrozenModel,
    MergeSettings,
    MicroworldSettings,
    PackedSettings,
    ReferenceSettings,
    SftSettings,
    StageSettings,
    SynthMathSettings,
    TuningSet,
    UntrainedSettings,
    UpscaleSettings,
)
from solar_repro.device import own_precision
from solar_repro.errors import UserError, did_you_mean
from solar_repro.microworld.trained_base import shipped_base
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS, MATH_SEEDS
from solar_repro.plan.locations import Locations
from solar_repro.plan.step import Step, ordered
from solar_repro.safety.paths import expand_home
from solar_repro.scales.settings import EMBEDDED, Evaluate, Scale


@dataclass(frozen=True)
class Subject:
    """A model to be scored: a variant, by the step that makes it, or a checkpoint used where it lies."""

    name: str
    step: Step | None = None
    place: Path | str | None = None
    digest: str = ""


class Plan:
    """The steps of a scale. A step is created when it is first asked for, with those it is made from.

    The scale's `seed_offset` is added to the seed of every training. The base, the synthesised sets and the
    items that are scored stay the same, so that seeds can be compared item by item.
    """

    def __init__(self, scale: Scale, *, dry: bool = False) -> None:
        """With `dry`, keys that depend on what the hub did not answer are void (`Locations.unreachable`)."""
        # A dry run for GPUs that are elsewhere reckons with what those compute in.
        own = "bfloat16" if dry and scale.hardware else own_precision()
        self.scale = scale.in_precision(own)
        self.training_seed = scale.seed + scale.seed_offset
        self._steps: dict[tuple[str, str], Step] = {}
        self._embedded = scale.data.mirror == EMBEDDED
        self._mirror = scale.data.mirror_folder
        self.locations = Locations(scale.data, self.microworld if self._embedded else None, dry=dry)

    def model(self, name: str) -> Step:
        """The step that makes the variant's checkpoint."""
        variant = variants.variant(name)
        return self._once(variant.stage, variant.name, lambda: self._model(variant))

    def _model(self, variant: variants.Variant) -> Step:
        match variant.stage:
            case "base":
                return self._base(variant)
            case "upscale":
                return self._upscale(variant)
            case "continue_pretrain":
                return self._continue_pretrain(variant)
            case "sft":
                return self._sft(variant)
            case "dpo":
                return self._dpo(variant)
            case "merge":
                return self._merge(variant)

    def evaluation(self, name: str) -> Step:
        """H6 and held-out loss of the variant."""
        subject = self._variant(name)
        return self._once("evaluate", subject.name, lambda: self._evaluate(subject, self.scale.evaluate))

    def evaluation_of(self, model: str, precision: str | None = None) -> Step:
        """H6 of any checkpoint: a folder or a hub id."""
        section = self.scale.evaluate
        changed = {"precision": precision} if precision else {}
        return self._evaluate(self._given(model, "model"), section.model_copy(update=changed))

    def untrained(self, extra: Iterable[str] = ()) -> Step:
        """Held-out losses of the base under every layer map, and under `extra` ones, before any training."""
        settings = UntrainedSettings(
            extra=tuple(extra),
            corpus=self.scale.data.corpus,
            max_length=self.scale.continue_pretrain.max_length,
            precision=self.scale.evaluate.precision,
            unproved=self.scale.upscale.unproved,
        )
        inputs = {"model": self.model("base"), **self._world()}
        return Step("untrained", "base", settings, inputs, self.locations.corpus, self._places())

    def contamination(self, name: str, *, positive: bool = False) -> Step:
        """Table 9's test of the variant; `positive`: of a copy of it that was trained on the tested texts."""
        subject = self._variant(name)
        label = f"{subject.name}_positive" if positive else subject.name
        return self._once("contamination", label, lambda: self._contamination(subject, positive))

    def contamination_of(self, model: str, *, positive: bool = False) -> Step:
        """The same test of any checkpoint: a folder or a hub id."""
        return self._contamination(self._given(model, "model"), positive)

    def synth_math(self) -> Step:
        """Synth. Math-Instruct and Synth. Math-Alignment."""
        return self._once("synth_math", "synth_math", self._synth_math)

    def packed(self) -> Step:
        """The text of continued pretraining as blocks of tokens, which all models of this base share."""
        return self._once("packed", "corpus", self._packed)

    def data(self, dataset: str) -> Step:
        """One set of Table 1 prepared and reported by itself, with the base's tokenizer."""
        if dataset not in DATASETS:
            hint = did_you_mean(dataset, DATASETS)
            raise UserError(f"data set {dataset!r} is not in Table 1; {hint}")
        return self._once("data", dataset, lambda: self._data(dataset))

    def microworld(self) -> Step:
        """The embedded world's mirror."""
        if self.scale.world is None:
            raise UserError(f"scale {self.scale.name}: has no embedded world (section 'world')")
        settings = MicroworldSettings(world=self.scale.world)
        return self._once("microworld", "microworld", lambda: Step("microworld", "microworld", settings))

    def main(self) -> list[Step]:
        """Every step of the paper at this scale, parents first, each model's scores behind it."""
        if self.scale.evaluate.server:
            raise UserError(
                "evaluate.server: a server has one model, but this plan scores many; use it with "
                "-e evaluate -P variant=NAME or -P model=PLACE"
            )
        targets = [self.evaluation(name) for name in variants.MAIN]
        targets += self.contamination_tests(self.scale.contamination.variants)
        return ordered(targets)

    def contamination_tests(self, names: Iterable[str]) -> list[Step]:
        """Table 9's test of these variants, each with its positive control where the scale has one."""
        kinds = (False, True) if self.scale.contamination.positive_control else (False,)
        return [self.contamination(name, positive=positive) for name in names for positive in kinds]

    def everything(self) -> list[Step]:
        """Every step of this scale's variants and sets, but for layer maps that are no variant's."""
        targets = [*self.main(), *(self.evaluation(name) for name in variants.CONTROLS)]
        for name in DATASETS:
            with suppress(UserError):  # a set that is nowhere has no results
                targets.append(self.data(name))
        return ordered(targets)

    @cached_property
    def _base_folder(self) -> Path | None:
        """Where the base lies on this machine, or in the mirror; None for the embedded one and the hub's."""
        if self.scale.base.model == EMBEDDED:
            return None
        place = locate_model(self.scale.base.model, self._mirror)
        return place if isinstance(place, Path) else None

    @cached_property
    def base_layers(self) -> int | None:
        """Layers of the base; None where they are not known before it is fetched."""
        base = self.scale.base
        if base.model == EMBEDDED:
            return base.training.layers
        if (folder := self._base_folder) is not None:
            return open_checkpoint(folder).layers
        return base.shape.num_hidden_layers if base.shape else None

    def _once(self, stage: str, variant: str, make: Any) -> Step:
        if (stage, variant) not in self._steps:
            self._steps[stage, variant] = make()
        return self._steps[stage, variant]

    def _world(self) -> dict[str, Step]:
        return {"mirror": self.microworld()} if self._embedded else {}

    def _places(self) -> dict[str, Any]:
        return {} if self._embedded else {"mirror": self._mirror}

    def _base(self, variant: variants.Variant) -> Step:
        if self.scale.base.model == EMBEDDED:
            settings = BaseModelSettings(base=self.scale.base.training)
            if not self.scale.base.retrain:
                training, digest = shipped_base(self.scale.base.training)
                settings = BaseModelSettings(base=training, trained=digest)
            return Step("base", variant.name, settings, self._world())
        model = self._base_folder or self.scale.base.model
        try:
            data = {"model": fingerprint_model(model, "base.model")}
        except UserError as error:
            data = self.locations.unknown("model", str(model), error)
        places = {"model": model, "digest": data["model"]}
        return Step("base", variant.name, BaseModelSettings(), data=data, places=places)

    def _upscale(self, variant: variants.Variant) -> Step:
        settings = UpscaleSettings(
            layer_map=variant.layer_map,
            shard_bytes=self.scale.upscale.shard_bytes,
            m=self.scale.upscale.m if variant.layer_map == "dus" else None,
            unproved=self.scale.upscale.unproved,
        )
        if self.base_layers is not None:
            try:
                layer_map = variant_map(variant.layer_map, self.base_layers, settings.m)
            except UserError as error:
                setting = "upscale.m" if variant.layer_map == "dus" else f"variant {variant.name}"
                raise UserError(f"{setting}: {error}") from None
            if (folder := self._base_folder) is not None:  # refused here, before anything is copied
                plan_upscale(folder, layer_map, unproved=settings.unproved)
        return Step("upscale", variant.name, settings, {"model": self.model(variant.parents[0])})

    def _continue_pretrain(self, variant: variants.Variant) -> Step:
        settings = ContinuePretrainSettings(
            corpus=self.scale.data.corpus,
            continue_pretrain=self.scale.continue_pretrain,
            seed=self.training_seed,
            checkpoint=self.scale.checkpoint,
            from_scratch=variant.from_scratch,
        )
        inputs = {
            "model": self.model(variant.parents[0]),
            "packed": self.packed(),
            **self._world(),
        }
        return Step(
            "continue_pretrain", variant.name, settings, inputs, self.locations.corpus, self._places()
        )

    def _packed(self) -> Step:
        corpus = self.scale.data.corpus
        settings = PackedSettings.before(corpus, self.scale.continue_pretrain, self.training_seed)
        inputs = {"model": self.model("base"), **self._world()}
        places = self._preparing_places() | {"held_out_split": corpus.held_out_split}
        return Step("packed", "corpus", settings, inputs, self.locations.corpus, places)

    def _synth_math(self) -> Step:
        section = self.scale.data
        ids = [MATH_SEEDS]
        if section.math == "metamath":
            ids.append(DATASETS["synth_math_instruct"].hub_id)
        data: dict[str, str] = {}
        for hub_id in ids:
            data |= self.locations.data_set(hub_id)[1]
        data |= self.locations.benchmarks()
        places, generation = self._places(), None
        if section.math == "generate" and section.math_generation is not None:
            model, server = section.math_generation.model, section.math_generation.server
            if server is None:
                places["model"] = locate_model(model, self._mirror)
                data["model"] = model = fingerprint_model(places["model"], "data.math_generation.model")
            else:
                places["server"] = server
            changes = {"model": model, "server": None}
            generation = section.math_generation.model_copy(update=changes)
        settings = SynthMathSettings(
            method=section.math,
            seed_split=section.math_seed_split,
            maximum_instruct=section.samples("synth_math_instruct"),
            maximum_alignment=section.samples("synth_math_alignment"),
            decontaminate="synth_math_instruct" in section.decontaminate,
            seed=self.scale.seed,
            generation=generation,
        )
        return Step("synth_math", "synth_math", settings, self._world(), data, places)

    def _datasets(
        self, names: tuple[str, ...]
    ) -> tuple[tuple[TuningSet, ...], dict[str, str], dict[str, Step]]:
        """Settings, fingerprints and input steps of sets of Table 1."""
        section = self.scale.data
        chosen: list[TuningSet] = []
        data: dict[str, str] = {}
        inputs = self._world()
        for name in names:
            source, most = DATASETS[name], section.samples(name)
            if source.is_made_from_math:
                inputs["synth_math"] = self.synth_math()
                chosen.append(TuningSet(name=name, id="synth_math", maximum_samples=most))
                continue
            hub_id, found = self.locations.data_set(source.hub_id, section.stand_ins.get(name))
            data |= found
            flan = None
            if source.filtered_tasks:
                if section.flan:
                    flan, found = self.locations.data_set(section.flan)
                    data |= found
                elif hub_id == source.hub_id and not self._embedded:
                    data |= self.locations.table_8  # it has no task names: n-grams tell
            decontaminate = name in section.decontaminate
            if decontaminate:
                data |= self.locations.benchmarks()
            chosen.append(
                TuningSet(
                    name=name,
                    id=hub_id,
                    maximum_samples=most,
                    filtered_tasks=source.filtered_tasks,
                    flan=flan,
                    decontaminate=decontaminate,
                )
            )
        return tuple(chosen), data, inputs

    def _data(self, dataset: str) -> Step:
        (chosen,), data, inputs = self._datasets((dataset,))
        is_instruction = DATASETS[dataset].stage == "instruction"
        settings = DataSettings(
            dataset=chosen,
            template=self.scale.data.template,
            max_length=(self.scale.sft if is_instruction else self.scale.dpo).max_length,
            seed=self.scale.seed,
        )
        data |= self.locations.benchmarks()  # the overlap with each is reported
        return Step(
            "data", dataset, settings, {"model": self.model("base"), **inputs}, data, self._preparing_places()
        )

    def _sft(self, variant: variants.Variant) -> Step:
        chosen, data, inputs = self._datasets(variant.datasets)
        settings = SftSettings(
            datasets=chosen,
            template=self.scale.data.template,
            sft=self.scale.sft,
            seed=self.training_seed,
            checkpoint=self.scale.checkpoint,
        )
        parent = {"model": self.model(variant.parents[0])}
        return Step("sft", variant.name, settings, {**parent, **inputs}, data, self._preparing_places())

    def _dpo(self, variant: variants.Variant) -> Step:
        chosen, data, inputs = self._datasets(variant.datasets)
        settings = DpoSettings(
            datasets=chosen,
            template=self.scale.data.template,
            dpo=self.scale.alignment(variant.candidate),
            seed=self.training_seed,
            checkpoint=self.scale.checkpoint,
        )
        parent = {"model": self.model(variant.parents[0]), "reference": self._reference(variant)}
        return Step("dpo", variant.name, settings, {**parent, **inputs}, data, self._preparing_places())

    def _reference(self, variant: variants.Variant) -> Step:
        """What a DPO variant starts from, in numbers; named after the first variant that shares it."""
        length, how = self._frozen(variant)
        name = next(
            other.name
            for other in variants.PAPER.values()
            if other.stage == "dpo"
            and (other.parents, other.datasets) == (variant.parents, variant.datasets)
            and self._frozen(other) == (length, how)
        )

        def make() -> Step:
            chosen, data, inputs = self._datasets(variant.datasets)
            settings = ReferenceSettings(
                datasets=chosen,
                template=self.scale.data.template,
                seed=self.training_seed,
                max_length=length,
                reference=how,
            )
            parent = {"model": self.model(variant.parents[0])}
            return Step("reference", name, settings, {**parent, **inputs}, data, self._preparing_places())

        return self._once("reference", name, make)

    def _frozen(self, variant: variants.Variant) -> tuple[int, FrozenModel]:
        """The length of the pairs that a DPO variant reads, and how its reference computes."""
        tuning = self.scale.alignment(variant.candidate)
        return tuning.max_length, FrozenModel.before(tuning)

    def _preparing_places(self) -> dict[str, Any]:
        return self._places() | {"num_proc": self.scale.execution.num_proc}

    def _merge(self, variant: variants.Variant) -> Step:
        if variant.merge_method == "slerp":
            settings = MergeSettings(method="slerp", t=self.scale.merge.slerp_t)
        else:
            settings = MergeSettings(method="average", weights=list(variant.merge_weights))
        first, second = variant.parents
        return Step(
            "merge", variant.name, settings, {"first": self.model(first), "second": self.model(second)}
        )

    def _variant(self, name: str) -> Subject:
        step = self.model(name)
        return Subject(step.variant, step)

    def _given(self, model: str, setting: str) -> Subject:
        place = locate_model(model, self._mirror)
        name = Path(os.path.abspath(expand_home(model))).name  # of `.` too
        return Subject(name, place=place, digest=fingerprint_model(place, setting))

    def _evaluate(self, subject: Subject, evaluate: Evaluate) -> Step:
        data = self.locations.benchmarks()
        settings = EvaluateSettings(
            evaluate=evaluate.model_copy(update={"server": None}),
            generates="server" if evaluate.server else "here",
            seed=self.scale.seed,
        )
        if subject.step:  # the loss that Sec. 2 is about
            settings = settings.model_copy(update={"corpus": self.scale.data.corpus})
            data |= self.locations.corpus
        step = self._scoring("evaluate", subject.name, settings, {"model": subject}, data)
        return replace(step, places={**step.places, "server": evaluate.server}) if evaluate.server else step

    def _contamination(self, subject: Subject, positive: bool) -> Step:
        section, evaluate = self.scale.contamination, self.scale.evaluate
        tasks, seed = tuple(section.tasks), self.scale.seed
        data = self.locations.benchmarks(section.tasks)
        if positive:
            try:
                section.control.accumulation(self.scale.execution.num_processes)
            except ValueError as error:
                raise UserError(f"contamination.control: {error}") from None
            control = ContaminateSettings(
                tasks=tasks, examples=section.examples, seed=seed, control=section.control
            )
            name = f"{subject.name}_positive"
            step = self._scoring("contaminate", name, control, {"model": subject}, data)
            subject = Subject(name, step)
        settings = ContaminationSettings(
            tasks=tasks,
            examples=section.examples,
            neighbours=section.neighbours,
            k=tuple(section.k),
            precision=evaluate.precision,
            batch_tokens=evaluate.batch_tokens,
            seed=seed,
        )
        # A variant's name has no slash; a hub id and a folder's path have.
        given = "/" in section.reference
        reference = (
            self._given(section.reference, "contamination.reference")
            if given
            else self._variant(section.reference)
        )
        models = {"target": subject, "reference": reference}
        return self._scoring("contamination", subject.name, settings, models, data)

    def _scoring(
        self,
        stage: str,
        name: str,
        settings: StageSettings,
        models: Mapping[str, Subject],
        data: Mapping[str, str],
    ) -> Step:
        """A step that takes models, by the role they have for it, and benchmarks."""
        digests = dict(data)
        inputs, places = self._world(), self._places()
        for role, subject in models.items():
            if subject.step:
                inputs[role] = subject.step
            else:
                places[role], digests[role] = subject.place, subject.digest
        return Step(stage, name, settings, inputs, digests, places)
