"""What each stage takes: its settings decide the result, its inputs say where things lie.

The plan makes both. A step's key is made of the settings, and MLflow logs them; the inputs are no part of the
key, which names their content instead.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from solar_repro.checkpoint.merge_options import Dtype, Method
from solar_repro.checkpoint.shards import SHARD_BYTES
from solar_repro.scales.inference_server import InferenceServer
from solar_repro.scales.math_generation import Generation
from solar_repro.scales.microworld import BaseTraining, WorldSettings
from solar_repro.scales.section import Positive, Section, Seed, TrainingPrecision
from solar_repro.scales.settings import Checkpoint, Corpus, Evaluate
from solar_repro.scales.training import (
    AlignmentTuning,
    Control,
    InstructionTuning,
    Pretraining,
    Training,
    Tuning,
)

Digests = dict[str, str]
"""SHA-256 by name of files that a stage hashed while it wrote them, so that they need not be read again."""


class StageSettings(Section):
    """Settings of a stage. A setting at its default is not written down."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value for name, value in dump(self).items() if getattr(self, name) != fields[name].default
        }


class TrainingSettings(StageSettings):
    """Settings of a stage that trains a model."""

    seed: Seed
    checkpoint: Checkpoint = Checkpoint()

    @property
    def training(self) -> Training:
        """The section with the batch sizes and the optimiser's settings."""
        raise NotImplementedError


class Inputs(Section):
    """Folders, hub ids and servers that a stage uses."""


class MirrorInput(Inputs):
    mirror: Path | None = None
    """Folder of data sets laid out as the hub; None: the hub itself."""


class MicroworldSettings(StageSettings):
    world: WorldSettings


class BaseModelSettings(StageSettings):
    """Nothing is set where the base is a copy of a model that was made elsewhere."""

    base: BaseTraining | None = None
    """How the embedded base is, or was, trained."""
    trained: str | None = None
    """Digest of the base that ships with the package, which is then copied."""


class BaseModelInputs(MirrorInput):
    model: Path | str | None = None
    """The model to copy: a folder or a hub id."""
    digest: str = ""
    """What `fingerprint_model` said of the model when the plan was made."""


class ModelInput(Inputs):
    model: Path


class UpscaleSettings(StageSettings):
    layer_map: str
    """As for `variant_map`."""
    shard_bytes: Positive
    m: Positive | None = None
    """Layers that `dus` cuts from each copy; None for other layer maps."""
    unproved: bool = False


class PackedSettings(StageSettings):
    """The text of continued pretraining: its split and column, and the blocks that it is cut into."""

    id: str
    split: str
    column: str
    tokens: Positive
    max_length: Positive
    """Number of tokens in a block."""
    seed: Seed

    @classmethod
    def before(cls, corpus: Corpus, training: Pretraining, seed: int) -> "PackedSettings":
        """The text that a continued pretraining with these settings is trained on."""
        return cls(
            id=corpus.id,
            split=corpus.split,
            column=corpus.column,
            tokens=training.tokens,
            max_length=training.max_length,
            seed=seed,
        )


class ContinuePretrainSettings(TrainingSettings):
    corpus: Corpus
    continue_pretrain: Pretraining
    from_scratch: bool = False
    """Draw the weights anew and keep the shape: the control of Sec. 2."""

    @property
    def training(self) -> Pretraining:
        return self.continue_pretrain


class TrainedInputs(MirrorInput):
    model: Path


class PackedInputs(TrainedInputs):
    """The model gives the tokenizer."""

    held_out_split: str
    """The split on which losses are measured later. It is looked for before the text is packed."""
    num_proc: Positive = 1
    """Processes that tokenise texts."""


class PretrainedInputs(TrainedInputs):
    packed: Path
    """The result of stage `packed` for the same tokenizer, text and lengths."""


class TuningSet(StageSettings):
    """One set of Table 1, as it is used."""

    name: str
    id: str
    """Its hub id; `synth_math` for the sets that stage `synth_math` makes."""
    maximum_samples: Positive
    filtered_tasks: tuple[str, ...] = ()
    """Task names whose rows are left out (Table 8)."""
    flan: str | None = None
    """Hub id of the rows that give OpenOrca its task names; None: n-grams of the benchmarks tell."""
    decontaminate: bool = False


class SetsSettings(StageSettings):
    """Settings of a stage that reads sets of Table 1."""

    datasets: tuple[TuningSet, ...]
    template: Literal["solar", "alpaca"]
    seed: Seed


class TuningSettings(SetsSettings, TrainingSettings):
    pass


