"""Which run and experiment a command writes to: those that the environment names, else its own."""

import os
import sys

from mlflow import get_tracking_uri
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.default_context import DefaultRunContext

from solar_repro.errors import UserError
from solar_repro.tracking.server import NOT_FOUND_CODES, server_uri

_OWN_RUN_TAG = "solar.command"
"""Tag of a run that a command uses as its own; the value is the command's name."""


def own_run(client: MlflowClient, name: str, scale: str) -> tuple[str, str]:
    """Return the ids of the run that `mlflow run` opened, or of a new run, and of its experiment.

    `MLFLOW_RUN_ID` may be left over from another command, or a pipeline may pass it to all that it starts, so
    a run that is closed or in use is left alone. Raises UserError if a named run or experiment is unusable.
    """
    given = _given_run(client)
    if given is not None and _is_free(given):
        client.set_tag(given.info.run_id, _OWN_RUN_TAG, name)
        client.set_tag(given.info.run_id, "mlflow.runName", name)
        return given.info.run_id, given.info.experiment_id
    experiment = _experiment(client, f"solar-{scale}", given)
    run = client.create_run(experiment, tags={_OWN_RUN_TAG: name, **_source()}, run_name=name)
    if given is not None:
        print(
            f"MLFLOW_RUN_ID={given.info.run_id}: that run is closed or belongs to another command; "
            f"this command writes to its own run, {run.info.run_id}",
            file=sys.stderr,
            flush=True,
        )
    return run.info.run_id, experiment


def _source() -> dict[str, str]:
    """Return who started the command and from which file, as `mlflow.start_run` tags it."""
    try:
        return DefaultRunContext().tags()
    except (KeyError, OSError):  # a container's user may have no name
        return {}


def _given_run(client: MlflowClient) -> Run | None:
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        raise UserError(
            f"MLFLOW_RUN_ID={run_id}: {server_uri()} has no such run; unset it, or set MLFLOW_TRACKING_URI "
            f"to the server that has it{_whole_path()}"
        ) from None


def _whole_path() -> str:
    """Return a hint about a relative path of a database, which `mlflow run` resolves in another folder."""
    uri = get_tracking_uri()
    relative = uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")
    return f", with its whole path (sqlite:///{os.path.abspath(uri[10:])} is taken)" if relative else ""


def _is_free(run: Run) -> bool:
    info = run.info
    is_open = (info.status, info.lifecycle_stage) == ("RUNNING", "active")
    return is_open and not {"solar.key", _OWN_RUN_TAG} & run.data.tags.keys()


def _experiment(client: MlflowClient, default: str, beside: Run | None) -> str:
    """Return the id of the experiment that the environment names, else of the run `beside`, else of
    `default`.
    """
    name, number = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    if name or not (number or beside):
        source = f"MLFLOW_EXPERIMENT_NAME={name}" if name else f"experiment {default}"
        experiment = _usable(_named(client, name or default), source)
        if name and number and number != experiment:
            raise UserError(
                f"{source} and MLFLOW_EXPERIMENT_ID={number} are different experiments; unset one of them"
            )
        return experiment
    source = f"MLFLOW_EXPERIMENT_ID={number}" if number else "the experiment of MLFLOW_RUN_ID"
    try:
        return _usable(client.get_experiment(number or beside.info.experiment_id), source)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
        raise UserError(
            f"{source}: {server_uri()} has no such experiment; unset it or give one that is there"
        ) from None


def _named(client: MlflowClient, name: str) -> Experiment:
    if (found := client.get_experiment_by_name(name)) is not None:
        return found
    try:
        return client.get_experiment(client.create_experiment(name))
    except MlflowException:
        # If two processes create it at the same time, the second is refused.
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found


def _usable(experiment: Experiment, source: str) -> str:
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"{source}: experiment {experiment.name!r} is deleted; restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or set MLFLOW_EXPERIMENT_NAME to another"
        )
    return experiment.experiment_id
