"""A scale says how big everything is: one YAML file in `solar_repro/scales/`, with its types here.

Every setting can be overridden by its dotted path (`-P sft.learning_rate=1e-5`). A key that does not exist, a
wrong type or an impossible value is one line that names file, key, value and the nearest valid key.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from solar_repro.data.settings import Generation
from solar_repro.errors import UserError
from solar_repro.hardware import Hardware, Shape
from solar_repro.launch import Launch
from solar_repro.microworld.settings import BaseTraining, WorldSettings
from solar_repro.misspelt import meant
from solar_repro.plain_yaml import read_yaml, read_yaml_file
from solar_repro.section import Place, Positive, Precision, Section, Seed, TrainingPrecision
from solar_repro.variants import DATASETS

FOLDER = Path(__file__).parent / "scales"
EMBEDDED = "embedded"
"""As `base.model`: the base that the embedded world trains. As `data.mirror`: the embedded world."""
SYNTH_MATH = {"synth_math_instruct", "synth_math_alignment"}
"""Sets of Table 1 that are made from MATH, together."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Column = Literal["ARC", "HellaSwag", "MMLU", "TruthfulQA", "Winogrande", "GSM8K"]


class Base(Section):
    """Where the base model with n layers comes from (Sec. 2)."""

    model: Place
    """A folder, a hub id, or `embedded` (the base of the embedded world)."""
    training: BaseTraining = BaseTraining()
    """How the embedded base is trained. It has no effect for a folder or a hub id."""
    shape: Shape | None = None
    """Shape of the model of a hub id, so that a dry run can compute with it before the model is fetched.
    It has no effect on results."""
    retrain: bool = False
    """Train the embedded base. Otherwise the one that ships with the package, trained at `smoke`, is used."""


class Corpus(Section):
    """The text of continued pretraining. The loss of every model is measured on its held-out split."""

    id: Place
    """A hub id, or a folder (`./…`, `/…`, `~/…`) of parquet, jsonl or txt files. Files or subfolders have
    the name of the split."""
    split: str = "train"
    held_out_split: str = "validation"
    column: str = "text"
    held_out_documents: Positive


class Data(Section):
    mirror: Place | None = None
    """A folder laid out as the hub, which is looked in before the hub; `embedded`; or nothing. The variable
    `SOLAR_MIRROR` replaces what a scale file says."""
    corpus: Corpus
    stand_ins: dict[str, str] = {}
    """Name in Table 1 → hub id of the data set that is used where the mirror lacks the real one."""
    flan: str | None = None
    """Hub id of FLAN's rows (`Open-Orca/FLAN`). Rows of OpenOrca get their task names from it, by a join of
    texts, and the filter of Table 8 needs these names. Without it, rows are filtered by n-grams of the
    benchmarks. Rows that have task names need neither."""
    decontaminate: list[str] = []
    """Names in Table 1 of the data sets whose rows (and seeds) are removed where they share a 13-gram with
    what H6 scores. The paper only filters by Table 8 and chooses its seeds; for data sets that are not named
    here the overlap is only reported."""
    math: Literal["metamath", "generate", "rule"] = "metamath"
    """How Synth. Math is made: from MetaMathQA's `MATH_*` rows, or from MATH problems that a model or a
    rule rephrases."""
    math_generation: Generation | None = None
    """The model that rephrases problems with `math: generate`."""
    math_seed_split: str = "train"
    """The split of MATH whose solutions are used. The paper uses `train` only."""
    maximum_samples: dict[str, Positive] = {}
    """Name in Table 1 → the most rows that are used. Without an entry, the paper's own limit holds."""
    template: Literal["solar", "alpaca"] = "solar"
    """Chat template: the one of the released SOLAR model, or Alpaca's own."""
    num_proc: Positive = 1
    """Number of processes that tokenise rows and compare them with the benchmarks."""

    @model_validator(mode="after")
    def _names_of_table_1(self) -> Self:
        for section in ("stand_ins", "maximum_samples", "decontaminate"):
            for name in getattr(self, section):
                if name not in DATASETS:
                    raise ValueError(
                        f"{section}: {name!r} is not a data set of Table 1 ({', '.join(DATASETS)})"
                    )
        if len(SYNTH_MATH & set(self.decontaminate)) == 1:
            both = " and ".join(sorted(SYNTH_MATH))
            raise ValueError(f"decontaminate: {both} have the same seeds; name both or neither")
        return self

    @model_validator(mode="after")
    def _someone_to_ask(self) -> Self:
        if self.math == "generate" and self.math_generation is None:
            raise ValueError(
                "math: generate needs a model; set math_generation.model and, for a server, "
                "math_generation.server.base_url"
            )
        return self

    def samples(self, dataset: str) -> int:
        return self.maximum_samples.get(dataset, DATASETS[dataset].maximum_samples)


