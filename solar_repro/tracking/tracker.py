"""Writes to MLflow on behalf of the runner: opens, describes and closes runs.

Everything goes through `MlflowClient` with explicit run ids: there is no global active run and no
`set_experiment`. The module stays whole because one class holds all that may change a run.
"""

import contextlib
import functools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mlflow.entities import LoggedModelOutput, Param, RunTag
from mlflow.tracking import MlflowClient

from solar_repro.device import machine
from solar_repro.errors import UserError
from solar_repro.plan.provenance import code_version, maker, result_digest, this_maker, versions
from solar_repro.plan.step import Step
from solar_repro.safety.redact import redact
from solar_repro.store.lock import locked
from solar_repro.store.owner import folder_identity
from solar_repro.tracking.commands import Invocation
from solar_repro.tracking.descriptions import (
    NOTE,
    invocation_note,
    model_link,
    run_path,
    step_note,
)
from solar_repro.tracking.experiment_page import describe_experiment
from solar_repro.tracking.metric_log import MetricLog, MetricRow, send_metrics
from solar_repro.tracking.own_run import own_run
from solar_repro.tracking.reader import FinishedRun, Reader
from solar_repro.tracking.run_inputs import log_inputs
from solar_repro.tracking.server import artifact_errors, connect, short_timeouts
from solar_repro.tracking.system_metrics import process_usage

STEPS_FILE = "steps.json"
"""Artifact of a command's own run: label and key of each step → the run that made it, now or before."""
COMMAND_FILE = "command.txt"
"""Artifact of the same run: the command line."""
SETTINGS_FILE = "scale.yaml"
"""Artifact of the same run: the scale with all overrides, which can be given as `-P scale=`."""
_NOT_IN_NAMES = re.compile("[/:.%\"']")  # MLflow refuses these in names of logged models


