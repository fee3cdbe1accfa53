"""Steps of tests: of any stage, with settings that need not make sense."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from solar_repro.contract import Digests
from solar_repro.plan.step import Step
from solar_repro.scales.execution import Execution, Tracking
from solar_repro.scales.section import Section
from solar_repro.stages.table import STAGES
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder

BY_REFERENCE = Execution(tracking=Tracking(checkpoints="reference"))
"""Checkpoints are not uploaded."""


class AnySettings(Section):
    """Settings of any names."""

    model_config = ConfigDict(extra="allow")


def bare_step(
    stage: str, variant: str, inputs: Any = (), data: Any = (), places: Any = (), **settings: Any
) -> Step:
    """A step that can be tracked and stored, not run."""
    return Step(stage, variant, AnySettings(**settings), dict(inputs), dict(data), dict(places))


def run_step(
    step: Step, out: Path, log: Log, folders: Mapping[str, Path], resume: ResumeFolder | None = None
) -> Digests | None:
    """Run a step's stage, its inputs in these folders."""
    stage = STAGES[step.stage]
    inputs = stage.inputs.model_validate({**folders, **step.places})
    return stage.run(out, log, step.settings, inputs, resume)
