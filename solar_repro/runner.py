"""Get or run: a step's finished result is found by key, or its stage runs, is tracked and published whole."""

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from solar_repro import progress
from solar_repro.checkpoint.folder import require_space
from solar_repro.checkpoint.given import model_folder, models_of, refuse_changed, with_models
from solar_repro.checkpoint.lock import locked
from solar_repro.checkpoint.manifest import MANIFEST_FILE, ManifestError, listed_alone
from solar_repro.checkpoint.publish import Occupied, is_empty, publish, set_aside
from solar_repro.costs import bytes_to_write, told_flops
from solar_repro.errors import Stopped, UserError
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.jobs import make_side_by_side
from solar_repro.launch import Launch, job_file, launch
from solar_repro.metric_log import read_metrics
from solar_repro.places import require_writable
from solar_repro.progress import Planned, State, Turn
from solar_repro.provenance import FILE as PROVENANCE
from solar_repro.provenance import made_in, result_digest, verify_result, write_provenance
from solar_repro.redact import one_line, printable
from solar_repro.remaining import Work
from solar_repro.run_inputs import short
from solar_repro.saving import ROWS, Saving, run_of, saving_folder
from solar_repro.scales import Save, Shape
from solar_repro.stages import METRICS, NOTES, Log
from solar_repro.step import LAUNCHED_STAGES, Step, ordered
from solar_repro.stopping import end_if_asked
from solar_repro.system_metrics import watched
from solar_repro.tracking import Tracker, failing, send_metrics
from solar_repro.tracking_reader import Finished, different

OFTEN = Save()
HERE = Launch()
SAVING_STAGES = (*LAUNCHED_STAGES, "base", "evaluate")
"""Stages that keep their unfinished work."""
WATCHED_STAGES = (*SAVING_STAGES, "contamination")
"""Stages that train or evaluate: what they take of the machine is logged."""
SCORED = {"evaluate": "model", "contamination": "target"}
"""Stages that score a model → the input whose run the scores are logged to as well."""


