"""Get or run: a step's finished result is found by key, or its stage runs, is tracked and published whole."""

import importlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from solar_repro.checkpoint.manifest import ManifestError, verify_manifest
from solar_repro.checkpoint.publish import publish
from solar_repro.evaluation.columns import COLUMNS
from solar_repro.stages import NOTES
from solar_repro.step import Step, ordered, plain
from solar_repro.tracking import (
    Finished,
    MetricLog,
    Tracker,
    failing,
    read_metrics,
    send_metrics,
    short,
)
from solar_repro.versions import code_version, versions

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
        """Make every target, and what it stands on; which runs those are is kept with the tracker's own."""
        steps = ordered(targets)
        made = []
        for number, step in enumerate(steps, start=1):
            self._count = (number, len(steps))
            made.append((step, self.get(step)))
        self.tracker.log_steps(made)

    def get(self, step: Step, run_id: str | None = None) -> Finished:
        """The finished result of the step, made if need be (in the given run, else in a nested one)."""
        known = self.made.get(step.key) or self.reused.get(step.key)
        if known is None:
            known = self._cached(step)
        if known is not None:
            if run_id:
                self.tracker.client.set_tag(run_id, "solar.reused_run", known.run_id)
            return known
        parents = {role: self.get(parent) for role, parent in step.inputs.items()}
        self.made[step.key] = self._run(step, parents, run_id or self.tracker.child(step))
        return self.made[step.key]

    def _cached(self, step: Step) -> Finished | None:
        folder = self.store / step.folder
        found = self.tracker.find(step.key)
        here = _verifies(folder)
        if found is None and not here:
            return None
        if found is None:
            # Finished, but this server does not know it: it was unreachable at the end, or is another one.
            parents = {role: self.get(parent) for role, parent in step.inputs.items()}
            found = self._register(step, parents, self.tracker.child(step), folder)
            self._say(step, "registered")
        elif here:
            self._say(step, "cached")
        elif self._download(found, folder):
            self._say(step, "downloaded")
        else:
            return None
        self.reused[step.key] = Finished(found.run_id, found.experiment_id, found.model_id, folder)
        return self.reused[step.key]

    def _download(self, found: Finished, folder: Path) -> bool:
        try:
            with publish(folder) as work:
                if not self.tracker.download(found, work):
                    raise FileNotFoundError
                verify_manifest(work)
        except (FileNotFoundError, ManifestError):
            return False
        return True

    def _run(self, step: Step, parents: Mapping[str, Finished], run_id: str) -> Finished:
        folder = self.store / step.folder
        self._say(step, "running")
        started = time.monotonic()
        with failing(self.tracker.client, run_id):
            self.tracker.describe(run_id, step, parents, folder)
            stage = importlib.import_module(f"solar_repro.stages.{step.stage}")
            digests: dict[str, str] = {}
            with publish(folder, digests) as work:
                log = MetricLog(self.tracker.client, run_id, work / NOTES / "metrics.jsonl")
                inputs = {role: found.output for role, found in parents.items()}
                try:
                    digests |= stage.run(work, log, **inputs, **step.settings, **step.places) or {}
                finally:
                    log.close()
                _write_provenance(work, step)
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
        number, total = self._count
        position = f"[{number:>{len(str(total))}}/{total}] " if total else ""
        print(f"{position}{step.label:<28} {what}", file=sys.stderr, flush=True)


def _verifies(folder: Path) -> bool:
    """Whether the folder is there and whole; a damaged one is removed."""
    if not folder.is_dir():
        return False
    try:
        verify_manifest(folder)
    except ManifestError as error:
        print(f"{error}; it is removed and made again", file=sys.stderr, flush=True)
        shutil.rmtree(folder)
        return False
    return True


def _write_provenance(work: Path, step: Step) -> None:
    """What made this result: settings, keys of the inputs, data fingerprints."""
    content = {
        "stage": step.stage,
        "variant": step.variant,
        "key": step.key,
        "settings": plain(step.settings),
        "inputs": {role: [parent.label, parent.key] for role, parent in step.inputs.items()},
        "data": dict(step.data),
        "versions": {**versions(), "code": code_version()},
    }
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (work / NOTES / "provenance.json").write_text(text + "\n", encoding="utf-8")