class FrozenModel(Section):
    """How a model that is not trained is held and computed."""

    precision: TrainingPrecision
    weights: Literal["float32", "bfloat16", "nf4"]
    """`nf4`: in 4 bits, which needs bitsandbytes."""

    @classmethod
    def before(cls, tuning: Tuning) -> "FrozenModel":
        """The model that a tuning with these settings starts from."""
        if tuning.lora is None:
            return cls(precision=tuning.precision, weights="float32")
        # Frozen weights need no more digits than what is computed with them.
        weights = "nf4" if tuning.lora.quantised else tuning.precision
        return cls(precision=tuning.precision, weights=weights)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("bitsandbytes",) if self.weights == "nf4" else ()


class ReferenceSettings(SetsSettings):
    max_length: Positive
    reference: FrozenModel


class SftSettings(TuningSettings):
    sft: InstructionTuning

    @property
    def training(self) -> InstructionTuning:
        return self.sft


class DpoSettings(TuningSettings):
    dpo: AlignmentTuning

    @property
    def training(self) -> AlignmentTuning:
        return self.dpo


class TuningInputs(TrainedInputs):
    synth_math: Path | None = None
    """The result of stage `synth_math`, where one of its sets is used."""
    num_proc: Positive = 1
    """Processes that tokenise rows."""


class DpoInputs(TuningInputs):
    reference: Path
    """The result of stage `reference` for the same model and sets."""


class DataSettings(StageSettings):
    dataset: TuningSet
    template: Literal["solar", "alpaca"]
    max_length: Positive
    seed: Seed


class SynthMathSettings(StageSettings):
    method: Literal["metamath", "generate", "rule"]
    seed_split: str
    """Split of MATH whose problems are rephrased."""
    maximum_instruct: Positive
    maximum_alignment: Positive
    decontaminate: bool
    seed: Seed
    generation: Generation | None = None


class SynthMathInputs(MirrorInput):
    model: Path | str | None = None
    """The model that rephrases; None where a server does, or nobody."""
    server: InferenceServer | None = None


class MergeSettings(StageSettings):
    """As for `checkpoint.merge.merge`."""

    method: Method
    weights: list[float] | dict[str, list[float]] | None = None
    """One number per model, or a mapping from patterns of tensor names, of which the first match counts."""
    t: float | dict[str, float] | None = None
    """Position of SLERP between the two models, or a mapping from patterns of tensor names. Default: 0.5."""
    density: float = 0.5
    """Share of a task vector that TIES and DARE keep."""
    scale: float = 1.0
    dtype: Dtype | None = None
    """Number format of the output. Default: that of the models, or the wider one where they differ."""
    accumulate: Literal["float32", "float64"] = "float32"
    shard_bytes: Positive = SHARD_BYTES
    seed: Seed = 0
    """Seed of the random choice that DARE makes."""

    @property
    def patterns(self) -> dict[str, list[str]]:
        """The patterns of tensor names that settings have, in their order."""
        return {name: list(value) for name, value in self if isinstance(value, dict)}


class MergeInputs(Inputs):
    """The models to merge: `first` and `second` of a plan, or those of a recipe."""

    first: Path | None = None
    second: Path | None = None
    models: tuple[Path | str, ...] = ()
    base: Path | str | None = None
    """The model that task vectors are differences from."""
    device: str = "cpu"


class UntrainedSettings(StageSettings):
    extra: tuple[str, ...]
    """Layer maps to score besides those of `sweep`."""
    corpus: Corpus
    max_length: Positive
    precision: Literal["float32", "bfloat16", "float16"]
    unproved: bool = False


class EvaluateSettings(StageSettings):
    evaluate: Evaluate
    """Without its server, whose address changes no score."""
    generates: Literal["here", "server"] = "here"
    seed: Seed
    corpus: Corpus | None = None
    """Its held-out loss is measured too; None for a model that is no variant."""


class EvaluateInputs(MirrorInput):
    model: Path | str
    server: InferenceServer | None = None
    """The server that generates answers; None: they are generated here."""


class ContaminateSettings(TrainingSettings):
    tasks: tuple[str, ...]
    examples: Positive
    control: Control

    @property
    def training(self) -> Control:
        return self.control


class ContaminationSettings(StageSettings):
    tasks: tuple[str, ...]
    examples: Positive
    neighbours: Positive
    k: tuple[float, ...]
    precision: Literal["float32", "bfloat16", "float16"]
    batch_tokens: Positive
    seed: Seed


class ContaminationInputs(MirrorInput):
    target: Path | str
    reference: Path | str