class Upscale(Section):
    """Depthwise scaling (Sec. 2): s = 2·(n − m)."""

    m: Positive
    """Layers cut from the end of the first copy and from the start of the second."""
    shard_bytes: Positive = 5_000_000_000
    unproved: bool = False
    """Continue where it cannot be proved that the layers keep their meaning in their new places."""


class Training(Section):
    """One training. `global_batch_size` counts all devices; accumulation steps follow from it."""

    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Fraction = 0.03
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: int | None = Field(default=None, gt=0)
    """The most optimiser steps, whatever `epochs` says."""
    global_batch_size: Positive
    """Sequences per optimiser step (SFT, continued pretraining: packed to `max_length`), or pairs (DPO)."""
    per_device_batch_size: Positive
    max_length: Positive
    """Number of tokens in a sequence."""
    optimizer: Literal["adamw_torch_fused", "rmsprop"] = "adamw_torch_fused"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: TrainingPrecision = "auto"
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: this needs less memory and about a third more FLOPs."""

    def accumulation(self, processes: int = 1) -> int:
        """Micro-batches per optimiser step on each process. Not a whole number: ValueError."""
        micro_batch = self.per_device_batch_size * processes
        if self.global_batch_size % micro_batch:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of per_device_batch_size "
                f"{self.per_device_batch_size} × {processes} process(es) = {micro_batch}"
            )
        return self.global_batch_size // micro_batch

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        self.accumulation()
        return self


class Pretraining(Training):
    tokens: Positive
    """Number of tokens of continued pretraining. The corpus is repeated as often as needed."""
    held_out_evaluations: Positive = 8
    """How often the held-out loss is measured during training, besides at its start and end."""


class Lora(Section):
    """Tuning with low-rank adapters of all linear layers. They are merged into the checkpoint at the end."""

    rank: Positive = 64
    alpha: Positive = 16
    """The product of the adapters is scaled by alpha / rank. The defaults are those of QLoRA (Dettmers et al.
    2023, App. B)."""
    quantised: bool = False
    """Hold the frozen weights in 4 bits (NF4)."""


class Tuning(Training):
    lora: Lora | None = None
    """Train adapters. If it is not set, all weights are trained, as in the paper."""

    @property
    def libraries(self) -> tuple[str, ...]:
        if self.lora is None:
            return ()
        return ("peft", "bitsandbytes") if self.lora.quantised else ("peft",)


class InstructionTuning(Tuning):
    """Supervised fine-tuning (Sec. 3, instruction tuning)."""


class AlignmentTuning(Tuning):
    """Direct preference optimisation (Sec. 3, alignment tuning; Rafailov et al. 2023)."""

    beta: Annotated[float, Field(gt=0)] = 0.1


class Merge(Section):
    slerp_t: Fraction = 0.5
    """Position of merge v4 between Cand. 1 (0) and Cand. 2 (1). The paper does not give it."""


class Evaluate(Section):
    """H6 (Sec. 4.1). The protocol is fixed; a scale only sets the number of items."""

    limits: dict[Column, Positive] = {}
    """Items per task (MMLU: per subject). A task that is missing here is scored on all its items."""
    subjects: Annotated[list[str], Field(min_length=1)] | None = None
    """Subjects of MMLU. If it is not set, all 57 are scored."""
    batch_tokens: Positive = 8192
    """The most token positions in one forward pass, padding included."""
    precision: Precision = "auto"
    gsm8k_stop: Literal["today", "leaderboard"] = "today"
    """Stop strings of GSM8K: those of the harness today, or of the version that the leaderboard ran."""
    backend: dict[Column, Literal["hf", "vllm"]] = {}
    """What computes the answers of a task: transformers (`hf`, the default) or vLLM."""

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("vllm",) if "vllm" in self.backend.values() else ()


class Control(Training):
    """How the positive control of the contamination test is trained on the tested texts."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    epochs: Annotated[float, Field(gt=0)] = 25
    """After 2 to 5 epochs the test shows something but leaves doubt; after 25 it does not."""
    global_batch_size: Positive = 8
    per_device_batch_size: Positive = 8
    max_length: Positive = 512


