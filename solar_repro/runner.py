"""Get or run: a step's finished result is found by key, or its stage runs, is tracked and published whole."""

import importlib
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.folder import require_space
from solar_repro.checkpoint.given import model_folder, models_of, refuse_changed, with_models
from solar_repro.checkpoint.lock import locked
from solar_repro.checkpoint.manifest import ManifestError, listed_alone, strays
from solar_repro.checkpoint.publish import Occupied, publish, set_aside
from solar_repro.costs import bytes_to_write
from solar_repro.errors import Stopped
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.jobs import make_side_by_side
from solar_repro.launch import Launch, job_file, launch
from solar_repro.metric_log import read_metrics
from solar_repro.places import require_writable
from solar_repro.provenance import verify_result, write_provenance
from solar_repro.redact import printable
from solar_repro.run_inputs import short
from solar_repro.saving import ROWS, Saving, run_of, saving_folder
from solar_repro.scales import Save
from solar_repro.stages import METRICS, NOTES, Log
from solar_repro.step import LAUNCHED_STAGES, Step, ordered
from solar_repro.stopping import end_if_asked
from solar_repro.system_metrics import watched
from solar_repro.tracking import Finished, Tracker, failing, send_metrics

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
                    try:
                        known = self.made[step.key] = self._run(step, parents, run_id, not unlocked)
                    except Stopped as stopped:
                        raise Stopped(f"{step.label}: {stopped}") from None
        if run_id not in (None, known.run_id):
            self.tracker.reuse(run_id, known)
        return known

    def _lock(self, step: Step) -> AbstractContextManager[str | None]:
        return locked(self.store / step.folder, lambda owner: self._say(step, f"waiting for {owner}"))

    def _cached(self, step: Step, alone: bool) -> Finished | None:
        folder = self.store / step.folder
        found = self.tracker.find(step.key)
        here = _is_here(folder, step)
        if found is None and not here:
            return None
        if found is None:
            # Finished, but this server does not know it: it was unreachable at the end, or is another one.
            parents = {role: self.get(parent) for role, parent in step.inputs.items()}
            left_open, _ = self.tracker.unfinished(step.key, folder)
            run_id = left_open[0] if left_open and alone else self.tracker.child(step)
            found = self._register(step, parents, run_id, folder)
            self._say(step, "registered")
        elif here:
            self._say(step, "cached")
        elif self._download(found, folder, step):
            self._say(step, "downloaded")
        else:
            return None
        self.reused[step.key] = Finished(found.run_id, found.experiment_id, found.model_id, folder)
        return self.reused[step.key]

    def _download(self, found: Finished, folder: Path, step: Step) -> bool:
        try:
            with publish(folder) as work:
                if not self.tracker.download(found, work):
                    raise FileNotFoundError
                verify_result(work, step)
                for name in strays(work):
                    (work / name).unlink()
        except (FileNotFoundError, ManifestError):
            return False
        return True

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
                    self.tracker.finish(dead, "KILLED")
            also = f" (as another run does, on {', '.join(elsewhere)})" if elsewhere else ""
            self._say(step, f"going on from {saved.name}{also}" if saved else f"running{also}")
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
                self._say(step, "another process has made it meanwhile: its result is taken")
            found = self.tracker.find(step.key) if adopted else None
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
        self._say(step, f"done in {time.monotonic() - started:.1f} s")
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
        return Finished(run_id, self.tracker.experiment_id, model_id, folder)

    def _say(self, step: Step, what: str) -> None:
        if self.tells_of not in (None, step.key):
            return
        number, total = self.position
        position = f"[{number:>{len(str(total))}}/{total}] " if total else ""
        print(printable(f"{position}{step.label:<28} {what}"), file=sys.stderr, flush=True)


def _is_here(folder: Path, step: Step) -> bool:
    """Whether the step's result is there and whole; a damaged one is set aside."""
    if not folder.is_dir():
        return False
    try:
        verify_result(folder, step)
    except ManifestError as error:
        aside = set_aside(folder)
        print(printable(f"{error}; set aside as {aside.name}"), file=sys.stderr, flush=True)
        return False
    return True
