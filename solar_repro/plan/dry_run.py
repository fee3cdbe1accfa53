"""The dry run: what a plan would do, need and cost. It does nothing and needs no network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.errors import UserError
from solar_repro.plan.costs import (
    GIB,
    STRATEGIES,
    checkpoint_bytes,
    gpu_hours,
    result_bytes,
    step_config,
    step_flops,
    training_memory,
    training_of,
    training_tokens,
)
from solar_repro.plan.micro_batches import micro_batch_lines
from solar_repro.plan.plan import Plan
from solar_repro.plan.schedule import hours_of_plan
from solar_repro.plan.step import Step
from solar_repro.scales.hardware import Hardware
from solar_repro.scales.training import Lora, Training, Tuning
from solar_repro.stages.table import STAGES


@dataclass(frozen=True)
class Forecast:
    """The forecast of one step. Values are None where the base's config is not known on this machine."""

    step: Step
    state: str
    """`finished` in the store, `to do`, or `unknown` where the key depends on what the hub did not answer."""
    parameters: int | None
    """0 if the step makes no model."""
    tokens: int
    disk: int | None
    hours: float | None
    """Hours of one GPU."""
    memory: dict[str, float]
    """Strategy → peak bytes of one GPU; empty unless the step trains."""


def forecast(plan: Plan, store: Path) -> list[Forecast]:
    """Every step of `main`."""
    hardware = _hardware(plan)
    found = []
    for step in plan.main():
        config = step_config(plan.scale.base.shape, step)
        memory = {}
        if hardware and config and (training := training_of(step)) is not None:
            memory = _memory(config, step, training, hardware.gpus, _replicas(plan))
        state = "finished" if (store / step.folder / "manifest.json").is_file() else "to do"
        found.append(
            Forecast(
                step=step,
                state=state if step.is_known else "unknown",
                parameters=_parameters(step, config),
                tokens=training_tokens(step),
                disk=result_bytes(plan.scale.base.shape, step),
                hours=gpu_hours(step_flops(step, config), hardware) if hardware and config else None,
                memory=memory,
            )
        )
    return found


def _hardware(plan: Plan) -> Hardware | None:
    """The scale's hardware; with a launcher it has as many GPUs as there are processes."""
    hardware, execution = plan.scale.hardware, plan.scale.execution
    if hardware is None or not execution.launches:
        return hardware
    return hardware.model_copy(update={"gpus": execution.num_processes})


def _parameters(step: Step, config: dict[str, Any] | None) -> int | None:
    if not step.makes_model:
        return 0
    return None if config is None else parameters_of(config)


def describe(plan: Plan, found: list[Forecast], store: Path) -> str:
    """The forecast as a table, with sums of what is not finished yet, and what has to be downloaded."""
    hardware = _hardware(plan)
    head = f"{'step':<26} {'stage':<17} {'state':<8} {'parameters':>14} {'tokens':>16} {'disk':>12}"
    if hardware:
        head += f" {'GPU-hours':>9}" + "".join(f" {name:>9}" for name in STRATEGIES)
    lines = [head]
    for item in found:
        at_most = "≤ " if item.step.stage in ("sft", "dpo") else ""
        tokens = at_most + _thousands(item.tokens)
        line = (
            f"{item.step.label:<26} {item.step.stage:<17} {item.state:<8} "
            f"{_thousands(item.parameters):>14} {tokens:>16} {_size(item.disk):>12}"
        )
        if hardware:
            hours = "?" if item.hours is None else _hours(item.hours) if item.hours else "–"
            line += f" {hours:>9}"
            line += "".join(f" {_gibibytes(item.memory.get(name)):>9}" for name in STRATEGIES)
        lines.append(line.rstrip())
    open_steps = [item for item in found if item.state != "finished"]
    tokens = sum(item.tokens for item in open_steps)
    disk = sum(item.disk or 0 for item in open_steps)
    copies = ", and the same again as artifacts on the tracking server" * (
        plan.scale.execution.tracking.checkpoints == "upload"
    )
    lines.append(
        f"{len(found)} steps; to do: at most {tokens:,} training tokens, "
        f"{_size(disk)} of checkpoints and packed text in {store}{copies}"
    )
    if hardware:
        lines.append(_gpu_lines(open_steps, hardware))
        lines.append(_schedule_line(plan, open_steps, hardware))
        lines += _cpu_lines(open_steps, hardware)
        lines += micro_batch_lines(plan, [item.step for item in open_steps], hardware)
    lines += _download_lines(plan)
    return "\n".join(lines)


