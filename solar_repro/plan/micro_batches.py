"""The micro-batches that a dry run proposes: of those that fit the GPUs, the fastest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.paper.variants import PAPER
from solar_repro.plan.costs import GIB, step_config, training_memory, training_of
from solar_repro.plan.plan import Plan
from solar_repro.plan.step import Step
from solar_repro.scales.hardware import Hardware
from solar_repro.scales.training import Training

FREE_SHARE = 0.1
"""Share of a GPU's memory that a proposal leaves free. No formula counts the CUDA context, the workspaces of
the libraries, and the gaps between the blocks of PyTorch's allocator."""
ENOUGH_TOKENS = 16_384
"""Our estimate of the tokens that keep a GPU busy. No larger micro-batch is proposed: it is no faster."""


class MicroBatch(NamedTuple):
    """Settings of a training, and the peak bytes of one GPU with them."""

    per_device_batch_size: int
    activation_checkpointing: bool
    bytes: float


@dataclass(frozen=True)
class Launch:
    """A way to train, on so many GPUs, and the options that ask for it where they are not set."""

    launcher: str
    gpus: int
    options: str = ""
    replicas: int = 1

    @property
    def strategy(self) -> str:
        """What `training_memory` calls it."""
        return self.launcher if self.launcher in ("fsdp2", "deepspeed") else "ddp"

    def __str__(self) -> str:
        if self.launcher == "none":
            return "one GPU"
        copies = f" in {self.replicas} copies" if self.replicas > 1 else ""
        return f"{self.gpus} GPU(s) by {self.launcher}{copies}"


@dataclass(frozen=True)
class Trainings:
    """Trainings of one section of a scale, which have their micro-batch in common; the largest counts."""

    settings: Training
    pairs: bool
    largest: str
    """Its label."""
    config: Mapping[str, Any]

    def bytes(self, launch: Launch, **changes: Any) -> float:
        """Peak bytes of one GPU, with settings that are changed."""
        settings = self.settings.model_copy(update=changes)
        return training_memory(
            self.config, settings, launch.strategy, launch.gpus, self.pairs, launch.replicas
        )

    def sizes(self, gpus: int) -> list[int]:
        """Micro-batches that divide the global batch, the largest first."""
        row = self.settings.max_length * (2 if self.pairs else 1)
        most = max(self.settings.per_device_batch_size, ENOUGH_TOKENS // row)
        batch = self.settings.global_batch_size
        return [size for size in range(most, 0, -1) if batch % (size * gpus) == 0]

    def fastest(self, launch: Launch, most_bytes: float) -> MicroBatch | None:
        """The largest micro-batch that fits without recomputing, else the largest with it; else None."""
        for recomputing in (False, True):
            for size in self.sizes(launch.gpus):
                needed = self.bytes(launch, per_device_batch_size=size, activation_checkpointing=recomputing)
                if needed <= most_bytes:
                    return MicroBatch(size, recomputing, needed)
        return None


def micro_batch_lines(plan: Plan, steps: Iterable[Step], hardware: Hardware) -> list[str]:
    """Options that make the trainings among the steps faster, or fit, with their GiB; they can be copied."""
    sections = _sections(plan, steps)
    most_bytes = (1 - FREE_SHARE) * hardware.gpu_memory_gib * GIB
    launches = [
        launch
        for launch in _launches(plan, hardware)
        if all(trainings.sizes(launch.gpus) for trainings in sections.values())
    ]
    if not sections or not launches:
        return []
    for launch in launches:
        chosen = {name: trainings.fastest(launch, most_bytes) for name, trainings in sections.items()}
        if None not in chosen.values():
            break
    head = f"micro-batches for {launch}, with {FREE_SHARE:.0%} of {hardware.gpu_memory_gib:g} GiB kept free"
    if missing := [sections[name] for name, found in chosen.items() if found is None]:
        smallest = {"per_device_batch_size": 1, "activation_checkpointing": True}
        needs = ", ".join(f"{each.largest} {_gib(each.bytes(launch, **smallest))}" for each in missing)
        return [f"{head}: none fits; the smallest, with recomputing, needs in GiB: {needs}"]
    lines = [f"{head} (the fastest by this arithmetic; GiB per GPU):"]
    lines += [f"  {launch.options}"] if launch.options else []
    lines += [
        f"  {_proposal(name, sections[name], found, launch, hardware)}"
        for name, found in chosen.items()
        if found
    ]
    return lines


def _sections(plan: Plan, steps: Iterable[Step]) -> dict[str, Trainings]:
    """Section of the scale → its trainings; without those of models that are not known on this machine."""
    found: dict[str, Trainings] = {}
    for step in steps:
        settings = training_of(step)
        config = step_config(plan.scale.base.shape, step)
        if settings is None or config is None:
            continue
        name = _section(plan, step, settings)
        if name not in found or parameters_of(config) > parameters_of(found[name].config):
            found[name] = Trainings(settings, step.stage == "dpo", step.label, config)
    return found


def _section(plan: Plan, step: Step, settings: Training) -> str:
    """Where the micro-batch of a training is set: in `dpo`, or in that of a candidate that differs there."""
    candidate = PAPER[step.variant].candidate if step.stage == "dpo" else ""
    needs = {
        *("per_device_batch_size", "activation_checkpointing", "global_batch_size", "max_length"),
        *("optimizer", "precision", "lora"),
    }
    same = settings.model_dump(include=needs) == plan.scale.dpo.model_dump(include=needs)
    return candidate if candidate and not same else step.stage


def _launches(plan: Plan, hardware: Hardware) -> list[Launch]:
    """The launch that is set, and after it the one that shards over all GPUs."""
    execution, gpus = plan.scale.execution, hardware.gpus
    match execution.launcher:
        case "none":
            options = f"-P launcher=fsdp2 -P num_processes={gpus}"
            return [Launch("none", 1), *([Launch("fsdp2", gpus, options)] if gpus > 1 else [])]
        case "ddp":
            return [Launch("ddp", gpus), Launch("fsdp2", gpus, "-P launcher=fsdp2")]
        case "fsdp2" if execution.fsdp2_replicas > 1:
            of_one = Launch("fsdp2", gpus, "-P fsdp2_replicas=1")
            return [Launch("fsdp2", gpus, replicas=execution.fsdp2_replicas), of_one]
        case launcher:
            return [Launch(launcher, gpus)]


def _proposal(name: str, trainings: Trainings, found: MicroBatch, launch: Launch, hardware: Hardware) -> str:
    """The options of one section and, as a shell's comment, their GiB and those of the scale's settings."""
    settings = trainings.settings
    options = [
        f"-P {name}.{option}={str(value).lower()}"
        for option, value in found._asdict().items()
        if option != "bytes" and value != getattr(settings, option)
    ]
    if not options:
        return f"# {name}: as set, {_gib(found.bytes)} ({trainings.largest})"
    as_set = trainings.bytes(launch)
    fits = "" if as_set <= hardware.gpu_memory_gib * GIB else ", which do not fit"
    return (
        f"{' '.join(options)}  # {_gib(found.bytes)} in place of {_gib(as_set)}{fits} ({trainings.largest})"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}"
