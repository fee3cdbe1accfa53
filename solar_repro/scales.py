"""A scale says how big: one YAML file in `solar_repro/scales/`, typed here.

Every setting can be overridden by its dotted path (`-P sft.learning_rate=1e-5`). A key that does not exist, a
wrong type or an impossible value is one line that names file, key, value and the nearest valid key.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from solar_repro.data.settings import Generation
from solar_repro.errors import UserError
from solar_repro.hardware import Hardware, Shape
from solar_repro.launch import Launch
from solar_repro.microworld.settings import BaseTraining, WorldSettings
from solar_repro.misspelt import meant
from solar_repro.plain_yaml import read_yaml
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
    """Where the n-layer base model comes from (Sec. 2)."""

    model: Place
    """A folder, a hub id, or `embedded`."""
    training: BaseTraining = BaseTraining()
    """How the embedded base is trained; without effect for a folder or hub id."""
    shape: Shape | None = None
    """Of a hub id, so that a dry run can reckon with it before it is fetched; without effect on results."""
    retrain: bool = False
    """Train the embedded base; else the one that ships with the package, trained on `smoke`, is taken."""


class Corpus(Section):
    """The text of continued pretraining; its held-out split measures the loss of every model."""

    id: Place
    """A hub id; or a folder (`./…`, `/…`, `~/…`) of parquet, jsonl or txt files, named or laid out by
    split."""
    split: str = "train"
    held_out_split: str = "validation"
    column: str = "text"
    held_out_documents: Positive


class Data(Section):
    mirror: Place | None = None
    """A folder laid out as the hub, looked in before the hub; `embedded`; or nothing. `SOLAR_MIRROR` wins."""
    corpus: Corpus
    stand_ins: dict[str, str] = {}
    """Table 1 name → hub id that stands in where the mirror lacks the real set."""
    flan: str | None = None
    """Hub id of FLAN's rows (`Open-Orca/FLAN`): gives OpenOrca's their task names for Table 8's filter, by a
    join of texts. Without it, n-grams of the benchmarks stand in. Rows that have task names need neither."""
    decontaminate: list[str] = []
    """Table 1 names whose rows (and seeds) go where they share a 13-gram with what H6 scores. The paper
    filters by Table 8 and chooses its seeds, no more: elsewhere the overlap is only reported."""
    math: Literal["metamath", "generate", "rule"] = "metamath"
    """Synth. Math: MetaMathQA's `MATH_*` rows, or MATH problems rephrased by a model or by rule."""
    math_generation: Generation | None = None
    """The model that `math: generate` asks."""
    math_seed_split: str = "train"
    """The MATH split whose solutions are used. The paper: train only."""
    maximum_samples: dict[str, Positive] = {}
    """Table 1 name → rows used at most; the paper's own caps where a name is missing."""
    template: Literal["solar", "alpaca"] = "solar"
    """Chat template: the released SOLAR form, or the literal Alpaca one."""
    num_proc: Positive = 1
    """Processes that tokenise rows and compare them with the benchmarks."""

    @model_validator(mode="after")
    def _names_of_table_1(self) -> Self:
        for section in ("stand_ins", "maximum_samples", "decontaminate"):
            for name in getattr(self, section):
                if name not in DATASETS:
                    raise ValueError(f"{section}: {name!r} is no set of Table 1 ({', '.join(DATASETS)})")
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
    """Go on where it cannot be proved that the layers keep their meaning in their new places."""


