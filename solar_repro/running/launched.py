"""One process of a training that `launch.py` starts: `accelerate launch -m solar_repro.running.launched`."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import TypeAdapter

from solar_repro.contract import Inputs, StageSettings
from solar_repro.data.locate import pinned
from solar_repro.device import device
from solar_repro.errors import Stopped, UserError
from solar_repro.running.launch import read_job
from solar_repro.stages.table import STAGES, Stage
from solar_repro.store.resume import ResumeFolder
from solar_repro.terminal import events
from solar_repro.terminal.stopping import handle_signals, interruptible


def main(job: Path) -> None:
    """Run the stage that the job names, as one rank of all."""
    told = read_job(job)
    if told is None:
        raise UserError(f"{job}: is gone; the training that it tells of has ended")
    stage = STAGES[told["stage"]]
    settings = stage.settings.model_validate(told["settings"])
    inputs = stage.inputs.model_validate(told["inputs"])
    resume = TypeAdapter(ResumeFolder | None).validate_python(told["resume"])
    # Ranks that know each other do not all read the weights that FSDP shards: one on each machine does.
    # While rank 0 writes and hashes a state of 129 GB, the others wait longer than NCCL's ten minutes.
    PartialState(cpu=device() == "cpu", timeout=timedelta(hours=2))
    with pinned(told["data"]):
        _run(told, stage, settings, inputs, resume)


def _run(
    told: dict[str, Any],
    stage: Stage[Any, Any],
    settings: StageSettings,
    inputs: Inputs,
    resume: ResumeFolder | None,
) -> None:
    """Run the stage as this rank; what rank 0 writes is the result."""
    if int(os.environ["RANK"]):
        events.silent = True
        with tempfile.TemporaryDirectory() as scratch:
            _end_quietly(lambda: stage.run(Path(scratch), _no_log, settings, inputs, resume))
        return
    with handle_signals(ends_on_second=False), Client(told["address"], "AF_UNIX") as parent:
        _send(parent, {"pid": os.getpid()})
        if told["shown"]:
            events.listener = lambda event: _send(parent, {"progress": event})

        def log(metrics: Mapping[str, float], step: int = 0) -> None:
            _send(parent, {"metrics": {name: float(value) for name, value in metrics.items()}, "step": step})
            parent.recv_bytes()  # it is kept: a state that is saved now may count on it

        try:
            with interruptible():
                digests = stage.run(Path(told["out"]), log, settings, inputs, resume) or {}
            _send(parent, {"digests": digests})
        except UserError as error:
            _send(parent, {"error": str(error)})
            raise _quiet_end(2) from None
        except Stopped as stopped:
            _send(parent, {"stopped": str(stopped)})
            # Ranks that wait for this one and do not know yet would complain of its end: the parent ends all.
            with suppress(EOFError, OSError):
                parent.recv_bytes()
            raise _quiet_end(143) from None


def _no_log(metrics: Mapping[str, float], step: int = 0) -> None:
    """Log nothing: rank 0 logs what all ranks measure."""


def _end_quietly(work: Any) -> None:
    """Run this rank's work and end without a message: rank 0 reports the error that all ranks meet."""
    try:
        with handle_signals(ends_on_second=False), interruptible():
            work()
    except UserError:
        raise _quiet_end(2) from None
    except Stopped:
        raise _quiet_end(143) from None


def _quiet_end(code: int) -> SystemExit:
    """Return the exit of a rank whose parent knows the error: for any code but 0 accelerate prints pages.

    On several machines the code stands: it tells the others that there is no more to join.
    """
    return SystemExit(0 if os.environ["GROUP_WORLD_SIZE"] == "1" else code)


def _send(parent: Connection, message: dict[str, Any]) -> None:
    parent.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