class Contamination(Section):
    """The test of Table 9 and Min-K % Prob (Shi et al. 2023). It uses the batch settings of `evaluate`."""

    variants: list[str] = ["solar_instruct"]
    reference: Place = "solar"
    """The model that writes the neighbours: a variant, a folder or a hub id."""
    tasks: Annotated[list[Column], Field(min_length=1)] = ["ARC", "MMLU", "TruthfulQA", "GSM8K"]
    """Tasks to test. The paper has N/A for HellaSwag and Winogrande; if named here, they are tested too."""
    examples: Positive = 100
    neighbours: Positive = 100
    k: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.2]
    """Shares of the lowest token log-probabilities that Min-K % averages. Runs are compared by the first."""
    control: Control = Control()
    positive_control: bool = False
    """Whether `main` also tests a copy that was trained on the texts, to prove that the test finds this."""


class Save(Section):
    """How often the state of a training is saved, so that it can resume. Results stay the same."""

    minutes: Annotated[float, Field(gt=0)] = 10
    steps: int | None = Field(default=None, gt=0)
    """Also save the state after this number of optimiser steps."""


def _listed(value: Any) -> Any:
    """A list as it is typed, with commas. Names of digits are names too."""
    if isinstance(value, str):
        value = value.split(",")
    elif type(value) is int:
        value = [value]
    if not isinstance(value, list):
        return value
    return [str(name).strip() if isinstance(name, str | int) else name for name in value]


class Tracking(Section):
    checkpoints: Literal["upload", "reference"] = "upload"
    """Upload whole checkpoints to the tracking server, or only their manifests."""
    experiments: Annotated[list[str], BeforeValidator(_listed)] = []
    """Experiments whose results are accepted; the one that the command writes to must be in the list.
    Default: all."""
    system_metrics: bool = True
    """Log what trainings and evaluations take of the machine: processor, memory, disk, network and GPUs."""


