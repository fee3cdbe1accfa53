"""A scale, section by section: how big, how long, and on what. `training.py` has what all trainings set."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import H6Name
from solar_repro.paper.data_sets import DATASETS, SYNTHETIC_MATH
from solar_repro.scales.execution import Execution
from solar_repro.scales.explain import explain
from solar_repro.scales.hardware import Hardware, Shape
from solar_repro.scales.inference_server import InferenceServer
from solar_repro.scales.math_generation import Generation
from solar_repro.scales.microworld import BaseTraining, WorldSettings
from solar_repro.scales.section import (
    FLAT_SECTION,
    Fraction,
    Place,
    Positive,
    Precision,
    Section,
    Seed,
)
from solar_repro.scales.training import (
    AlignmentChanges,
    AlignmentTuning,
    Control,
    InstructionTuning,
    Pretraining,
    Training,
)

EMBEDDED = "embedded"
"""As `base.model`: the base that the embedded world trains. As `data.mirror`: the embedded world."""


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

    @model_validator(mode="after")
    def _names_of_table_1(self) -> Self:
        for section in ("stand_ins", "maximum_samples", "decontaminate"):
            for name in getattr(self, section):
                if name not in DATASETS:
                    raise ValueError(
                        f"{section}: {name!r} is not a data set of Table 1 ({', '.join(DATASETS)})"
                    )
        if len(SYNTHETIC_MATH & set(self.decontaminate)) == 1:
            both = " and ".join(sorted(SYNTHETIC_MATH))
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

    @property
    def mirror_folder(self) -> Path | None:
        """The mirror's folder; None where data comes from the embedded world or the hub alone.

        Raises UserError for one that is not there.
        """
        if self.mirror is None or self.mirror == EMBEDDED:
            return None
        if not (folder := Path(self.mirror).resolve()).is_dir():
            raise UserError(
                f"data.mirror: {self.mirror} is not a folder; set SOLAR_MIRROR or -P data.mirror=DIR to a "
                "folder laid out as the hub"
            )
        return folder

    def samples(self, dataset: str) -> int:
        return self.maximum_samples.get(dataset, DATASETS[dataset].maximum_samples)


class Upscale(Section):
    """Depthwise scaling (Sec. 2): s = 2·(n − m)."""

    m: Positive
    """Layers cut from the end of the first copy and from the start of the second."""
    shard_bytes: Positive = 5_000_000_000
    unproved: bool = False
    """Continue where it cannot be proved that the layers keep their meaning in their new places."""


class Checkpoint(Section):
    """How trained checkpoints are stored."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """float32 keeps every digit of what was trained. bfloat16 takes half of the space; weights are rounded at
    random to one of their two neighbours, so that small updates do not vanish but get noise."""


class Merge(Section):
    slerp_t: Fraction = 0.5
    """Position of merge v4 between Cand. 1 (0) and Cand. 2 (1). The paper does not give it."""


class Evaluate(Section):
    """H6 (Sec. 4.1). The protocol is fixed; a scale only sets the number of items."""

    limits: dict[H6Name, Positive] = {}
    """Items per task (MMLU: per subject). A task that is missing here is scored on all its items."""
    subjects: Annotated[list[str], Field(min_length=1)] | None = None
    """Subjects of MMLU. If it is not set, all 57 are scored."""
    batch_tokens: Positive = 8192
    """The most token positions in one forward pass, padding included."""
    precision: Precision = "auto"
    gsm8k_stop: Literal["today", "leaderboard"] = "today"
    """Stop strings of GSM8K: those of the harness today, or of the version that the leaderboard ran."""
    server: InferenceServer | None = None
    """An OpenAI-compatible server that has the model, such as `vllm serve`: it generates GSM8K's answers.
    If it is not set, they are generated here."""


class Contamination(Section):
    """The test of Table 9 and Min-K % Prob (Shi et al. 2023). It uses the batch settings of `evaluate`."""

    variants: list[str] = ["solar_instruct"]
    reference: Place = "solar"
    """The model that writes the neighbours: a variant, a folder or a hub id."""
    tasks: Annotated[list[H6Name], Field(min_length=1)] = ["ARC", "MMLU", "TruthfulQA", "GSM8K"]
    """Tasks to test. The paper has N/A for HellaSwag and Winogrande; if named here, they are tested too."""
    examples: Positive = 100
    neighbours: Positive = 100
    k: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.2]
    """Shares of the lowest token log-probabilities that Min-K % averages. Runs are compared by the first."""
    control: Control = Control()
    positive_control: bool = False
    """Whether `main` also tests a copy that was trained on the texts, to prove that the test finds this."""


S = TypeVar(
    "S",
    Training,
    Pretraining,
    InstructionTuning,
    AlignmentTuning,
    AlignmentChanges,
    Evaluate,
    Control,
    BaseTraining,
)


class Scale(Section):
    """A whole experiment, and how it is carried out."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """It is part of the names of the experiment and of the report's folder."""
    description: str
    seed: Seed = 42
    seed_offset: int = Field(default=0, ge=0)
    """This number is added to the seed of every training. The items that are scored stay the same."""
    base: Base
    world: WorldSettings | None = None
    """Size of the embedded world; needed if `base.model` or `data.mirror` is `embedded`."""
    data: Data
    upscale: Upscale
    continue_pretrain: Pretraining
    sft: InstructionTuning
    dpo: AlignmentTuning
    cand_1: AlignmentChanges = AlignmentChanges()
    """Settings of `dpo` that Cand. 1 changes (Table 6: "slightly different hyper-parameters")."""
    cand_2: AlignmentChanges = AlignmentChanges()
    checkpoint: Checkpoint = Checkpoint()
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    contamination: Contamination = Contamination()
    hardware: Hardware | None = None
    execution: Execution = Execution()
    """A file has these settings beside its sections, as in `jobs: 2`."""

    @model_validator(mode="before")
    @classmethod
    def _execution_apart(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if FLAT_SECTION in content:
            raise ValueError("execution: is no section of a file; write its settings without it: `jobs: 2`")
        own = {name: value for name, value in content.items() if name in Execution.model_fields}
        return {name: value for name, value in content.items() if name not in own} | {FLAT_SECTION: own}

    @model_serializer(mode="wrap")
    def _as_in_a_file(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        own: dict[str, Any] = content.pop(FLAT_SECTION)
        return content | own

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for section in (self.continue_pretrain, self.sft, self.dpo):
            section.accumulation(self.execution.num_processes)
        if self.execution.launcher == "deepspeed" and (self.sft.lora or self.dpo.lora):
            raise ValueError(
                "launcher: deepspeed cannot train adapters (lora), whose weights it would not give back; use "
                "ddp or fsdp2"
            )
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

        def resolved(section: S) -> S:
            return section.model_copy(update={"precision": own}) if section.precision == "auto" else section

        control, base = resolved(self.contamination.control), self.base
        if base.retrain:
            base = base.model_copy(update={"training": resolved(base.training)})
        changes = {
            "base": base,
            "continue_pretrain": resolved(self.continue_pretrain),
            "sft": resolved(self.sft),
            "dpo": resolved(self.dpo),
            "cand_1": resolved(self.cand_1),
            "cand_2": resolved(self.cand_2),
            "evaluate": resolved(self.evaluate),
            "contamination": self.contamination.model_copy(update={"control": control}),
        }
        return self.model_copy(update=changes)

    def alignment(self, candidate: Literal["", "cand_1", "cand_2"]) -> AlignmentTuning:
        """Settings of a DPO variant: `dpo`, with what the candidate changes on top."""
        match candidate:
            case "cand_1":
                changes = self.cand_1
            case "cand_2":
                changes = self.cand_2
            case _:
                changes = AlignmentChanges()
        try:
            return AlignmentTuning.model_validate(
                self.dpo.model_dump() | changes.model_dump(exclude_none=True)
            )
        except ValidationError as error:
            raise UserError(explain(error, f"scale {self.name}", AlignmentTuning, f"{candidate}.")) from None