class Runner:
    """Makes steps in one store, for one invocation's tracker."""

    def __init__(
        self,
        store: Path,
        tracker: Tracker,
        *,
        upload: bool,
        jobs: int = 1,
        save: Save = OFTEN,
        how: Launch = HERE,
        shape: Shape | None = None,
        watch: bool = False,
    ) -> None:
        self.store = store.resolve()
        self.tracker = tracker
        self.upload = upload
        self.jobs = jobs
        """Steps that `all` makes side by side."""
        self.save = save
        self.how = how
        """In how many processes trainings run."""
        self.shape = shape
        """Of a base that only the hub has, to reckon what steps cost."""
        self.watch = watch
        """Whether processor, memory, disk and GPUs are logged of stages that train or evaluate."""
        self.position = (0, 0)
        """Number of the step that is made, and of how many, for the lines that tell of it."""
        self.tells_of: str | None = None
        """Key of the only step that is told of; nothing: all."""
        self.made: dict[str, Finished] = {}
        self.reused: dict[str, Finished] = {}

    def all(self, targets: list[Step]) -> None:
        """Make every target, and what it stands on; which runs those are is kept with the tracker's own."""
        steps = ordered(targets)
        self.tell_plan(targets, whole=True)
        if self.jobs > 1:
            missing = []
            for step in steps:
                self.position = (len(self.reused) + 1, len(steps))
                with self._lock(step) as unlocked:
                    if self._cached(step, not unlocked) is None:
                        missing.append(step)
            if missing:
                self.made |= make_side_by_side(self, missing, self.jobs, len(steps))
        made = []
        for number, step in enumerate(steps, start=1):
            self.position = (number, len(steps))
            made.append((step, self.get(step)))
        self.tracker.log_steps(made)

    def tell_plan(self, targets: list[Step], whole: bool = False) -> None:
        """Tell the live display, where there is one, which steps there are and what each costs.

        `whole`: every step is made, also those that finished steps were made from.
        """
        if progress.listener is None:
            return
        steps = ordered(targets)
        works = {
            step.key: Work(
                step.stage,
                told_flops(step, self.shape),
                tuple(parent.key for parent in step.inputs.values()),
            )
            for step in steps
        }
        labels = tuple(printable(step.label) for step in steps)
        progress.listener(Planned(works, labels, self.jobs, whole))

    def get(self, step: Step, run_id: str | None = None) -> Finished:
        """The finished result of the step, made if need be (in the given run, else in a nested one)."""
        known = self.made.get(step.key) or self.reused.get(step.key)
        if known is None:
            # Whoever asks for the same step meanwhile waits here, and finds it made. Locks are taken from a
            # step to what it stands on, so nobody waits in a ring.
            with self._lock(step) as unlocked:
                known = self._cached(step, not unlocked)
                if known is None:
                    parents = {role: self.get(parent) for role, parent in step.inputs.items()}
                    end_if_asked()
                    if unlocked:
                        self._say(step, f"no lock can be had ({unlocked}): let nobody else make it meanwhile")
                    progress.at_work = step.key
                    try:
                        known = self.made[step.key] = self._run(step, parents, run_id, not unlocked)
                    except Stopped as stopped:
                        self._say(step, "stopped", "failed")
                        raise Stopped(f"{step.label}: {stopped}") from None
                    except BaseException:
                        self._say(step, "failed", "failed")
                        raise
                    finally:
                        progress.at_work = ""
        if run_id not in (None, known.run_id):
            self.tracker.reuse(run_id, known)
        return known

    def _lock(self, step: Step) -> AbstractContextManager[str | None]:
        return locked(
            self.store / step.folder, lambda owner: self._say(step, f"waiting for {owner}", "waiting")
        )

    def _cached(self, step: Step, alone: bool) -> Finished | None:
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
            run_id = left_open[0] if left_open and alone else self.tracker.child(step)
            found = self._register(step, parents, run_id, folder)
            self._say(step, "registered", "found")
        elif found := self._download(candidates, folder, step):
            self._say(step, f"downloaded: {found}", "found")
        else:
            return None
        self.reused[step.key] = replace(found, output=folder)
        return self.reused[step.key]

    def _download(self, candidates: Sequence[Finished], folder: Path, step: Step) -> Finished | None:
        """Fetch the step's result from the artifacts of a run that has it whole; None where none has.

        Runs that differ in it are a UserError: which of them is right nobody can tell from here.
        """
        if step.is_copy:
            return None  # what it is a copy of is named by the key, and is asked instead
        if len(candidates) > 1:
            digests = {found: self.tracker.offered(found, step.key) for found in candidates}
            candidates = [found for found, digest in digests.items() if digest]
            if len({digests[found] for found in candidates}) > 1:
                raise UserError(different(step.label, candidates))
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
        self, step: Step, parents: Mapping[str, Finished], given: str | None, alone: bool = True
    ) -> Finished:
        """Make the step; `alone`: this process holds its lock."""
        require_writable(self.store, "store", "-P store=")
        folder = self.store / step.folder
        saving = self._saving(step)
        saved = saving.sound() if saving else None
        run_id = run_of(saved) if saved else None
        if run_id is None or not self.tracker.reopen(run_id):
            run_id = given or self.tracker.child(step)
        started = time.monotonic()
        with failing(self.tracker.client, run_id):
            left_open, elsewhere = self.tracker.unfinished(step.key, folder)
            for dead in left_open if alone else ():  # this process holds the lock, so theirs are gone
                if dead != run_id:
                    self.tracker.bury(dead)
            also = f" (as another run does, on {', '.join(elsewhere)})" if elsewhere else ""
            self._say(step, f"going on from {saved.name}{also}" if saved else f"running{also}", "begun")
            self.tracker.describe(run_id, step, parents, folder)
            if needed := bytes_to_write(step, {role: found.output for role, found in parents.items()}):
                require_space(self.store, needed)
            digests: dict[str, str] = {}
            models = {
                role: model_folder(place, step.data[role])
                for role, place in models_of(step.places).items()
                if role in step.data
            }
            adopted = False
            try:
                with publish(folder, digests) as work:
                    inputs = {role: found.output for role, found in parents.items()}
                    kept = read_metrics(saved / ROWS) if saved else []
                    options = {**inputs, **step.settings, **with_models(step.places, models)}
                    if saving:
                        options["saving"] = replace(saving, run_id=run_id)
                    with (
                        self.tracker.metric_log(run_id, work / METRICS, kept) as log,
                        self._watched(step, run_id, goes_on=saved is not None),
                    ):
                        digests |= self._run_stage(step, work, log, options)
                    for role, model in models.items():
                        refuse_changed(model, step.data[role], role)
                    write_provenance(work, step, run_id)
            except Occupied:
                verify_result(folder, step)
                adopted = True
                self._say(step, "another process has made it meanwhile: its result is taken", "found")
            found = registered(self.tracker.candidates(step.key), folder) if adopted else None
            if found is not None:
                self.tracker.give_up(run_id, found)
                return replace(found, output=folder)
            send_metrics(
                self.tracker.client, run_id, read_metrics(folder / METRICS) if adopted else log.undelivered
            )
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
            if saving:
                saving.remove()
        seconds = time.monotonic() - started
        self._say(step, f"done in {seconds:.1f} s", "made", seconds, _outcome(step, folder))
        return finished

    def _run_stage(self, step: Step, work: Path, log: Log, options: dict[str, Any]) -> dict[str, str]:
        if self.how.is_needed and step.stage in LAUNCHED_STAGES:
            return launch(job_file(self.store, step), step.stage, work, log, options, self.how)
        stage = importlib.import_module(f"solar_repro.stages.{step.stage}")
        return stage.run(work, log, **options) or {}

    def _watched(self, step: Step, run_id: str, goes_on: bool) -> AbstractContextManager[None]:
        watch = self.watch and step.stage in WATCHED_STAGES
        return watched(run_id, goes_on) if watch else nullcontext()

    def _saving(self, step: Step) -> Saving | None:
        if step.stage not in SAVING_STAGES:
            return None
        return Saving(saving_folder(self.store / step.folder), self.save.minutes, self.save.steps)

    def _register(self, step: Step, parents: Mapping[str, Finished], run_id: str, folder: Path) -> Finished:
        """Log a result that lies in the store as a run, without making it again."""
        with failing(self.tracker.client, run_id):
            self.tracker.describe(run_id, step, parents, folder)
            send_metrics(self.tracker.client, run_id, read_metrics(folder / METRICS))
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
        return finished

    def _log_result(self, step: Step, parents: Mapping[str, Finished], run_id: str, folder: Path) -> Finished:
        model_id = None
        with listed_alone(folder) as own:
            if step.makes_model:
                model_id = self.tracker.log_model(run_id, step, own, self.upload)
                self.tracker.tell_of_model(run_id, step, parents, folder, model_id)
                self.tracker.log_folder(run_id, own / NOTES, NOTES)
            elif self.upload or step.stage in SCORED:
                self.tracker.log_folder(run_id, own, "output")
        # A checkpoint made elsewhere has no run of its own to carry the scores as well.
        if (scored := SCORED.get(step.stage)) in parents:
            rows = read_metrics(folder / METRICS)
            measured_on = {
                name: (column.hub_id, short(step.data[column.hub_id]))
                for column in COLUMNS
                if column.hub_id in step.data
                for name in (column.name, f"{column.name}_stderr")
            }
            send_metrics(self.tracker.client, run_id, rows, parents[scored].model_id, measured_on)
            # On the model's own run as well, so that the UI's comparison shows settings beside scores.
            send_metrics(self.tracker.client, parents[scored].run_id, rows)
        self.tracker.record(run_id, folder)
        return Finished(run_id, self.tracker.experiment_id, model_id, folder)

    def _say(
        self, step: Step, what: str, state: State | None = None, seconds: float = 0.0, note: str = ""
    ) -> None:
        """Say what becomes of a step, in the live display where there is one, else in a line."""
        if self.tells_of not in (None, step.key):
            return
        if progress.listener is not None and state is not None:
            names = step.key, printable(step.label), step.stage
            progress.listener(Turn(*names, self.position, state, printable(what), seconds, note))
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


def registered(candidates: Sequence[Finished], folder: Path) -> Finished | None:
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
        verify_result(folder, step)
    except ManifestError as error:
        aside = set_aside(folder)
        print(printable(f"{error}; the folder was renamed to {aside.name}"), file=sys.stderr, flush=True)
        return False
    return True