def _gpu_lines(open_steps: list[Forecast], hardware: Hardware) -> str:
    hours = sum(item.hours or 0 for item in open_steps)
    return (
        f"at most {_hours(hours)} GPU-hours, {_length(hours / hardware.gpus)} on {hardware.gpus} GPUs of "
        f"{hardware.gpu_tflops:g} TFLOP/s, of which {hardware.mfu:.0%} are reached (hardware.gpus, "
        ".gpu_tflops, .mfu)\n"
        f"ddp, fsdp2: peak memory of training in GiB per GPU; each GPU has {hardware.gpu_memory_gib:g} "
        "(hardware.gpu_memory_gib)\n"
        "tuning is computed with every row at full length, and generation as forward passes; contamination "
        "tests and the making of data are not counted"
    )


def _cpu_lines(open_steps: list[Forecast], hardware: Hardware) -> list[str]:
    if hardware.cpu_gflops is None:
        return []
    flops = sum(item.hours or 0 for item in open_steps) * hardware.gpu_tflops * 1e12 * hardware.mfu
    return [
        f"without a GPU: at most {_length(flops / hardware.cpu_gflops / 1e9)} on cores that reach "
        f"{hardware.cpu_gflops:g} GFLOP/s (hardware.cpu_gflops)"
    ]


def _schedule_line(plan: Plan, open_steps: list[Forecast], hardware: Hardware) -> str:
    """How long the plan takes where every GPU has a step of its own, and a launched step has them all."""
    launches = plan.scale.execution.launches
    hours = {
        item.step.key: (item.hours or 0) / (hardware.gpus if launches and _is_launched(item.step) else 1)
        for item in open_steps
    }
    steps = [item.step for item in open_steps]
    length = hours_of_plan(steps, hours, hardware.gpus, lambda step: launches and _is_launched(step))
    shared = f"trainings on all GPUs by {plan.scale.execution.launcher}, " if launches else ""
    return (
        f"schedule: {_length(length)} with -P jobs={hardware.gpus} ({shared}"
        f"{'other steps' if launches else 'every step'} on one GPU each)"
    )


def _is_launched(step: Step) -> bool:
    return STAGES[step.stage].launched


def _download_lines(plan: Plan) -> list[str]:
    sizes = {
        name: None if plan.locations.unreachable else _hub_bytes(name)
        for name in sorted(plan.locations.hub_sets)
    }
    base = plan.model("base")
    if (model := base.places.get("model")) and not Path(model).is_dir():
        sizes[model] = checkpoint_bytes(plan.scale.base.shape, base)
    lines = []
    if sizes:
        unknown = [name for name, size in sizes.items() if size is None]
        beside = f" and, of a size not known here, {', '.join(unknown)}" if unknown else ""
        lines.append(f"download: at most {_size(sum(size or 0 for size in sizes.values()))}{beside}")
    for name, reason in list(plan.locations.unreachable.items())[:1]:
        lines.append(f"states are unknown, because the hub did not tell the revision of {name} ({reason})")
    return lines


def _hub_bytes(name: str) -> int | None:
    """Size of the files of a hub data set that are downloaded; None where the hub does not say."""
    from huggingface_hub import HfApi

    from solar_repro.store.hub import wanted_files

    try:
        files = HfApi().dataset_info(name, files_metadata=True).siblings
    except Exception:  # the hub's client raises OSError, ValueError or its HTTP library's own
        return None
    wanted = set(wanted_files([file.rfilename for file in files]))
    return sum(file.size or 0 for file in files if file.rfilename in wanted)


