"""Commands that make a result again, as they are shown to a reader: safe to paste, without secrets."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solar_repro.safety.redact import one_line

if TYPE_CHECKING:
    from solar_repro.plan.step import Step

EXTERNAL_MODEL_ROLE = {"evaluate": "model", "contamination": "target", "merge": "first"}
"""Stages that also take models from outside the plan → the input that is there for one of the plan's own."""
_WITHOUT_VARIANT = ("microworld", "synth_math", "base")


@dataclass(frozen=True)
class Invocation:
    """What the user has typed."""

    scale: str
    """A name or a file."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Settings of the scale that were given beside it, by dotted path."""
    seed: int | None = None
    """The scale's seed, from which the seeds of repeated trainings are counted."""
    typed: str = ""
    """The whole command."""


def mlflow_command(entry: str, scale: str, overrides: Mapping[str, str], **options: Any) -> str:
    """The `mlflow run` command of an entry point, safe to be pasted into a shell, without secrets."""
    given = {"scale": scale, **options, **overrides}
    if given.get("seeds") == 1:
        del given["seeds"]
    settings = " ".join(f"-P {shlex.quote(one_line(f'{name}={value}'))}" for name, value in given.items())
    return f"mlflow run . -e {entry} --env-manager local {settings}"


def step_command(step: "Step", invocation: Invocation) -> str:
    """The command that makes one step, and what it is made from; of a model from outside, what was typed."""
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
    if step.stage == "data":
        options["dataset"] = step.variant
    elif step.stage not in _WITHOUT_VARIANT:
        options["variant"] = subject.variant
    overrides = dict(invocation.overrides)
    if invocation.seed is not None and step.training_seed not in (None, invocation.seed):
        overrides["repeat"] = str(step.training_seed - invocation.seed)
    return mlflow_command(entry, invocation.scale, overrides, **options)
