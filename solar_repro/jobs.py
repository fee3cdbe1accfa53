"""Steps of a plan side by side, where one alone leaves cores idle: each in one of a few lasting processes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro import progress

if TYPE_CHECKING:
    from solar_repro.runner import Runner
    from solar_repro.scales import Save
    from solar_repro.step import Step
    from solar_repro.tracking import Finished

GRACE_SECONDS = 60
_runner: Runner
"""A worker's own, set once at its start."""


def make_side_by_side(runner: Runner, steps: list[Step], jobs: int, total: int) -> dict[str, Finished]:
    """Make steps whose other inputs are finished, `jobs` at a time; their runs by key.

    The cores are shared out evenly. Of the steps that can be made, the one that most others wait for goes
    first. An error in a step ends the whole, after the steps that are on their way.
    """
    waiting = {step.key: step for step in steps}
    weight = dict.fromkeys(waiting, 0)
    for step in steps:
        for key in _ancestors(step) & weight.keys():
            weight[key] += 1
    first = total - len(steps) + 1
    made: dict[str, Finished] = {}
    running: dict[Future[Finished], Step] = {}
    tracker = runner.tracker
    place = (runner.store, tracker.name, tracker.run_id, tracker.scale, runner.upload, runner.save)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start, initargs=(threads, *place)
    ) as pool:
        while waiting or running:
            open_keys = waiting.keys() | {step.key for step in running.values()}
            ready = [step for step in waiting.values() if not _inputs(step) & open_keys]
            ready.sort(key=lambda step: -weight[step.key])
            for step in ready[: jobs - len(running)]:
                number = first + len(made) + len(running)
                running[pool.submit(_make, waiting.pop(step.key), (number, total))] = step
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                made[running.pop(future).key] = future.result()
    return made


def _inputs(step: Step) -> set[str]:
    return {parent.key for parent in step.inputs.values()}


def _ancestors(step: Step) -> set[str]:
    return _inputs(step).union(*(_ancestors(parent) for parent in step.inputs.values()))


def _start(threads: int, store: Path, name: str, run_id: str, scale: str, upload: bool, save: Save) -> None:
    global _runner
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from solar_repro.runner import Runner
    from solar_repro.tracking import Tracker

    torch.set_num_threads(threads)
    os.environ["MLFLOW_RUN_ID"] = run_id
    _runner = Runner(store, Tracker(name, scale), upload=upload, save=save)


def _end_with_parent() -> None:
    """A worker outlives a killed parent otherwise: it waits for work on a pipe that it holds open itself."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _make(step: Step, position: tuple[int, int]) -> Finished:
    progress.told_of = step.label
    _runner.position, _runner.tells_of = position, step.key
    try:
        return _runner.get(step)
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    """glibc keeps what a step has freed, in pieces too small for the next one, until it is told."""
    gc.collect()  # a trainer and its model refer to each other
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
