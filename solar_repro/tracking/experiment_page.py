"""How the MLflow UI shows an experiment: its mode, its description, and a view of the scores."""

import contextlib
import json

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.tracking.descriptions import MODEL_TRAINING, NOTE

_KIND = "mlflow.experimentKind"
_VIEW = "scores"
_SEVERAL = 20


def describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Make the UI open an experiment for model training, with a description and a view of the scores.

    What is already set stays. An experiment with runs of other projects, or that this user may not change, is
    left alone.
    """
    tags = client.get_experiment(experiment_id).tags
    missing = {name: value for name, value in _experiment_tags(experiment_id).items() if name not in tags}
    if not missing or not all(
        any(name.startswith("solar.") for name in run.data.tags)
        for run in client.search_runs([experiment_id], max_results=_SEVERAL)
    ):
        return
    with contextlib.suppress(MlflowException):
        for name, value in missing.items():
            client.set_experiment_tag(experiment_id, name, value)


def _experiment_tags(experiment_id: str) -> dict[str, str]:
    columns = ["H6", *H6_NAMES, "held_out_loss"]
    shown = [f"metrics.`{column}`" for column in columns] + ["tags.`solar.stage`", "tags.`solar.scale`"]
    state = {
        "searchFilter": "metrics.H6 >= 0 AND tags.`solar.stage` != 'evaluate'",
        "orderByKey": "metrics.`H6`",
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": shown,
    }
    view = {"name": "Scores of the models", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    address = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&{MODEL_TRAINING}"
    scores = ", ".join(f"`{name}`" for name in H6_NAMES)
    paper = "[arXiv 2312.15166](https://arxiv.org/abs/2312.15166)"
    runs = f"#/experiments/{experiment_id}/runs?{MODEL_TRAINING}"
    note = (
        # This comes first because the UI opens on traces and shows one line of a description.
        f"**[Open the runs]({runs})** (*Model training*, at the top left) — "
        f"SOLAR 10.7B, reproduced ({paper}): a base model is made deeper by depth up-scaling, trained "
        "on, tuned to follow instructions, aligned by DPO and merged, at a size that the *scale* says.\n\n"
        "**What was run.** Each run of `main` is the whole paper at one scale: open it for the verdicts on "
        "the paper's claims, the scores beside the paper's, and pictures. Its steps are nested under it "
        "(click the + before its name).\n\n"
        "**How to read it.** A run that makes a model has the model's name in the paper (`sft_v1` is “SFT "
        "v1” of Table 3) and holds settings, data sets, training curve, checkpoint and scores. "
        "`….evaluate` is the scoring itself, `….contamination` the test of Table 9. Each description says "
        "what the run was made from, and by which command.\n\n"
        f"**Which columns to show.** [The scores of all models]({address}), the best first: `H6` and its "
        f"six benchmarks {scores} in percent, and `held_out_loss`. Under *Views* the same is called "
        f"“{view['name']}”. To compare settings, tick runs and choose *Compare*.\n"
    )
    return {
        _KIND: "custom_model_development",
        NOTE: note,
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(view),
    }
