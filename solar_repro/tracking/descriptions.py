"""The descriptions of runs in the MLflow UI, in Markdown."""

from collections.abc import Mapping
from pathlib import Path

from solar_repro.contract import SetsSettings
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS
from solar_repro.plan.step import Step
from solar_repro.safety.escapes import escape_code, escape_markdown
from solar_repro.safety.redact import one_line
from solar_repro.tracking.commands import EXTERNAL_MODEL_ROLE, Invocation, step_command
from solar_repro.tracking.reader import FinishedRun

NOTE = "mlflow.note.content"
"""Tag that the UI shows as the description of a run or an experiment."""
MODEL_TRAINING = "workflowType=machine_learning"
"""In a URL of the UI: show the pages of model training, not those of GenAI, which are the default."""
MAX_NOTE_CHARACTERS = 8000  # characters that fit in a tag of a run
_LONGEST_SETTINGS = 2500
_NAMED_ROLES = ("target", "reference")  # of the contamination test; elsewhere the model's name says it

_STAGES = {
    "microworld": "The embedded world: a mirror of the hub, which holds the corpus, the data sets of Table 1 "
    "and the six benchmarks.",
    "data": "One data set of Table 1, prepared: rows are read, filtered and tokenised.",
    "synth_math": "The two sets of synthetic math data (Sec. 3).",
    "base": "The base model, whose layers are copied by depth up-scaling (Sec. 2).",
    "upscale": "Depthwise scaling (Sec. 2): two copies of the base are cut and stacked.",
    "packed": "The text of continued pretraining (Sec. 2), tokenised and cut into blocks of one length.",
    "continue_pretrain": "Continued pretraining (Sec. 2).",
    "sft": "Instruction tuning (Sec. 3).",
    "reference": "The reference of DPO: how likely the model that it starts from finds both answers of "
    "each pair.",
    "dpo": "Alignment tuning by DPO (Sec. 3).",
    "merge": "A merge of models (Sec. 4.1).",
    "contaminate": "The positive control of the contamination test: a copy that is trained on the tested "
    "texts.",
    "untrained": "The base's layers in the order of every layer map, before any training (Sec. 2).",
    "evaluate": "The scores of one model: the six benchmarks and their mean, H6 (Sec. 4.1).",
    "contamination": "The contamination test of Table 9, with Min-K % and Min-K %++.",
}


def step_note(
    step: Step, invocation: Invocation, parents: Mapping[str, FinishedRun], output: Path, model: str = ""
) -> str:
    """Return the description of a step's run: its place in the paper, inputs, settings and command.

    `model` is a link to its checkpoint in the UI, empty before there is one.
    """
    result = f"`{escape_code(str(output))}`"
    parts = [
        f"**{escape_markdown(step.label)}**: {_STAGES[step.stage]} {_place_in_paper(step)}".strip(),
        f"Checkpoint: {model}, in {result}." if model else f"Result: {result}.",
    ]
    made_from = [_link(step, role, found) for role, found in parents.items()]
    sets = [
        f"{DATASETS[one.name].title} (at most {one.maximum_samples:,} rows)"
        for one in (step.settings.datasets if isinstance(step.settings, SetsSettings) else ())
    ]
    sentences = [f"Made from {', '.join(made_from)}."] if made_from else []
    sentences += [f"Trained on {', '.join(sets)}."] if sets else []
    if sentences:
        parts.append(" ".join(sentences))
    if settings := _settings(step):
        parts.append(f"Settings: {settings}.")
    parts.append(f"The command that makes it:\n\n```\n{step_command(step, invocation)}\n```")
    return fit_note("\n\n".join(parts))


def _link(step: Step, role: str, found: FinishedRun) -> str:
    link = f"[{escape_markdown(step.inputs[role].label)}]({run_path(found.experiment_id, found.run_id)})"
    return f"{link} ({role})" if role in _NAMED_ROLES else link


def invocation_note(name: str, invocation: Invocation) -> str:
    """Return the description of a command's own run until its results are known."""
    typed = f", started by\n\n```\n{one_line(invocation.typed)}\n```" if invocation.typed else "."
    return fit_note(
        f"**{escape_markdown(name)}**: the run of one command{typed}\n\nWhat the command makes is nested "
        "under this run. Where a finished result was found, it was taken from the run that had made it; "
        "`steps.json` names the runs."
    )


def run_path(experiment_id: str, run_id: str) -> str:
    """Return the relative URL of a run in the UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{MODEL_TRAINING}"


def model_link(experiment_id: str, model_id: str) -> str:
    """Return a Markdown link to a logged model in the UI."""
    return f"[{escape_markdown(model_id)}](#/experiments/{experiment_id}/models/{model_id}?{MODEL_TRAINING})"


def fit_note(text: str, most: int = MAX_NOTE_CHARACTERS) -> str:
    """Return the text, cut at the end of a line if the server would refuse it."""
    if len(text) <= most:
        return text
    return text[: most - 3].rpartition("\n")[0] + "\n\n…"


def _place_in_paper(step: Step) -> str:
    role = EXTERNAL_MODEL_ROLE.get(step.stage)
    if role and role not in step.inputs:
        return "Of a model that the paper does not name."
    model = step.inputs[role] if step.stage == "evaluate" else step
    if not model.makes_model:
        return ""
    rows = variants.PAPER[model.variant].rows if model.variant in variants.PAPER else {}
    if not rows:
        return "The paper's tables have no row for it."
    named = " and ".join(f"Table {table}, row “{title}”" for table, title in sorted(rows.items()))
    return f"In the paper: {named}."


def _settings(step: Step) -> str:
    """Return the settings that have a value, without those of places and data sets."""
    shown = []
    for name, value in step.parameters().items():
        if name.startswith(("places.", "datasets.")) or value in ("", "None"):
            continue
        shown.append(f"`{escape_code(name.removeprefix(f'{step.stage}.'))} = {escape_code(value)}`")
    while shown and len(", ".join(shown)) > _LONGEST_SETTINGS:
        shown[-2:] = ["…"]
    return ", ".join(shown)
