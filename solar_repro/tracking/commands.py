"""Commands that make a result again, as shown to a reader: safe to paste and without secrets."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from solar_repro.plan.step import Step
from solar_repro.safety.redact import one_line

EXTERNAL_MODEL_ROLE = {"evaluate": "model", "contamination": "target", "merge": "first"}
"""Stages that also take models from outside the plan → the input that they have for a model of the plan."""
_WITHOUT_VARIANT = ("microworld", "synth_math", "base", "packed")


@dataclass(frozen=True)
class Invocation:
    """The command that the user typed."""

    scale: str
    """A name or a file."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Settings of the scale that the user overrode, by dotted path."""
    seed: int | None = None
    """The scale's seed; repeated trainings use the seeds after it. None if there is no scale."""
    typed: str = ""
    """The whole command."""


def mlflow_command(entry: str, scale: str, overrides: Mapping[str, str], **options: Any) -> str:
    """Return the `mlflow run` command of an entry point, safe to paste into a shell and without secrets."""
    given = {"scale": scale, **options, **overrides}
    if given.get("seeds") == 1:
        del given["seeds"]
    settings = " ".join(f"-P {shlex.quote(one_line(f'{name}={value}'))}" for name, value in given.items())
    return f"mlflow run . -e {entry} --env-manager local {settings}"


def step_command(step: Step, invocation: Invocation) -> str:
    """Return the command that makes a step and its inputs; for a model from outside, what was typed."""
    entry, options = step.stage, {}
    role = EXTERNAL_MODEL_ROLE.get(step.stage)
    subject = step if role is None or role in step.inputs else None
    if subject and step.stage == "contamination":
        subject = step.inputs[role]
    if subject and subject.stage == "contaminate":
        entry, options["control"] = "contamination", "positive"
        subject = subject.inputs.get("model")
    if subject is None:
        return one_line(invocation.typed)
    if step.stage == "reference":
        entry = "dpo"
    if step.stage == "data":
        options["dataset"] = step.variant
    elif step.stage not in _WITHOUT_VARIANT:
        options["variant"] = subject.variant
    overrides = dict(invocation.overrides)
    if invocation.seed is not None and step.training_seed not in (None, invocation.seed):
        overrides["seed_offset"] = str(step.training_seed - invocation.seed)
    return mlflow_command(entry, invocation.scale, overrides, **options)
