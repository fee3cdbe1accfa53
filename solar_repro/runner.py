"""Get or run: a step's finished result is found by key, or its stage runs, is tracked and published whole."""

import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from solar_repro.checkpoint.folder import require_space
from solar_repro.checkpoint.lock import locked
from solar_repro.checkpoint.manifest import ManifestError
from solar_repro.checkpoint.publish import publish, remove
from solar_repro.costs import bytes_to_write
from solar_repro.metric_log import read_metrics
from solar_repro.provenance import verify_result, write_provenance
from solar_repro.stages import NOTES
from solar_repro.step import Step, ordered
from solar_repro.tracking import Finished, Tracker, failing, send_metrics

SCORED = {"evaluate": "model", "contamination": "target"}
"""Stages that score a model → the input whose run the scores are logged to as well."""


class Runner:
    """Makes steps in one store, for one invocation's tracker."""

    def __init__(self, store: Path, tracker: Tracker, *, upload: bool) -> None:
        self.store = store.resolve()
        self.tracker = tracker
        self.upload = upload
        self.made: dict[str, Finished] = {}
        self.reused: dict[str, Finished] = {}
        self._count = (0, 0)

    def all(self, targets: list[Step]) -> None:
        """Make every target, and what it stands on."""
        steps = ordered(targets)
        for number, step in enumerate(steps, start=1):
            self._count = (number, len(steps))
            self.get(step)

    def get(self, step: Step, run_id: str | None = None) -> Finished:
        """The finished result of the step, made if need be (in the given run, else in a nested one)."""
        known = self.made.get(step.key) or self.reused.get(step.key)
        if known is None:
            # Whoever asks for the same step meanwhile waits here, and finds it made. Locks are taken from a
            # step to what it stands on, so nobody waits in a ring.
            with locked(self.store / step.folder, lambda owner: self._say(step, f"waiting for {owner}")):
                known = self._cached(step)
                if known is None:
                    parents = {role: self.get(parent) for role, parent in step.inputs.items()}
                    self.made[step.key] = self._run(step, parents, run_id or self.tracker.child(step))
                    return self.made[step.key]
        if run_id:
            self.tracker.client.set_tag(run_id, "solar.reused_run", known.run_id)
        return known

    def _cached(self, step: Step) -> Finished | None:
        folder = self.store / step.folder
        found = self.tracker.find(step.key)
        here = _is_here(folder, step)
        if found is None and not here:
            return None
        if found is None:
            # Finished, but this server does not know it: it was unreachable at the end, or is another one.
            parents = {role: self.get(parent) for role, parent in step.inputs.items()}
            left_open, _ = self.tracker.unfinished(step.key, folder)
            run_id = left_open[0] if left_open else self.tracker.child(step)
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
        except (FileNotFoundError, ManifestError):
            return False
        return True

    def _run(self, step: Step, parents: Mapping[str, Finished], run_id: str) -> Finished:
        folder = self.store / step.folder
        left_open, elsewhere = self.tracker.unfinished(step.key, folder)
        for dead in left_open:  # this process holds the lock, so theirs are gone
            self.tracker.finish(dead, "KILLED")
        also = f" (as another run does, on {', '.join(elsewhere)})" if elsewhere else ""
        self._say(step, f"running{also}")
        started = time.monotonic()
        with failing(self.tracker.client, run_id):
            self.tracker.describe(run_id, step, parents, folder)
            if needed := bytes_to_write(step, {role: found.output for role, found in parents.items()}):
                require_space(self.store, needed)
            stage = importlib.import_module(f"solar_repro.stages.{step.stage}")
            digests: dict[str, str] = {}
            with publish(folder, digests) as work:
                inputs = {role: found.output for role, found in parents.items()}
                with self.tracker.metric_log(run_id, work / NOTES / "metrics.jsonl") as log:
                    digests |= stage.run(work, log, **inputs, **step.settings, **step.places) or {}
                write_provenance(work, step)
            send_metrics(self.tracker.client, run_id, log.undelivered)
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
        self._say(step, f"done in {time.monotonic() - started:.1f} s")
        return finished

    def _register(self, step: Step, parents: Mapping[str, Finished], run_id: str, folder: Path) -> Finished:
        """Log a result that lies in the store as a run, without making it again."""
        with failing(self.tracker.client, run_id):
            self.tracker.describe(run_id, step, parents, folder)
            send_metrics(self.tracker.client, run_id, read_metrics(folder / NOTES / "metrics.jsonl"))
            finished = self._log_result(step, parents, run_id, folder)
            self.tracker.finish(run_id)
        return finished

    def _log_result(self, step: Step, parents: Mapping[str, Finished], run_id: str, folder: Path) -> Finished:
        model_id = None
        if step.makes_model:
            model_id = self.tracker.log_model(run_id, step, folder, self.upload)
            self.tracker.log_folder(run_id, folder / NOTES, NOTES)
        elif self.upload or step.stage in SCORED:
            self.tracker.log_folder(run_id, folder, "output")
        # A checkpoint made elsewhere has no run of its own to carry the scores as well.
        if (scored := SCORED.get(step.stage)) in parents:
            rows = read_metrics(folder / NOTES / "metrics.jsonl")
            send_metrics(self.tracker.client, run_id, rows, parents[scored].model_id)
            # On the model's own run as well, so that the UI's comparison shows settings beside scores.
            send_metrics(self.tracker.client, parents[scored].run_id, rows)
        return Finished(run_id, self.tracker.experiment_id, model_id, folder)

    def _say(self, step: Step, what: str) -> None:
        number, total = self._count
        position = f"[{number:>{len(str(total))}}/{total}] " if total else ""
        print(f"{position}{step.label:<28} {what}", file=sys.stderr, flush=True)


def _is_here(folder: Path, step: Step) -> bool:
    """Whether the step's result is there and whole; a damaged one is removed."""
    if not folder.is_dir():
        return False
    try:
        verify_result(folder, step)
    except ManifestError as error:
        print(f"{error}; it is removed and made again", file=sys.stderr, flush=True)
        remove(folder)
        return False
    return True
