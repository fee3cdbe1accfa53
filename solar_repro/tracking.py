"""The only module that writes to MLflow. Runs are opened and closed here, on behalf of the runner.

Everything goes through `MlflowClient` with explicit run ids: no global active run, no `set_experiment`.
"""

import contextlib
import functools
import json
import os
import shlex
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from solar_repro.device import machine
from solar_repro.errors import UserError
from solar_repro.metric_log import MetricLog, Row
from solar_repro.provenance import code_version, versions
from solar_repro.redact import reason, redact
from solar_repro.redact import shown_uri as without_secrets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from solar_repro.step import Step

STEPS_FILE = "steps.json"
"""Artifact of an invocation's own run: label and key of each step → the run that made it, now or before."""
_BATCH = 1000  # metrics MLflow takes in one request
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For requests that may fail: MLflow's own patience is some four minutes for each."""


@dataclass(frozen=True)
class Finished:
    """A finished run of a step."""

    run_id: str
    experiment_id: str
    model_id: str | None
    output: Path


def connect() -> "MlflowClient":
    """A client of the tracking server, after one request has shown that it answers; else UserError."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        with _impatient():
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, OSError, ImportError) as error:
        raise UserError(
            f"tracking server {shown_uri()} does not answer ({reason(error)}); "
            "start it or set MLFLOW_TRACKING_URI"
        ) from None
    return client


def shown_uri() -> str:
    """The tracking server's URI without user, password and query."""
    from mlflow import get_tracking_uri

    return without_secrets(get_tracking_uri())


