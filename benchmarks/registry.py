"""Registers SOLAR 10.7B-Instruct in MLflow, for `mlflow.transformers.load_model`."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.model_cards import card
from benchmarks.runs import MODEL, Runs
from solar_repro.plan.provenance import recorded_key, result_digest, versions
from solar_repro.scales.settings import Scale
from solar_repro.tracking.reader import FinishedRun
from solar_repro.tracking.tracker import Tracker

NAME = "solar_instruct"
INSTRUCT = "merge_v1"
"""The merge that the paper chose (Sec. 4.3.2)."""


def register_instruct(runs: Runs, scale: Scale, tracker: Tracker, made: FinishedRun) -> str:
    """Register the first seed's instruct model as a version, once per key. Returns a line that says so.

    `made` is its result as this command has made or verified it: that folder's weights are registered. The
    version's alias is the scale. Where checkpoints are logged by reference nothing is copied, and so nothing
    registered.
    """
    from mlflow.exceptions import MlflowException

    if scale.execution.tracking.checkpoints != "upload":
        return f"not registered: scale {scale.name} uploads no checkpoints (tracking.checkpoints: reference)"
    run = runs.of(MODEL, INSTRUCT).get(runs.seeds[0])
    if run is None or run.info.run_id != made.run_id:
        return f"not registered: run {made.run_id}, which made it, is not one of the compared runs"
    key, digest = recorded_key(made.output), result_digest(made.output)
    recorded = {"solar.key": key, "solar.result": digest}
    for version in tracker.client.search_model_versions(f"name = '{NAME}' and tags.`solar.key` = '{key}'"):
        # Of this very run: a version of the same key may be anybody's.
        if version.run_id == made.run_id and recorded.items() <= version.tags.items():
            return f"registered before: models:/{NAME}/{version.version}"
    text = card(runs, scale, INSTRUCT)
    tags = {**recorded, "solar.scale": scale.name, "solar.variant": INSTRUCT}
    model_id = _log_model(tracker, run.info.experiment_id, made, text, tags)
    try:
        tracker.client.create_registered_model(NAME, description="SOLAR 10.7B-Instruct, reproduced.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = tracker.client.create_model_version(
        NAME,
        source=f"models:/{model_id}",
        run_id=run.info.run_id,
        model_id=model_id,
        tags={**recorded, "solar.scale": scale.name},
        description=text,
    )
    tracker.client.set_registered_model_alias(NAME, scale.name, version.version)
    return f"registered: models:/{NAME}/{version.version} (alias {scale.name})"


def _log_model(
    tracker: Tracker, experiment: str, made: FinishedRun, text: str, tags: Mapping[str, str]
) -> str:
    """Log the checkpoint in MLflow's transformers flavour, beside the plain one; return its id."""
    from huggingface_hub import ModelCard
    from mlflow.transformers import save_model
    from transformers import pipeline

    from solar_repro.checkpoint.load import load_for_training

    # A pipeline and not the folder's path: for that MLflow 3.17 looks up names that transformers 5 has not.
    network, tokenizer = load_for_training(made.output)
    answering = pipeline("text-generation", model=network, tokenizer=tokenizer, device="cpu")
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)  # it looks for a licence on the hub
    with tempfile.TemporaryDirectory() as work:
        save_model(
            answering,
            f"{work}/model",
            model_card=ModelCard(text),
            pip_requirements=[f"{name}=={versions()[name]}" for name in ("mlflow", "torch", "transformers")],
        )
        # It would name a page of the hub that is not there.
        Path(work, "model", "LICENSE.txt").write_text(text.partition("## Licence")[2].strip() + "\n")
        model = tracker.client.create_logged_model(
            experiment,
            name=NAME,
            source_run_id=made.run_id,
            tags=dict(tags),
            model_type="transformers",
        )
        tracker.client.log_model_artifacts(model.model_id, f"{work}/model")
    tracker.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)