class Training(Section):
    """One optimiser run. Batch sizes are global: per-device × accumulation × processes is derived."""

    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Fraction = 0.03
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: int | None = Field(default=None, gt=0)
    """Optimiser steps at most, whatever `epochs` says."""
    global_batch_size: Positive
    """Sequences (SFT, continued pretraining: packed to `max_length`) or pairs (DPO) an optimiser step."""
    per_device_batch_size: Positive
    max_length: Positive
    """Tokens of a sequence."""
    optimizer: Literal["adamw_torch_fused", "rmsprop"] = "adamw_torch_fused"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: TrainingPrecision = "auto"
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more arithmetic."""

    def accumulation(self, processes: int = 1) -> int:
        """Micro-batches an optimiser step on each process. Not a whole number: ValueError."""
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
    """Tokens of continued pretraining; the corpus is repeated as often as needed."""
    held_out_evaluations: Positive = 8
    """How often the held-out loss is measured along the way, beside the start and the end."""


class Lora(Section):
    """Tuning by low-rank adapters of all linear layers, which are merged into the checkpoint at the end."""

    rank: Positive = 64
    alpha: Positive = 16
    """The adapters' product is scaled by alpha / rank. Defaults: QLoRA's (Dettmers et al. 2023, App. B)."""
    quantised: bool = False
    """Hold the frozen weights in 4 bits (NF4)."""


class Tuning(Training):
    lora: Lora | None = None
    """Nothing: train all weights, as the paper does."""

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
    """Position of merge v4 between Cand. 1 and Cand. 2; the paper gives none."""


class Evaluate(Section):
    """H6 (Sec. 4.1). The protocol is fixed; a scale only says on how many items."""

    limits: dict[Column, Positive] = {}
    """Items a task; MMLU: of each subject. A missing task is scored whole."""
    subjects: Annotated[list[str], Field(min_length=1)] | None = None
    """MMLU subjects; nothing: all 57."""
    batch_tokens: Positive = 8192
    """Positions of one forward pass at most, padding included."""
    precision: Precision = "auto"
    gsm8k_stop: Literal["today", "leaderboard"] = "today"
    """GSM8K's stop strings: the harness's of today, or those of the version that the leaderboard ran."""
    backend: dict[Column, Literal["hf", "vllm"]] = {}
    """What computes a task's answers: transformers (`hf`, also where a task is missing) or vLLM."""

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("vllm",) if "vllm" in self.backend.values() else ()


class Control(Training):
    """How the positive control of the contamination test is trained on the tested texts."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    epochs: Annotated[float, Field(gt=0)] = 25
    """2 to 5 are visible but not beyond doubt, 25 are."""
    global_batch_size: Positive = 8
    per_device_batch_size: Positive = 8
    max_length: Positive = 512


class Contamination(Section):
    """The test of Table 9 and Min-K % Prob (Shi et al. 2023). Models and batches as in `evaluate`."""

    variants: list[str] = ["solar_instruct"]
    reference: Place = "solar"
    """The model that writes the neighbours: a variant, a folder or a hub id."""
    tasks: Annotated[list[Column], Field(min_length=1)] = ["ARC", "MMLU", "TruthfulQA", "GSM8K"]
    """The paper has N/A for HellaSwag and Winogrande; named here they are tested too."""
    examples: Positive = 100
    neighbours: Positive = 100
    k: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.2]
    """Shares of the lowest token log-probabilities that Min-K % averages; runs are compared by the first."""
    control: Control = Control()
    positive_control: bool = False
    """Whether `main` also tests a copy that was trained on the texts: proof that the test can find it."""


class Save(Section):
    """How often the state of a training is kept, so that one that was killed goes on; no part of results."""

    minutes: Annotated[float, Field(gt=0)] = 10
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps after which it is kept too."""


class Tracking(Section):
    checkpoints: Literal["upload", "reference"] = "upload"
    """Log checkpoints whole, or by manifest alone."""
    system_metrics: bool = True
    """Log what trainings and evaluations take of the machine: processor, memory, disk, network and GPUs."""


class Scale(Launch):
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Part of the names of experiments and of the report's folder."""
    description: str
    seed: Seed = 42
    repeat: int = Field(default=0, ge=0)
    """Added to the seed of every training; the items that are scored stay the same."""
    base: Base
    world: WorldSettings | None = None
    """Size of the embedded world, where `base.model` or `data.mirror` is `embedded`."""
    data: Data
    upscale: Upscale
    continue_pretrain: Pretraining
    sft: InstructionTuning
    dpo: AlignmentTuning
    cand_1: dict[str, Any] = {}
    """What Cand. 1 changes in `dpo` (Table 6: "slightly different hyper-parameters")."""
    cand_2: dict[str, Any] = {}
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    contamination: Contamination = Contamination()
    save: Save = Save()
    tracking: Tracking = Tracking()
    hardware: Hardware | None = None
    jobs: Positive = 1
    """Steps made side by side, each on its share of the cores: for models too small to fill them. The number
    of threads moves the last digits of a training, so results of different `jobs` are close, not equal."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.is_needed and self.jobs > 1:
            raise ValueError(
                f"jobs: {self.jobs}, but steps side by side and a launcher share no machine; jobs=1"
            )
        for section in (self.continue_pretrain, self.sft, self.dpo, self.contamination.control):
            section.accumulation(self.num_processes)
        if EMBEDDED in (self.base.model, self.data.mirror) and self.world is None:
            raise ValueError("world: missing, though base.model or data.mirror is 'embedded'")
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
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
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
        raise UserError(f"override {dotted}: is empty; give a value, or leave it out")
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
    key = prefix + ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        nearest = meant(key, [prefix + name for name in dotted_keys(model)])
        hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        return f"{source}: unknown key {key!r}{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{source}: {key}: missing"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{message}"
    return f"{source}: {key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
