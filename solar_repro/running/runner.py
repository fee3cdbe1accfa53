"""Get or run: the result of a step is found by its key, or its stage runs, is tracked and published."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.model_source import (
    model_folder,
    models_by_role,
    refuse_changed_model,
    with_model_folders,
)
from solar_repro.contract import Digests
from solar_repro.data.locate import pinned
from solar_repro.device import free_memory, give_memory_back
from solar_repro.errors import Stopped, UserError
from solar_repro.paper.benchmarks import H6_BENCHMARKS
from solar_repro.plan.costs import bytes_to_hold, bytes_to_write
from solar_repro.plan.provenance import FILE as PROVENANCE
from solar_repro.plan.provenance import made_in, result_digest, verify_result, write_provenance
from solar_repro.plan.step import Step
from solar_repro.running.launch import Job, is_launched, launch
from solar_repro.safety.paths import require_memory, require_space, require_writable
from solar_repro.safety.redact import one_line, printable
from solar_repro.scales.execution import Execution
from solar_repro.scales.hardware import Shape
from solar_repro.stages.table import STAGES
from solar_repro.store.leftovers import is_empty, set_aside_damaged
from solar_repro.store.lock import locked
from solar_repro.store.manifest import MANIFEST_FILE, ManifestError, only_listed_files
from solar_repro.store.publish import PlaceOccupied, publish
from solar_repro.store.result import METRICS, NOTES, Log
from solar_repro.store.resume import RESUME_METRICS, ResumeFolder, job_file, resume_folder, run_of_checkpoint
from solar_repro.terminal import events
from solar_repro.terminal.events import StepEvent, StepState
from solar_repro.terminal.stopping import raise_if_stop_requested
from solar_repro.tracking.metric_log import read_metrics, send_metrics
from solar_repro.tracking.reader import FinishedRun, conflicting_results
from solar_repro.tracking.run_inputs import short_digest
from solar_repro.tracking.system_metrics import log_system_metrics
from solar_repro.tracking.tracker import Tracker, mark_failed

IN_THIS_PROCESS = Execution()


class Runner:
    """Makes steps in one store, for one invocation's tracker."""

    def __init__(
        self,
        store: Path,
        tracker: Tracker,
        execution: Execution = IN_THIS_PROCESS,
        shape: Shape | None = None,
    ) -> None:
        if execution.launcher == "deepspeed" and find_spec("deepspeed") is None:
            raise UserError("launcher: deepspeed is not installed; pip install 'solar-repro[deepspeed]'")
        self.store = store.resolve()
        self.tracker = tracker
        self.execution = execution
        self.shape = shape
        """Dimensions of a base that only the hub has, to estimate what steps cost."""
        self.position = (0, 0)
        """Number of the step that is being made, and the number of all steps, as they are printed."""
        self.printed_key: str | None = None
        """Key of the one step whose progress is printed; None prints all."""
        self.made: dict[str, FinishedRun] = {}
        self.reused: dict[str, FinishedRun] = {}

    def get(self, step: Step, run_id: str | None = None) -> FinishedRun:
        """The finished result of the step, made if need be (in the given run, else in a nested one)."""
        known = self.made.get(step.key) or self.reused.get(step.key)
        if known is None:
            # Whoever asks for the same step meanwhile waits here, and finds it made. Locks are taken from a
            # step to those it is made from, so there is no circular wait.
            with self.lock(step) as unlocked:
                known = self.cached(step, not unlocked)
                if known is None:
                    parents = {role: self.get(parent) for role, parent in step.inputs.items()}
                    raise_if_stop_requested()
                    if unlocked:
                        self._say(step, f"no lock can be had ({unlocked}): let nobody else make it meanwhile")
                    events.current_step = step.key
                    try:
                        known = self.made[step.key] = self._run(step, parents, run_id, not unlocked)
                        give_memory_back()
                    except Stopped as stopped:
                        self._say(step, "stopped", "failed")
                        raise Stopped(f"{step.label}: {stopped}") from None
                    except BaseException:
                        self._say(step, "failed", "failed")
                        raise
                    finally:
                        events.current_step = ""
        if run_id not in (None, known.run_id):
            self.tracker.reuse(run_id, known)
        return known

    def lock(self, step: Step) -> AbstractContextManager[str | None]:
        """Hold the step's lock in the store; gives None, or why no lock can be had."""
        return locked(
            self.store / step.folder, lambda owner: self._say(step, f"waiting for {owner}", "waiting")
        )

    def cached(self, step: Step, alone: bool) -> FinishedRun | None:
        """The step's result, where store or server have it; `alone`: this process holds the step's lock."""
        folder = self.store / step.folder
        candidates = self.tracker.candidates(step.key)
        here = _is_here(folder, step)
        if not (candidates or here):
            return None
        found = registered(candidates, folder) if here else None
        if found:
            self._say(step, "cached", "found")
        elif here:
            # Finished, but this server does not know it: it was unreachable at the end, or is another one.
            parents = {role: self.get(parent) for role, parent in step.inputs.items()}
            left_open, _ = self.tracker.unfinished(step.key, folder)
            run_id = left_open[0] if left_open and alone else self.tracker.open_child(step, folder)
            found = self._register(step, parents, run_id, folder)
            self._say(step, "registered", "found")
        elif found := self._download(candidates, folder, step):
            self._say(step, f"downloaded: {found}", "found")
        else:
            return None
        self.reused[step.key] = replace(found, output=folder)
        return self.reused[step.key]

    def _download(self, candidates: Sequence[FinishedRun], folder: Path, step: Step) -> FinishedRun | None:
        """Fetch the step's result from the artifacts of a run that has it whole; None where none has.

        Runs that differ in it are a UserError: which of them is right nobody can tell from here.
        """
        if step.is_copy:
            return None  # what it is a copy of is named by the key, and is asked instead
        if len(candidates) > 1:
            digests = {found: self.tracker.offered(found, step.key) for found in candidates}
            candidates = [found for found, digest in digests.items() if digest]
            if len({digests[found] for found in candidates}) > 1:
                raise UserError(conflicting_results(step.label, candidates))
        for found in candidates:
            try:
                with publish(folder) as work:
                    if not self.tracker.download(found, work, step.stage):
                        raise FileNotFoundError
                    verify_result(work, step)
                    if found.digest not in (None, result_digest(work)):
                        raise ManifestError("its files are not those that it has recorded")
            except FileNotFoundError:
                continue
            except ManifestError as error:
                why = one_line(str(error).replace(f"{folder.parent}/", ""))
                self._say(step, f"passed over: {found}: {why}")
                continue
            return found
        return None

    def _run(
        self, step: Step, parents: Mapping[str, FinishedRun], own_run: str | None, alone: bool = True
    ) -> FinishedRun:
        """Make the step, in the run `own_run` or else in a nested one. `alone` says that its lock is held."""
        require_writable(self.store, "store", "-P store=")
        folder = self.store / step.folder
        resume = self._resume_folder(step)
        saved = resume.intact_checkpoint() if resume else None
        run_id = run_of_checkpoint(saved) if saved else None
        if run_id is None or not self.tracker.reopen(run_id):
            run_id = own_run or self.tracker.open_child(step, folder)
        started = time.monotonic()
        with mark_failed(self.tracker.client, run_id):
            left_open, elsewhere = self.tracker.unfinished(step.key, folder)
            for dead in left_open if alone else ():  # this process holds the lock, so theirs are gone
                if dead != run_id:
                    self.tracker.close_killed(dead)
            also = f" (as another run does, on {', '.join(elsewhere)})" if elsewhere else ""
            self._say(step, f"going on from {saved.name}{also}" if saved else f"running{also}", "begun")
            self.tracker.describe(run_id, step, parents, folder)
            if needed := bytes_to_write(step, {role: found.output for role, found in parents.items()}):
                require_space(self.store, needed)
            digests: dict[str, str] = {}
            models = {
                role: model_folder(place, step.data[role])
                for role, place in models_by_role(step.places).items()
                if role in step.data
            }
            if not is_launched(step, self.execution):
                given = {
                    role: found.output for role, found in parents.items() if step.inputs[role].makes_model
                }
                require_memory(free_memory(), bytes_to_hold(step, {**given, **models}), step.label)
            adopted = False
            try:
                with publish(folder, digests) as work:
                    inputs = {role: found.output for role, found in parents.items()}
                    kept = read_metrics(saved / RESUME_METRICS) if saved else []
                    places = with_model_folders(step.places, models)
                    own = resume and replace(resume, run_id=run_id)
                    with (
                        self.tracker.metric_log(run_id, work / METRICS, kept) as log,
                        self._watched(step, run_id, goes_on=saved is not None),
                    ):
                        digests |= self._run_stage(step, work, log, {**inputs, **places}, own)
                    for role, model in models.items():
                        refuse_changed_model(model, step.data[role], role)
                    write_provenance(work, step, run_id)
            except PlaceOccupied:
                verify_result(folder, step)
                adopted = True
                self._say(step, "another process has made it meanwhile: its result is taken", "found")
            found = registered(self.tracker.candidates(step.key), folder) if adopted else None
            if found is not None:
                self.tracker.close_as_reused(run_id, found)
                return replace(found, output=folder)
            send_metrics(
                self.tracker.client, run_id, read_metrics(folder / METRICS) if adopted else log.undelivered
            )
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
            if resume:
                resume.remove()
        seconds = time.monotonic() - started
        self._say(step, f"done in {seconds:.1f} s", "made", seconds, _outcome(step, folder))
        return finished

    def _run_stage(
        self, step: Step, work: Path, log: Log, given: Mapping[str, Any], resume: ResumeFolder | None
    ) -> Digests:
        stage = STAGES[step.stage]
        inputs = stage.inputs.model_validate(given)
        if is_launched(step, self.execution):
            job = Job(step.stage, work, step.settings, inputs, resume, step.data)
            return launch(job_file(self.store / step.folder), job, log, self.execution)
        with pinned(step.data):
            return stage.run(work, log, step.settings, inputs, resume) or {}

    def _watched(self, step: Step, run_id: str, goes_on: bool) -> AbstractContextManager[None]:
        stage = STAGES[step.stage]
        trains_or_evaluates = stage.resumes or stage.scores is not None
        watch = trains_or_evaluates and self.execution.tracking.system_metrics
        return log_system_metrics(run_id, goes_on) if watch else nullcontext()

    def _resume_folder(self, step: Step) -> ResumeFolder | None:
        if not STAGES[step.stage].resumes:
            return None
        save = self.execution.save
        return ResumeFolder(resume_folder(self.store / step.folder), save.minutes, save.steps)

    def _register(
        self, step: Step, parents: Mapping[str, FinishedRun], run_id: str, folder: Path
    ) -> FinishedRun:
        """Log a result that lies in the store as a run, without making it again."""
        with mark_failed(self.tracker.client, run_id):
            self.tracker.describe(run_id, step, parents, folder)
            send_metrics(self.tracker.client, run_id, read_metrics(folder / METRICS))
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
        return finished

    def _log_result(
        self, step: Step, parents: Mapping[str, FinishedRun], run_id: str, folder: Path
    ) -> FinishedRun:
        model_id = None
        upload = self.execution.tracking.checkpoints == "upload"
        with only_listed_files(folder) as own:
            if step.makes_model:
                model_id = self.tracker.log_model(run_id, step, own, upload)
                self.tracker.link_model(run_id, step, parents, folder, model_id)
                self.tracker.log_folder(run_id, own / NOTES, NOTES)
            elif upload or STAGES[step.stage].scores:
                self.tracker.log_folder(run_id, own, "output")
        # The scores also go to the run that made the scored model; a checkpoint made elsewhere has none.
        if (scored := STAGES[step.stage].scores) in parents:
            rows = read_metrics(folder / METRICS)
            measured_on = {
                name: (column.hub_id, short_digest(step.data[column.hub_id]))
                for column in H6_BENCHMARKS
                if column.hub_id in step.data
                for name in (column.name, f"{column.name}_stderr")
            }
            send_metrics(self.tracker.client, run_id, rows, parents[scored].model_id, measured_on)
            # On the model's own run as well, so that the UI's comparison shows settings beside scores.
            send_metrics(self.tracker.client, parents[scored].run_id, rows)
        self.tracker.record_result(run_id, folder)
        return FinishedRun(run_id, self.tracker.experiment_id, model_id, folder)

    def _say(
        self, step: Step, what: str, state: StepState | None = None, seconds: float = 0.0, note: str = ""
    ) -> None:
        """Say what becomes of a step, in the live display where there is one, else in a line."""
        if self.printed_key not in (None, step.key):
            return
        if events.listener is not None and state is not None:
            names = step.key, printable(step.label), step.stage
            events.listener(StepEvent(*names, self.position, state, printable(what), seconds, note))
            return
        if state == "failed":
            return  # whoever hears of the error says so
        number, total = self.position
        position = f"[{number:>{len(str(total))}}/{total}] " if total else ""
        print(printable(f"{position}{step.label:<28} {what}"), file=sys.stderr, flush=True)


