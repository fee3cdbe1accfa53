"""Logs the inputs of a step's run in MLflow: data sets and logged models."""

import json
import re
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from solar_repro.plan.step import Step
from solar_repro.tracking.reader import FinishedRun

_ATTEMPTS = 4
_RACED = re.compile("unique constraint|duplicate (key|entry)", re.IGNORECASE)


def log_inputs(client: MlflowClient, run_id: str, step: Step, parents: Mapping[str, FinishedRun]) -> None:
    """Log a step's data sets, by digest, and the models it is made from."""
    context = [InputTag("mlflow.data.context", step.stage)]
    datasets = [
        # MLflow cuts the digest, so the source keeps the whole one.
        DatasetInput(Dataset(name, short_digest(digest), "hub", json.dumps({"digest": digest})), context)
        for name, digest in step.data.items()
    ]
    models = [LoggedModelInput(found.model_id) for found in parents.values() if found.model_id]
    if not (datasets or models):
        return
    for attempt in reversed(range(_ATTEMPTS)):
        try:
            client.log_inputs(run_id, datasets=datasets or None, models=models or None)
            return
        except MlflowException as error:
            # If two runs log a new data set at the same time, MLflow refuses one.
            if not attempt or not _RACED.search(str(error)):
                raise


def short_digest(digest: str) -> str:
    """Return a digest as MLflow stores it: at most 36 characters."""
    return digest.rpartition(":")[2][:36]
