"""Trainings in several processes, on one machine or many, under `accelerate launch`.

The plan, the tracking and the store stay with the process that was started by hand. It writes down a job,
which each launched process (`launched.py`) reads; rank 0 sends its metrics back. Other machines, where the
same command was started with a `machine_rank` of its own, see the job in the shared store and join.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from solar_repro.contract import Digests, Inputs, StageSettings
from solar_repro.errors import Stopped, UserError
from solar_repro.plan.step import Step, ordered
from solar_repro.safety.regular_files import open_own_file
from solar_repro.scales.execution import Execution
from solar_repro.stages.table import STAGES
from solar_repro.store.manifest import MANIFEST_FILE
from solar_repro.store.publish import write_atomically
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder, job_file
from solar_repro.terminal import events
from solar_repro.terminal.stopping import deferred_stop

CONFIGS = Path(__file__).parent / "launchers"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_FOLLOW = 30.0
"""Ranks that have not ended so long after rank 0 has met an error wait for it in vain, and are killed."""
ALL_GPUS = "SOLAR_ALL_GPUS"
"""Variable of a process that sees one GPU: the `CUDA_VISIBLE_DEVICES` of all, empty where it is not set."""
_MAX_JOB_BYTES = 1_000_000


@dataclass(frozen=True)
class Job:
    """A stage to be run in several processes, and what its function takes."""

    stage: str
    out: Path
    settings: StageSettings
    inputs: Inputs
    resume: ResumeFolder | None
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests that pin the sets that are read."""


def is_launched(step: Step, how: Execution) -> bool:
    """Whether a step runs in processes of a launcher, which take the whole machine."""
    return how.launches and STAGES[step.stage].launched


def launch(file: Path, job: Job, log: Log, how: Execution) -> Digests:
    """Run a stage in several processes and return what its `run` returns.

    `file` tells them what to do; it lies in the store for the time of the training. Raises what the stage
    raises: UserError, Stopped where the process was asked to end.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/rank-0", "AF_UNIX") as listener:
        listening = threading.Thread(target=_listen, args=(listener, log, found), daemon=True)
        listening.start()
        content = {
            "id": uuid.uuid4().hex,
            "address": listener.address,
            "shown": events.listener is not None,
        }
        write_atomically(file, json.dumps(to_jsonable_python(content | vars(job))))
        try:
            with _started(file, how) as process, deferred_stop() as asked:
                told, ended = False, float("inf")
                while process.poll() is None and time.monotonic() < ended + SECONDS_TO_FOLLOW:
                    if "stopped" in found:
                        break  # what is to be kept is saved; ranks that do not know yet would miss rank 0
                    if ended == float("inf") and "error" in found:
                        ended = time.monotonic()
                    if asked.is_set() and "pid" in found and not told:
                        told = True
                        with suppress(ProcessLookupError):
                            os.kill(found["pid"], signal.SIGTERM)  # rank 0 has all ranks save their state
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            file.unlink()
        if "pid" in found:
            listening.join()
    if "stopped" in found:
        raise Stopped(found["stopped"])
    if "error" in found:
        raise UserError(found["error"])
    if "digests" not in found and asked.is_set():
        raise Stopped("stopped before its training began")
    if "digests" not in found:
        raise UserError(
            f"{job.stage}: a launched process failed (exit code {process.returncode}); its error is "
            "printed above"
        )
    return found["digests"]


def follow(store: Path, targets: list[Step], how: Execution) -> None:
    """On a machine that is not the first: join each training of the plan, until the targets are there."""
    trainings = [step for step in ordered(targets) if STAGES[step.stage].launched]
    joined = ""
    while not all((store / target.folder / MANIFEST_FILE).is_file() for target in targets):
        for step in trainings:
            job = job_file(store / step.folder)
            told = read_job(job)
            if told and told["id"] != joined:
                print(f"{step.label:<28} joining", file=sys.stderr, flush=True)
                joined = told["id"]
                with deferred_stop() as asked, _started(job, how) as process:
                    failed = process.wait()  # machine 0, asked too, has all ranks save their state
                if asked.is_set():
                    raise Stopped(f"{step.label}: stopped with machine 0")
                if failed:
                    raise UserError(f"{step.label}: the training ended early; machine 0 says why")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def read_job(file: Path) -> dict[str, Any] | None:
    """What a job file says; None where there is none (any more).

    Others may write to the store: a link, a FIFO, a huge file or one of another shape is a UserError.
    """
    try:
        with open(file, "rb", opener=open_own_file) as stream:
            told = json.loads(stream.read(_MAX_JOB_BYTES + 1))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as a training's job ({error}); remove it") from None
    shape = {"id": str, "stage": str, "out": str, "address": str}
    shape |= dict.fromkeys(["settings", "inputs", "data"], dict)
    if not isinstance(told, dict) or not all(isinstance(told.get(key), kind) for key, kind in shape.items()):
        raise UserError(f"{file}: is no training's job; remove it")
    if told["stage"] not in STAGES or not STAGES[told["stage"]].launched:
        raise UserError(f"{file}: its stage {told['stage']!r} is none that is launched; remove it")
    return told


def _listen(door: Listener, log: Log, found: dict[str, Any]) -> None:
    """Take rank 0's metrics, each confirmed once it is kept, its progress, and what came of its work."""
    with door.accept() as rank_0:
        while True:
            try:
                message = json.loads(rank_0.recv_bytes())
            except EOFError:
                return
            if "metrics" in message:
                log(message["metrics"], message["step"])
                with suppress(BrokenPipeError):  # it was asked to end, and did not wait
                    rank_0.send_bytes(b"kept")
            elif "progress" in message:
                told = events.WorkEvent(*message["progress"])
                if (listener := events.listener) is not None:
                    listener(told._replace(key=events.current_step))
            else:
                found |= message


