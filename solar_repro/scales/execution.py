"""How a plan is carried out: processes, saved states, tracking. None of it is part of a step's key."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from solar_repro.scales.section import Positive, Section


class Save(Section):
    """How often the state of a training is saved, so that it can resume. Results stay the same."""

    minutes: Annotated[float, Field(gt=0)] = 10
    steps: int | None = Field(default=None, gt=0)
    """Also save the state after this number of optimiser steps."""


def _listed(value: Any) -> Any:
    """Read a list that was typed with commas. A name may consist of digits."""
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
    """Log what trainings, evaluations and packing take of the machine: processor, memory, disk, network and
    GPUs."""


class Execution(Section):
    """In how many processes the steps of a plan run, and where; what is saved and tracked of them."""

    launcher: Literal["none", "ddp", "fsdp2", "deepspeed"] = "none"
    """`none`: in this process. Else a configuration of accelerate's, in `launchers/`."""
    num_processes: Positive = 1
    """Processes on all machines together, one per GPU. The global batch stays what the scale says."""
    num_machines: Positive = 1
    machine_rank: int = Field(default=0, ge=0)
    """Number of this machine. Machine 0 works on the plan and tracks it; the others join its trainings."""
    main_process_ip: str = "127.0.0.1"
    """Address of machine 0, as the other machines see it."""
    main_process_port: Positive = 29500
    fsdp2_replicas: Positive = 1
    """With `fsdp2`: copies of the model, each sharded over `num_processes` / `fsdp2_replicas` GPUs. With as
    many as `num_machines`, each machine holds a whole copy, and gradients alone are summed between machines
    (HSDP). Default: one copy, sharded over all GPUs."""

    jobs: Positive = 1
    """Number of steps that run side by side, each on its share of the cores and, of several GPUs, on one of
    its own. A step that a launcher runs has the whole machine. The number of threads changes the last digits
    of a training on a CPU, so results with different `jobs` are close but not equal."""
    num_proc: Positive = 1
    """Number of processes that tokenise rows and texts, and compare rows with the benchmarks."""
    verify: Literal["changed", "full"] = "changed"
    """Which files of finished results, models and data are read to compare them with their digests.
    `changed`: those whose size, times or inode are not what they were when they were last read. `full`: all,
    once more, because a failing disk may lose bits and change none of these."""
    save: Save = Save()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _processes_on_machines(self) -> Self:
        if self.launcher == "none" and (self.num_processes, self.num_machines) != (1, 1):
            raise ValueError("num_processes: more than one process needs a launcher: ddp, fsdp2 or deepspeed")
        if self.num_processes % self.num_machines:
            raise ValueError(
                f"num_processes: {self.num_processes} cannot be divided evenly among {self.num_machines} "
                "machines"
            )
        if self.fsdp2_replicas > 1 and self.launcher != "fsdp2":
            raise ValueError(
                f"fsdp2_replicas: {self.fsdp2_replicas} copies of the model need launcher: fsdp2"
            )
        if self.num_processes % self.fsdp2_replicas:
            raise ValueError(
                f"fsdp2_replicas: {self.num_processes} processes cannot be divided evenly among "
                f"{self.fsdp2_replicas} copies of the model"
            )
        if self.fsdp2_replicas == self.num_processes > 1:
            raise ValueError(
                f"fsdp2_replicas: with {self.fsdp2_replicas} copies on as many processes nothing is sharded; "
                "use launcher: ddp"
            )
        if self.machine_rank >= self.num_machines:
            raise ValueError(
                f"machine_rank: {self.machine_rank}, but the machines are numbered 0 … "
                f"{self.num_machines - 1}"
            )
        return self

    @property
    def launches(self) -> bool:
        """Whether trainings run in processes that a launcher starts."""
        return self.launcher != "none"