class Scale(Launch):
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """It is part of the names of the experiment and of the report's folder."""
    description: str
    seed: Seed = 42
    repeat: int = Field(default=0, ge=0)
    """This number is added to the seed of every training. The items that are scored stay the same."""
    base: Base
    world: WorldSettings | None = None
    """Size of the embedded world; needed if `base.model` or `data.mirror` is `embedded`."""
    data: Data
    upscale: Upscale
    continue_pretrain: Pretraining
    sft: InstructionTuning
    dpo: AlignmentTuning
    cand_1: dict[str, Any] = {}
    """Settings of `dpo` that Cand. 1 changes (Table 6: "slightly different hyper-parameters")."""
    cand_2: dict[str, Any] = {}
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    contamination: Contamination = Contamination()
    save: Save = Save()
    tracking: Tracking = Tracking()
    hardware: Hardware | None = None
    jobs: Positive = 1
    """Number of steps that run side by side, each on its share of the cores: useful for models that are too
    small to use all cores. The number of threads changes the last digits of a training, so results with
    different `jobs` are close but not equal."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.is_needed and self.jobs > 1:
            raise ValueError(
                f"jobs: {self.jobs}, but a launcher uses the whole machine for one step; set jobs=1"
            )
        for section in (self.continue_pretrain, self.sft, self.dpo, self.contamination.control):
            section.accumulation(self.num_processes)
        if EMBEDDED in (self.base.model, self.data.mirror) and self.world is None:
            raise ValueError("world: is missing, though base.model or data.mirror is 'embedded'")
        if self.base.model == EMBEDDED and self.data.mirror != EMBEDDED:
            raise ValueError("base.model: the embedded base needs data.mirror: embedded")
        return self

    @property
    def precisions(self) -> set[str]:
        """Every precision that some section asks for."""
        trained = (self.continue_pretrain, self.sft, self.dpo, self.contamination.control, self.base.training)
        return {section.precision for section in (*trained, self.evaluate)}

    def in_precision(self, own: str) -> "Scale":
        """This scale with `own`, the precision that the device computes in, wherever one is `auto`.

        The settings of a base that is not trained stay: it was trained elsewhere.
        """

        def resolved(section: Any) -> Any:
            return section.model_copy(update={"precision": own}) if section.precision == "auto" else section

        changes = {
            name: resolved(getattr(self, name)) for name in ("continue_pretrain", "sft", "dpo", "evaluate")
        }
        control = resolved(self.contamination.control)
        changes["contamination"] = self.contamination.model_copy(update={"control": control})
        if self.base.retrain:
            changes["base"] = self.base.model_copy(update={"training": resolved(self.base.training)})
        for name in ("cand_1", "cand_2"):
            if getattr(self, name).get("precision") == "auto":
                changes[name] = {**getattr(self, name), "precision": own}
        return self.model_copy(update=changes)

    def alignment(self, overrides: str) -> AlignmentTuning:
        """Settings of a DPO variant: `dpo`, with the section named `overrides` on top."""
        changes = getattr(self, overrides) if overrides else {}
        try:
            return AlignmentTuning.model_validate({**self.dpo.model_dump(), **changes})
        except ValidationError as error:
            raise UserError(explain(error, f"scale {self.name}", AlignmentTuning, f"{overrides}.")) from None


def names() -> list[str]:
    """The scales that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(scale: str, overrides: Mapping[str, str] | None = None) -> Scale:
    """Read a scale by name or by path of a YAML file, with dotted overrides; bad input: UserError."""
    path = Path(scale) if scale.endswith((".yaml", ".yml")) else FOLDER / f"{scale}.yaml"
    if not path.is_file():
        nearest = difflib.get_close_matches(scale, names(), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names())}"
        raise UserError(f"scale {scale!r}: no such scale; {hint}")
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
    for section in ("cand_1", "cand_2"):
        loaded.alignment(section)
    return loaded


def as_yaml(scale: Scale) -> str:
    """The whole scale as a file that `load` reads: every setting, whether a file, a user or nobody set it."""
    return yaml.safe_dump(scale.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def dotted_keys(model: type[Section] = Scale, prefix: str = "") -> list[str]:
    """Every setting by its dotted path, in the order of the schema."""
    keys = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        keys += dotted_keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return keys


def _section(annotation: Any) -> type[Section] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


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


def explain(error: ValidationError, source: str, model: type[Section], prefix: str = "") -> str:
    """The first problem of a validation error as one line: file, key, value, what to do."""
    problems = error.errors(include_url=False)
    # A misspelt key is also a missing one; its own name says more.
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    key = _cut(prefix + ".".join(str(part) for part in problem["loc"]))
    if problem["type"] == "extra_forbidden":
        nearest = meant(key, [prefix + name for name in dotted_keys(model)])
        hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        return f"{source}: unknown key {key!r}{hint}"
    message = _cut(problem["msg"].removeprefix("Value error, "), 500)
    if problem["type"] == "missing":
        return f"{source}: {key}: is missing; give it a value"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{message}"
    return f"{source}: {key} = {_cut(repr(problem['input']))}: {message[0].lower()}{message[1:]}"


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