@contextlib.contextmanager
def explained(store: Path) -> Iterator[None]:
    """A server that is lost, or refuses, raises UserError: one line that says where finished results are."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        raise UserError(
            f"tracking server {shown_uri()} failed ({reason(error)}); what is finished lies in {store}, and "
            "the same command registers it and goes on"
        ) from None


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Requests inside the block give up after seconds. MLflow takes this from the environment alone."""
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Tracker:
    """One invocation of an entry point: its own run, and the children opened under it."""

    def __init__(self, name: str, scale: str) -> None:
        self.client = connect()
        self.name = name
        self.scale = scale
        self.run_id, self.experiment_id = self._own_run(name)

    def _own_run(self, name: str) -> tuple[str, str]:
        """The run that `mlflow run` has opened for us, or a new one."""
        from mlflow.exceptions import MlflowException

        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            run = self.client.get_run(run_id)
            self.client.set_tag(run_id, "mlflow.runName", name)
            return run_id, run.info.experiment_id
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "solar-" + self.scale)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            # Of two that make it at once the second is refused.
            with contextlib.suppress(MlflowException):
                self.client.create_experiment(experiment)
            found = self.client.get_experiment_by_name(experiment)
        run = self.client.create_run(found.experiment_id, run_name=name)
        return run.info.run_id, found.experiment_id

    def child(self, step: "Step") -> str:
        """Open a run of the step nested under this invocation's; its id."""
        tags = {"mlflow.parentRunId": self.run_id}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=step.label).info.run_id

    def reopen(self, run_id: str) -> bool:
        """Let a run that was cut off go on; False where this server does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(run_id, status="RUNNING")
            if "solar.error" in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, "solar.error")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def find(self, key: str) -> Finished | None:
        """The newest FINISHED run with this key, in any experiment."""
        runs = self.search(f"tags.`solar.key` = '{key}'", most=1)
        return _finished(runs[0]) if runs else None

    def knows(self, key: str) -> bool:
        """Whether a FINISHED run has a key that begins so."""
        return bool(self.search(f"tags.`solar.key` LIKE '{key}%'", most=1))

    def unfinished(self, key: str, output: Path) -> tuple[list[str], list[str]]:
        """Runs of this key that nobody has closed: ids of those that write to `output` on this machine, and
        the names of the machines where others write elsewhere.
        """
        ours, others = [], []
        for run in self.search(f"tags.`solar.key` = '{key}'", most=10, status="RUNNING"):
            tags = run.data.tags
            if (tags.get("solar.output"), tags.get("solar.host")) == (str(output), socket.gethostname()):
                ours.append(run.info.run_id)
            else:
                others.append(tags.get("solar.host", "another machine"))
        return ours, others

    def close_dead(self, key: str, output: Path) -> None:
        """Mark the runs KILLED whose process is dead, if the server can be told of it soon."""
        with contextlib.suppress(Exception), _impatient():
            for run_id in self.unfinished(key, output)[0]:
                self.finish(run_id, "KILLED")

    def search(
        self,
        query: str = "",
        experiment: str | None = None,
        most: int = 50_000,
        status: str = "FINISHED",
    ) -> "list[Run]":
        """Runs that match an MLflow filter, newest first; in any experiment unless one is named."""
        if experiment is None:
            experiments = [found.experiment_id for found in self.client.search_experiments()]
        elif found := self.client.get_experiment_by_name(experiment):
            experiments = [found.experiment_id]
        else:
            names = ", ".join(sorted(found.name for found in self.client.search_experiments()))
            raise UserError(f"experiment {experiment!r}: not on this tracking server; it has {names}")
        query = " and ".join(filter(None, [query, f"attributes.status = '{status}'"]))
        runs: list[Run] = []
        token = None
        while len(runs) < most:
            page = self.client.search_runs(
                experiments,
                query,
                max_results=min(1000, most - len(runs)),
                order_by=["attributes.end_time DESC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                break
        return runs

    def output(self, run: "Run", scratch: Path) -> Path:
        """Folder of a finished run's result: in its store, else its artifacts, fetched below `scratch`."""
        from mlflow.artifacts import download_artifacts

        folder = Path(run.data.tags["solar.output"])
        if (folder / "manifest.json").is_file():
            return folder
        place = scratch / run.info.run_id
        place.mkdir(parents=True, exist_ok=True)
        return Path(download_artifacts(run_id=run.info.run_id, artifact_path="output", dst_path=str(place)))

    def describe(self, run_id: str, step: "Step", parents: Mapping[str, Finished], output: Path) -> None:
        """Tags, parameters and data sets of a step, before it runs."""
        from mlflow.entities import Param, RunTag

        tags = {
            "solar.stage": step.stage,
            "solar.variant": step.variant,
            "solar.scale": self.scale,
            "solar.key": step.key,
            "solar.parents": json.dumps({role: found.run_id for role, found in parents.items()}),
            "solar.output": str(output),
            **({} if step.training_seed is None else {"solar.seed": str(step.training_seed)}),
            "solar.host": socket.gethostname(),
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
        self._log_inputs(run_id, step, parents)

    def _log_inputs(self, run_id: str, step: "Step", parents: Mapping[str, Finished]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        context = [InputTag("mlflow.data.context", step.stage)]
        datasets = [
            # MLflow's digest is cut; the source keeps the whole.
            DatasetInput(Dataset(name, short(digest), "hub", json.dumps({"digest": digest})), context)
            for name, digest in step.data.items()
        ]
        models = [LoggedModelInput(found.model_id) for found in parents.values() if found.model_id]
        if datasets or models:
            self.client.log_inputs(run_id, datasets=datasets or None, models=models or None)

    def log_model(self, run_id: str, step: "Step", folder: Path, upload: bool) -> str:
        """Log the checkpoint as a logged model, whole or by its manifest alone; the model's id."""
        from mlflow.entities import LoggedModelOutput

        model = self.client.create_logged_model(
            self.client.get_run(run_id).info.experiment_id,
            name=step.variant,
            source_run_id=run_id,
            tags={"solar.key": step.key, "solar.scale": self.scale},
            params={name: redact(value)[:500] for name, value in step.parameters().items()},
            model_type="checkpoint",
        )
        if upload:
            self.client.log_model_artifacts(model.model_id, str(folder))
        else:
            self.client.log_model_artifact(model.model_id, str(folder / "manifest.json"))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        self.client.set_tag(run_id, "solar.model_id", model.model_id)
        return model.model_id

    def log_folder(self, run_id: str, folder: Path, path: str | None = None) -> None:
        """Upload a folder's files as artifacts of the run."""
        self.client.log_artifacts(run_id, str(folder), path)

    def log_steps(self, made: "Iterable[tuple[Step, Finished]]") -> None:
        """Keep which runs this invocation made or reused."""
        steps = {f"{step.label} {step.key[:8]}": found.run_id for step, found in made}
        self.client.log_dict(self.run_id, steps, STEPS_FILE)

    def download(self, found: Finished, destination: Path) -> bool:
        """Fetch a finished step's folder from the server's artifacts; False where it was not uploaded."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        source = f"models:/{found.model_id}" if found.model_id else f"runs:/{found.run_id}/output"
        try:
            download_artifacts(artifact_uri=source, dst_path=str(destination))
        except (MlflowException, OSError):
            return False
        return True

    @contextlib.contextmanager
    def metric_log(self, run_id: str, file: Path, kept: list[Row]) -> Iterator[MetricLog]:
        """A log of the run's metrics, whose requests give up soon: what they could not deliver is kept.

        `kept`: metrics of the run up to where its work was saved.
        """
        delivered = {
            (name, metric.step)
            for name in (self.client.get_run(run_id).data.metrics if kept else ())
            for metric in self.client.get_metric_history(run_id, name)
        }
        with _impatient():
            log = MetricLog(functools.partial(send_metrics, self.client, run_id), file, kept, delivered)
            try:
                yield log
            finally:
                log.close()

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run."""
        self.client.set_terminated(run_id, status)


def send_metrics(
    client: "MlflowClient",
    run_id: str,
    rows: list[dict[str, Any]],
    model_id: str | None = None,
    datasets: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """Log rows of key, value, timestamp (ms) and step; with `model_id` they count for that model.

    `datasets`: name and digest of the run's data set that a metric is measured on, by the metric's name.
    """
    from mlflow.entities import Metric

    metrics = [
        Metric(*(row[part] for part in ("key", "value", "timestamp", "step")), model_id, *measured_on)
        for row in rows
        for measured_on in [datasets.get(row["key"], (None, None))]
    ]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def short(digest: str) -> str:
    """A digest as MLflow holds it: 36 characters at most."""
    return digest.rpartition(":")[2][:36]


@contextlib.contextmanager
def failing(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Mark the run FAILED (KILLED where the process was asked to end) with the reason if the block raises."""
    try:
        yield
    except BaseException as error:
        why = redact(" ".join(str(error).split())) or type(error).__name__
        with contextlib.suppress(Exception), _impatient():
            client.set_tag(run_id, "solar.error", why[:5000])
            client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def _finished(run: "Run") -> Finished:
    info, tags = run.info, run.data.tags
    output = Path(tags.get("solar.output", ""))
    return Finished(info.run_id, info.experiment_id, tags.get("solar.model_id"), output)


def ui_address() -> str:
    """Where the MLflow UI answers: the tracking server, without a password, or where `mlflow ui` serves."""
    uri = shown_uri()
    return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def ui_command() -> str:
    """The command that shows the runs in a browser; of a server its address."""
    uri = shown_uri()
    return ui_address() if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
