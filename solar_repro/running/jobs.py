"""Steps of a plan side by side, where one alone leaves cores idle: each in one of a few lasting processes."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from solar_repro.errors import Stopped, UserError
from solar_repro.plan.schedule import ready_steps, startable, urgency
from solar_repro.plan.step import Step
from solar_repro.running.launch import ALL_GPUS, is_launched
from solar_repro.running.runner import Runner
from solar_repro.scales.execution import Execution
from solar_repro.terminal import events
from solar_repro.terminal.stopping import (
    block_signals,
    deferred_stop,
    handle_signals,
    interruptible,
    unblock_sigterm,
)
from solar_repro.tracking.commands import Invocation
from solar_repro.tracking.reader import FinishedRun
from solar_repro.tracking.tracker import Tracker

GRACE_SECONDS = 60
SECONDS_BETWEEN_LOOKS = 0.2
_runner: Runner
"""The runner of a worker process, set once at its start."""
_heeding = ExitStack()
"""It stays open as long as the worker lives."""
_idle = threading.Event()
"""It is set while the worker makes nothing."""


def make_side_by_side(runner: Runner, steps: list[Step], jobs: int, total: int) -> dict[str, FinishedRun]:
    """Make steps whose other inputs are finished, `jobs` at a time; their runs by key.

    The cores are shared out evenly, and of several GPUs each process has one. A step that a launcher runs has
    them all: nothing else is made beside it. Of the steps that can be made, the one that most others wait for
    goes first. An error in a step ends the whole, after the steps that are on their way. Asked to end, the
    process asks those that make steps, waits until they have saved their state, and raises Stopped, which
    names them.
    """
    waiting = {step.key: step for step in steps}
    urgent = urgency(steps)
    first = total - len(steps) + 1
    made: dict[str, FinishedRun] = {}
    running: dict[Future[FinishedRun], Step] = {}
    error: Exception | None = None
    stopped: list[str] = []
    broken: list[Step] = []
    told = False
    tracker = runner.tracker
    own = (tracker.name, tracker.scale, tracker.run_id, tracker.accepted, tracker.invocation)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    gpus = _shares_of_gpus(jobs)
    takes_all = partial(is_launched, how=runner.execution)
    with (
        _hearing() as (heard, telling),
        deferred_stop() as asked,
        ProcessPoolExecutor(
            jobs,
            multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(threads, gpus, telling, runner.store, own, runner.execution),
        ) as pool,
        _killed_in_haste(runner, running),
    ):
        while running or (waiting and not (told or stopped or error or broken)):
            if asked.is_set() and not told:
                told = True
                for worker in multiprocessing.active_children():
                    worker.terminate()
            if not (told or stopped or error or broken):
                unmade = waiting.keys() | {step.key for step in running.values()}
                ready = ready_steps(waiting.values(), unmade, urgent)
                for step in startable(ready, list(running.values()), jobs, takes_all):
                    number = first + len(made) + len(running)
                    try:
                        with block_signals():
                            running[pool.submit(_make, waiting.pop(step.key), (number, total))] = step
                    except BrokenProcessPool:  # another process was killed just now
                        broken.append(step)
                        break
            finished, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            _pass_on(heard)
            for future in finished:
                step = running.pop(future)
                try:
                    made[step.key] = future.result()
                except Stopped as one:
                    what = str(one)
                    stopped.append(what if what.startswith(step.label) else f"{step.label}: {what}")
                except BrokenProcessPool:
                    broken.append(step)  # one of them was killed, and the others with it
                except Exception as other:
                    error = error or other
    for step in broken:  # now that no process is left that could open another run
        tracker.close_dead(step.key, runner.store / step.folder)
    if stopped or asked.is_set():
        raise Stopped("; ".join(stopped) or "stopped")
    if broken and error is None:
        names = " or ".join(sorted(step.label for step in broken))
        error = UserError(
            f"{names}: its process has ended; if no error is printed above, it was "
            "killed, perhaps because memory ran out: -P jobs=1 needs less, and continues from there"
        )
    if error is not None:
        raise error
    return made


def _shares_of_gpus(jobs: int) -> "SimpleQueue[str] | None":
    """For each of the processes the GPU that it sees, where there are several; each takes one."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(gpus) < 2:
        return None
    shares: SimpleQueue[str] = multiprocessing.get_context("spawn").SimpleQueue()
    for number in range(jobs):
        shares.put(gpus[number % len(gpus)])
    return shares


@contextmanager
def _hearing() -> Iterator[tuple[Connection | None, Connection | None]]:
    """Where there is a live display: a connection for workers' events, its reading end first."""
    if events.listener is None:
        yield None, None
        return
    heard, telling = multiprocessing.Pipe(duplex=False)
    with heard, telling:
        yield heard, telling
        _pass_on(heard)


def _pass_on(heard: Connection | None) -> None:
    while heard is not None and heard.poll():
        events.listener(heard.recv())


@contextmanager
def _killed_in_haste(runner: Runner, running: Mapping[Future[FinishedRun], Step]) -> Iterator[None]:
    """Where the process is asked to end a second time, nobody is waited for."""
    try:
        yield
    except Stopped:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        for step in running.values():
            runner.tracker.close_dead(step.key, runner.store / step.folder)
        raise


def _start(
    threads: int,
    gpus: "SimpleQueue[str] | None",
    telling: Connection | None,
    store: Path,
    own: tuple[str, str, str, tuple[str, ...], Invocation],
    execution: Execution,
) -> None:
    global _runner
    _idle.set()
    _heeding.enter_context(handle_signals(ends_on_second=False))
    unblock_sigterm()
    threading.Thread(target=_end_with_parent, args=(telling is not None,), daemon=True).start()
    if telling is not None:

        def tell(event: events.Event) -> None:
            with suppress(OSError):  # the parent is gone: the end of this process is on its way
                telling.send(event)  # short, so that a pipe takes it whole or not at all

        events.listener = tell
    if gpus is not None:
        _see_one_gpu(gpus.get())  # before PyTorch looks for them
    import torch

    torch.set_num_threads(threads)
    _runner = Runner(store, Tracker(*own), execution)


def _see_one_gpu(gpu: str) -> None:
    os.environ[ALL_GPUS] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _end_with_parent(shown: bool) -> None:
    """A worker outlives a killed parent otherwise: it waits for work on a pipe that it holds open itself.

    `shown`: the parent has read, and put on the terminal, what this process writes.
    """
    multiprocessing.parent_process().join()
    if shown:
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
    _idle.wait(GRACE_SECONDS)
    os._exit(1)


def _make(step: Step, position: tuple[int, int]) -> FinishedRun:
    events.line_prefix = step.label
    _runner.position, _runner.printed_key = position, step.key
    _idle.clear()
    try:
        with interruptible():
            made = _runner.get(step)
        gc.freeze()  # what is left is libraries: each collection would look at their million objects again
        return made
    finally:
        _idle.set()