def with_all_gpus(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that sees all GPUs, from one of a process that sees a single one."""
    found = dict(environment)
    if (gpus := found.pop(ALL_GPUS, None)) is not None:
        del found["CUDA_VISIBLE_DEVICES"]
        found |= {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    return found


@contextmanager
def _started(job: Path, how: Execution) -> Iterator[subprocess.Popen]:
    """This machine's processes of a training; those that still run at the end of the block are killed."""
    import psutil
    import torch

    on_this_machine = how.num_processes // how.num_machines
    environment = with_all_gpus(os.environ)
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // on_this_machine))
    if how.fsdp2_replicas > 1:  # accelerate's ParallelismConfig reads them
        environment["ACCELERATE_USE_PARALLELISM_CONFIG"] = "true"
        environment["PARALLELISM_CONFIG_DP_REPLICATE_SIZE"] = str(how.fsdp2_replicas)
        environment["PARALLELISM_CONFIG_DP_SHARD_SIZE"] = str(how.num_processes // how.fsdp2_replicas)
    with tempfile.TemporaryDirectory() as folder:
        command = _command(job, how, Path(folder))
        # In a session of their own a terminal's Ctrl-C does not reach them: rank 0 is told.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                ranks = psutil.Process(process.pid).children(recursive=True)
                # Who sees another one end complains: the launcher goes first, and rank 0 last.
                for one in [process, *sorted(ranks, key=lambda rank: -rank.create_time())]:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                process.wait()


def _command(job: Path, how: Execution, folder: Path) -> list[str]:
    """The command line of the launcher on this machine; `folder` is for a configuration that it needs."""
    port = how.main_process_port if how.num_machines > 1 else 0  # 0: one that is free
    deepspeed = how.launcher == "deepspeed"
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(CONFIGS / f"{how.launcher}.yaml")),
        *("--num_processes", str(how.num_processes), "--num_machines", str(how.num_machines)),
        *("--machine_rank", str(how.machine_rank), "--main_process_port", str(port)),
        *(["--main_process_ip", how.main_process_ip] if how.num_machines > 1 else []),
        *(["--deepspeed_config_file", _zero3_config(job, folder)] if deepspeed else []),
        *("-m", "solar_repro.running.launched", str(job)),
    ]


def _zero3_config(job: Path, folder: Path) -> str:
    """Write DeepSpeed's configuration for a job to a folder.

    Under autocast it keeps the weights in float32. Its own bfloat16 would round them before the first step.
    """
    told = read_job(job) or {"settings": {}}  # a job that has ended meanwhile: the processes will say so
    sections = [part for part in told["settings"].values() if isinstance(part, dict)]
    half = any(part.get("precision") == "bfloat16" for part in sections)
    config = json.loads((CONFIGS / "zero3.json").read_text(encoding="utf-8"))
    config["torch_autocast"] = {"enabled": half, "dtype": "bfloat16"}
    file = folder / "zero3.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return str(file)