def _outcome(step: Step, folder: Path) -> str:
    """What the live display says of a finished step: the score of an evaluation."""
    if step.stage != "evaluate":
        return ""
    scores = [row["value"] for row in read_metrics(folder / METRICS) if row["key"] == "H6"]
    return f"H6 {scores[-1]:.1f}" if scores else ""


def registered(candidates: Sequence[FinishedRun], folder: Path) -> FinishedRun | None:
    """The run of a result that lies in `folder`: the one that made it, else one that recorded its content."""
    made, digest = made_in(folder), result_digest(folder)
    by_id = {found.run_id: found for found in candidates}
    return by_id.get(made) or next((found for found in candidates if found.digest == digest), None)


def _is_here(folder: Path, step: Step) -> bool:
    """Whether the step's result is there and whole; a damaged one is set aside.

    A folder that is none of this project's: UserError.
    """
    if not folder.is_dir() or is_empty(folder):
        return False
    if not any(os.path.lexists(folder / name) for name in (MANIFEST_FILE, PROVENANCE)):
        raise UserError(
            f"{folder}: lies where a result is to be, but has no {MANIFEST_FILE}: it was not published by "
            "this project; move it elsewhere"
        )
    try:
        verify_result(folder, step, remembered=True)
    except ManifestError as error:
        aside = set_aside_damaged(folder)
        print(printable(f"{error}; the folder was renamed to {aside.name}"), file=sys.stderr, flush=True)
        return False
    return True
