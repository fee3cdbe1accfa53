"""SOLAR 10.7B-Instruct in the MLflow Model Registry, to be loaded with `mlflow.transformers.load_model`."""

import logging
import tempfile
from pathlib import Path

from benchmarks.model_cards import card
from benchmarks.runs import MODEL, Runs
from solar_repro.provenance import versions
from solar_repro.scales import Scale
from solar_repro.tracking import Tracker

NAME = "solar_instruct"
INSTRUCT = "merge_v1"
"""Sec. 4.3.2: the merge that was chosen."""


def register_instruct(runs: Runs, scale: Scale, tracker: Tracker) -> str:
    """Register the scale's instruct model (the first seed's) as a version, once a key; a line that says so.

    The version's alias is the scale. Where checkpoints are logged by reference nothing is copied, and so
    nothing registered.
    """
    from mlflow.exceptions import MlflowException

    if scale.tracking.checkpoints != "upload":
        return f"not registered: scale {scale.name} uploads no checkpoints (tracking.checkpoints: reference)"
    run = runs.first(MODEL, INSTRUCT)
    key = run.data.tags["solar.key"]
    if found := tracker.client.search_model_versions(f"name = '{NAME}' and tags.`solar.key` = '{key}'"):
        return f"registered before: models:/{NAME}/{found[0].version}"
    folder = Path(run.data.tags["solar.output"])
    text = card(runs, scale, INSTRUCT)
    model_id = _log_model(tracker, run, folder, text)
    try:
        tracker.client.create_registered_model(NAME, description="SOLAR 10.7B-Instruct, reproduced.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = tracker.client.create_model_version(
        NAME,
        source=f"models:/{model_id}",
        run_id=run.info.run_id,
        model_id=model_id,
        tags={"solar.key": key, "solar.scale": scale.name},
        description=text,
    )
    tracker.client.set_registered_model_alias(NAME, scale.name, made.version)
    return f"registered: models:/{NAME}/{made.version} (alias {scale.name})"


def _log_model(tracker: Tracker, run, folder: Path, text: str) -> str:
    """Log the checkpoint in MLflow's transformers flavour, beside the plain one; the logged model's id."""
    from huggingface_hub import ModelCard
    from mlflow.transformers import save_model
    from transformers import pipeline

    from solar_repro.stages.checkpoints import load

    # A pipeline and not the folder's path: for that MLflow 3.17 looks up names that transformers 5 has not.
    network, tokenizer = load(folder)
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
            run.info.experiment_id,
            name=NAME,
            source_run_id=run.info.run_id,
            tags={name: run.data.tags[name] for name in ("solar.key", "solar.scale", "solar.variant")},
            model_type="transformers",
        )
        tracker.client.log_model_artifacts(model.model_id, f"{work}/model")
    tracker.client.finalize_logged_model(model.model_id, "READY")
    return model.model_id