def refuse_what_cannot_fit(plan: Plan, found: list[Forecast]) -> None:
    """UserError for the first training step that fits no GPU, or whose batch does not divide."""
    hardware = _hardware(plan)
    for item in found:
        training = training_of(item.step)
        if training is None or not item.memory:
            continue
        try:
            training.accumulation(hardware.gpus)
        except ValueError as error:
            raise UserError(
                f"{item.step.label}: {error}; change -P {_number_of_gpus(plan)} or the batch"
            ) from None
        if min(item.memory.values()) > hardware.gpu_memory_gib * GIB:
            needs = ", ".join(f"{_gibibytes(size)} GiB with {name}" for name, size in item.memory.items())
            raise UserError(
                f"{item.step.label}: needs {needs}, on each of {hardware.gpus} GPU(s) of "
                f"{hardware.gpu_memory_gib:g} GiB; {_what_helps(plan, item.step, training, hardware)}"
            )


def _what_helps(plan: Plan, step: Step, settings: Training, hardware: Hardware) -> str:
    """The first changes that make a step fit: a smaller micro-batch, recomputing, more GPUs, all of them."""
    config = step_config(plan.scale.base.shape, step)
    small = {"per_device_batch_size": 1, "activation_checkpointing": True}
    more = [2**power for power in range(1, 11) if 2**power > hardware.gpus]
    replicas = _replicas(plan)
    for changes, gpus, copies in [
        ({"per_device_batch_size": 1}, [hardware.gpus], replicas),
        ({"activation_checkpointing": True}, [hardware.gpus], replicas),
        ({}, [hardware.gpus], 1),
        ({}, more, replicas),
        (small, [hardware.gpus, *more], 1),
    ]:
        changed = settings.model_copy(update=changes)
        for number in gpus:
            needed = min(_memory(config, step, changed, number, copies).values())
            if number % copies == 0 and needed <= hardware.gpu_memory_gib * GIB:
                knobs = [f"-P {step.stage}.{name}={str(value).lower()}" for name, value in changes.items()]
                knobs += [f"-P {_number_of_gpus(plan)}={number}"] if number != hardware.gpus else []
                knobs += [f"-P fsdp2_replicas={copies}"] if copies != replicas else []
                return f"{' '.join(knobs)} would fit{_adapters_help(plan, config, step, settings, hardware)}"
    return f"a smaller base or larger GPUs are needed{_adapters_help(plan, config, step, settings, hardware)}"


def _number_of_gpus(plan: Plan) -> str:
    return "num_processes" if plan.scale.execution.launches else "hardware.gpus"


def _replicas(plan: Plan) -> int:
    """Copies of the model that `fsdp2` trains."""
    return plan.scale.execution.fsdp2_replicas


def _adapters_help(
    plan: Plan, config: dict[str, Any], step: Step, settings: Training, hardware: Hardware
) -> str:
    """For tuning: the way to train adapters that fits these GPUs, which is not what the paper does."""
    if not isinstance(settings, Tuning):
        return ""
    for lora, knob in ((Lora(), f"rank={Lora().rank}"), (Lora(quantised=True), "quantised=true")):
        changed = settings.model_copy(update={"lora": lora})
        needed = min(_memory(config, step, changed, hardware.gpus, _replicas(plan)).values())
        if needed <= hardware.gpu_memory_gib * GIB:
            return f"; so would adapters in place of whole weights: -P {step.stage}.lora.{knob}"
    return ""


def _memory(
    config: dict[str, Any], step: Step, settings: Training, gpus: int, replicas: int
) -> dict[str, float]:
    pairs = step.stage == "dpo"
    return {name: training_memory(config, settings, name, gpus, pairs, replicas) for name in STRATEGIES}


def _hours(hours: float) -> str:
    """Hours with two digits at least: `0.034`, `2.4`, `260`."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def _length(hours: float) -> str:
    """A time in minutes, hours or days."""
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def _thousands(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else "–"


def _size(size: int | None) -> str:
    if not size:
        return "?" if size is None else "–"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _gibibytes(size: float | None) -> str:
    return "–" if size is None else f"{size / GIB:,.1f}"