class Tracker(Reader):
    """One run of a command on the tracking server: its own MLflow run, and the runs nested under it."""

    def __init__(
        self,
        name: str,
        scale: str,
        run_id: str | None = None,
        accepted: tuple[str, ...] = (),
        invocation: Invocation | None = None,
    ) -> None:
        """Open the command's own run, or use `run_id` if another process of the command has opened it.

        `accepted` names the experiments whose results are used, among them the one that this command writes
        to; an empty tuple accepts all. Raises UserError if its own experiment is not among them.
        """
        super().__init__(connect(), accepted)
        self.name = name
        self.scale = scale
        self.invocation = invocation or Invocation(scale)
        """What was typed, for the descriptions of runs."""
        if run_id is None:
            run_id, experiment = own_run(self.client, name, scale)
            describe_experiment(self.client, experiment)
            self.set_note(run_id, invocation_note(name, self.invocation))
        own = self.client.get_run(run_id)
        self.run_id, self.experiment_id = run_id, own.info.experiment_id
        self._user = own.data.tags.get("mlflow.user", this_maker()["user"])
        with mark_failed(self.client, self.run_id):
            if accepted and self.experiment_id not in self._accepted:
                other = self.client.get_experiment(self.experiment_id).name
                raise UserError(
                    f"tracking.experiments: {', '.join(accepted)}, but this command writes to {other!r}, "
                    "whose results it could not take again; name that too"
                )

    def set_note(self, run_id: str, note: str) -> None:
        """Set the description of a run, in Markdown."""
        self.client.set_tag(run_id, NOTE, note)

    def open_child(self, step: Step, output: Path) -> str:
        """Open a run for the step, nested under the command's own, and return its id.

        From its start it says which result it makes, and where: others can close it for a dead process.
        """
        source = {
            "mlflow.source.name": f"solar_repro/stages/{step.stage}.py",
            "mlflow.source.type": "LOCAL",
        }
        tags = {"mlflow.parentRunId": self.run_id, "mlflow.user": self._user, **source}
        tags |= _result_tags(step, output, this_maker())
        return self.client.create_run(self.experiment_id, tags=tags, run_name=step.label).info.run_id

    def reopen(self, run_id: str) -> bool:
        """Reopen a run that was interrupted; return False if the server does not have it or it is deleted."""
        run = self._find(run_id)
        if run is None or run.info.lifecycle_stage != "active":
            return False
        self.client.update_run(run_id, status="RUNNING")
        if "solar.error" in run.data.tags:
            self.client.delete_tag(run_id, "solar.error")
        return True

    def try_artifacts(self, settings: str) -> None:
        """Log the command and its settings, to find out before any work whether artifacts can be written.

        `settings` is the scale as YAML.
        """
        with short_timeouts(), artifact_errors(self.client.get_run(self.run_id).info.artifact_uri, "written"):
            self.client.log_text(self.run_id, redact(self.invocation.typed) + "\n", COMMAND_FILE)
            self.client.log_text(self.run_id, redact(settings), SETTINGS_FILE)

    def log_usage(self) -> None:
        """Log how long this command took and how much memory it used."""
        now = int(time.time() * 1000)
        rows = [
            {"key": name, "value": value, "timestamp": now, "step": 0}
            for name, value in process_usage().items()
        ]
        send_metrics(self.client, self.run_id, rows)

    def close_dead(self, key: str, output: Path) -> None:
        """Mark runs of dead processes as KILLED, if the server answers soon.

        If another process holds the lock of `output`, the runs are that living process's.
        """
        with contextlib.suppress(Exception), short_timeouts(), locked(output, None) as unlocked:
            for run_id in () if unlocked else self.unfinished(key, output)[0]:
                self.close_killed(run_id)

    def describe(self, run_id: str, step: Step, parents: Mapping[str, FinishedRun], output: Path) -> None:
        """Log tags, parameters, data sets and description of a step, which runs next or lies in `output`."""
        tags = {
            NOTE: step_note(step, self.invocation, parents, output),
            "solar.stage": step.stage,
            "solar.variant": step.variant,
            "solar.scale": self.scale,
            "solar.parents": json.dumps({role: found.run_id for role, found in parents.items()}),
            **_result_tags(step, output, maker(output) or this_maker()),
            **({} if step.training_seed is None else {"solar.seed": str(step.training_seed)}),
            **{f"solar.version.{name}": number for name, number in versions().items()},
            **{f"solar.machine.{name}": value for name, value in machine().items()},
            "mlflow.source.git.commit": code_version(),
        }
        parameters = {"scale": self.scale, "variant": step.variant, **step.parameters()}
        # `mlflow run` has logged what the user typed; MLflow refuses to change a parameter.
        present = self.client.get_run(run_id).data.params
        new = {name: redact(value) for name, value in parameters.items() if name not in present}
        self.client.log_batch(
            run_id,
            params=[Param(name, value[:6000]) for name, value in new.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        log_inputs(self.client, run_id, step, parents)

    def link_model(
        self, run_id: str, step: Step, parents: Mapping[str, FinishedRun], output: Path, model_id: str
    ) -> None:
        """Add a link to the logged checkpoint to the description of a model's run."""
        link = model_link(self.client.get_run(run_id).info.experiment_id, model_id)
        self.set_note(run_id, step_note(step, self.invocation, parents, output, link))

    def log_model(self, run_id: str, step: Step, folder: Path, upload: bool) -> str:
        """Log the checkpoint as a logged model, whole if `upload`, else by its manifest.

        Return the model's id.
        """
        self._close_models(run_id)  # an interrupted attempt may have left some
        model = self.client.create_logged_model(
            self.client.get_run(run_id).info.experiment_id,
            name=_NOT_IN_NAMES.sub("-", step.variant),
            source_run_id=run_id,
            tags={"solar.key": step.key, "solar.scale": self.scale, "solar.variant": step.variant},
            params={name: redact(value)[:500] for name, value in step.parameters().items()},
            model_type="checkpoint",
        )
        try:
            with artifact_errors(model.artifact_location, "written"):
                if upload:
                    self.client.log_model_artifacts(model.model_id, str(folder))
                else:
                    self.client.log_model_artifact(model.model_id, str(folder / "manifest.json"))
        except BaseException:
            self._close_models(run_id)
            raise
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        self.client.set_tag(run_id, "solar.model_id", model.model_id)
        return model.model_id

    def close_killed(self, run_id: str) -> None:
        """Close a run whose process is dead."""
        self._close_models(run_id)
        self.finish(run_id, "KILLED")

    def _close_models(self, run_id: str) -> None:
        """Mark models of the run as FAILED if their upload was interrupted, if the server answers soon."""
        with contextlib.suppress(Exception), short_timeouts():
            experiment = self.client.get_run(run_id).info.experiment_id
            for model in self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
                if model.status == "PENDING":
                    self.client.finalize_logged_model(model.model_id, "FAILED")

    def log_folder(self, run_id: str, folder: Path, path: str | None = None) -> None:
        """Upload a folder's files as artifacts of the run."""
        with artifact_errors(self.client.get_run(run_id).info.artifact_uri, "written"):
            self.client.log_artifacts(run_id, str(folder), path)

    def reuse(self, run_id: str, found: FinishedRun) -> None:
        """Log in a run that the result of an earlier run was used."""
        self.client.set_tag(run_id, "solar.reused_run", found.run_id)
        made = f"[the run that made it]({run_path(found.experiment_id, found.run_id)})"
        self.set_note(run_id, f"Nothing was made here: the result was there, from {made}.")
        self.client.set_tag(run_id, "solar.scale", self.scale)

    def close_as_reused(self, run_id: str, found: FinishedRun) -> None:
        """Close a run whose step another process finished first."""
        self.reuse(run_id, found)
        self.client.delete_tag(run_id, "solar.key")
        self.finish(run_id, "KILLED")

    def log_steps(self, made: Iterable[tuple[Step, FinishedRun]]) -> None:
        """Log which runs this command made or reused."""
        steps = {f"{step.label} {step.key[:8]}": found.run_id for step, found in made}
        self.client.log_dict(self.run_id, steps, STEPS_FILE)
        self.client.set_tag(self.run_id, "solar.scale", self.scale)

    def record_result(self, run_id: str, folder: Path) -> None:
        """Log the digest of the result's content in its run."""
        self.client.set_tag(run_id, "solar.result", result_digest(folder))

    @contextlib.contextmanager
    def metric_log(self, run_id: str, file: Path, kept: list[MetricRow]) -> Iterator[MetricLog]:
        """Yield a log of the run's metrics whose requests give up soon; undelivered metrics stay in the log.

        `kept` are the rows up to the checkpoint from which the work resumes.
        """
        delivered = {
            (name, metric.step)
            for name in (self.client.get_run(run_id).data.metrics if kept else ())
            for metric in self.history(run_id, name)
        }
        with short_timeouts():
            log = MetricLog(functools.partial(send_metrics, self.client, run_id), file, kept, delivered)
            try:
                yield log
            finally:
                log.close()

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run."""
        self.client.set_terminated(run_id, status)


@contextlib.contextmanager
def mark_failed(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Mark the run FAILED with the reason if the block raises, or KILLED after a stop request."""
    try:
        yield
    except BaseException as error:
        why = redact(" ".join(str(error).split())) or type(error).__name__
        with contextlib.suppress(Exception), short_timeouts():
            client.set_tag(run_id, "solar.error", why[:5000])
            client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def _result_tags(step: Step, output: Path, made_by: Mapping[str, str]) -> dict[str, str]:
    """Which result a run makes, where, and who makes it."""
    return {
        "solar.key": step.key,
        "solar.output": str(output),
        "solar.user": made_by["user"],
        "solar.host": made_by["host"],
        "solar.store": folder_identity(output.parent) or "",
    }
