"""The settings of a training: continued pretraining, SFT, DPO, the contamination test's positive control."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from solar_repro.scales.section import Fraction, Positive, Section, TrainingPrecision


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


class AlignmentChanges(Section):
    """Settings that one candidate has instead of those of `dpo`. A setting without a value stays."""

    learning_rate: float | None = None
    schedule: Literal["cosine", "linear", "constant"] | None = None
    warmup_ratio: float | None = None
    epochs: float | None = None
    max_steps: int | None = None
    global_batch_size: int | None = None
    per_device_batch_size: int | None = None
    max_length: int | None = None
    optimizer: Literal["adamw_torch_fused", "rmsprop"] | None = None
    weight_decay: float | None = None
    adam_beta2: float | None = None
    max_grad_norm: float | None = None
    precision: TrainingPrecision | None = None
    activation_checkpointing: bool | None = None
    lora: Lora | None = None
    beta: float | None = None


class Control(Training):
    """How the positive control of the contamination test is trained on the tested texts."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    epochs: Annotated[float, Field(gt=0)] = 25
    """After 2 to 5 epochs the test shows something but leaves doubt; after 25 it does not."""
    global_batch_size: Positive = 8
    per_device_batch_size: Positive = 8
    max_length: Positive = 512
