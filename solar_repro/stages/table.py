"""The stages: what each takes, which function it is, and what has to be known of it to run and to key it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from solar_repro import contract
from solar_repro.contract import Digests, Inputs, StageSettings
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder

S = TypeVar("S", bound=StageSettings)
I = TypeVar("I", bound=Inputs)  # noqa: E741

_ROWS = ("datasets", "numpy", "pyarrow")
_MODELS = ("jinja2", "numpy", "safetensors", "tokenizers", "torch", "transformers")
_TRAINING = tuple(sorted({*_ROWS, *_MODELS, "accelerate"}))
_H6 = tuple(sorted({*_ROWS, *_MODELS, "lm_eval"}))


@dataclass(frozen=True)
class Stage(Generic[S, I]):
    """One stage of the paper."""

    settings: type[S]
    inputs: type[I]
    run: Callable[[Path, Log, S, I, ResumeFolder | None], Digests | None]
    """Writes the result to a folder, and metrics to the log. A stage that saves its state does so where it
    is told. Returns the digests of files that need not be hashed again."""
    version: int
    """Raise it by one when results change: then every result of the stage, and of what is made from it, is
    made again. `tests/stages/test_golden.py` fails where that was forgotten."""
    libraries: tuple[str, ...]
    """Distributions that decide results; another version of one makes them again."""
    makes_model: bool = False
    launched: bool = False
    """It runs in several processes where a launcher is asked for: it trains, or shares its work out."""
    resumes: bool = False
    """It saves its state, so that it can resume."""
    scores: str | None = None
    """Name of the input whose model is scored; the scores are logged to that model's run as well."""


# The functions are imported when they are called: `--help`, dry runs and copies of bytes do without PyTorch.
def _microworld(
    out: Path, log: Log, settings: contract.MicroworldSettings, inputs: Inputs, resume: ResumeFolder | None
) -> None:
    from solar_repro.stages.microworld import run

    run(out, log, settings)


def _data(
    out: Path,
    log: Log,
    settings: contract.DataSettings,
    inputs: contract.TuningInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.data import run

    run(out, log, settings, inputs)


def _synth_math(
    out: Path,
    log: Log,
    settings: contract.SynthMathSettings,
    inputs: contract.SynthMathInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.synth_math import run

    run(out, log, settings, inputs)


def _base(
    out: Path,
    log: Log,
    settings: contract.BaseModelSettings,
    inputs: contract.BaseModelInputs,
    resume: ResumeFolder | None,
) -> Digests:
    from solar_repro.stages.base import run

    return run(out, log, settings, inputs, resume)


def _upscale(
    out: Path,
    log: Log,
    settings: contract.UpscaleSettings,
    inputs: contract.ModelInput,
    resume: ResumeFolder | None,
) -> Digests:
    from solar_repro.stages.upscale import run

    return run(out, log, settings, inputs)


def _packed(
    out: Path,
    log: Log,
    settings: contract.PackedSettings,
    inputs: contract.PackedInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.packed import run

    run(out, log, settings, inputs, resume)


def _continue_pretrain(
    out: Path,
    log: Log,
    settings: contract.ContinuePretrainSettings,
    inputs: contract.PretrainedInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.continue_pretrain import run

    run(out, log, settings, inputs, resume)


def _sft(
    out: Path,
    log: Log,
    settings: contract.SftSettings,
    inputs: contract.TuningInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.sft import run

    run(out, log, settings, inputs, resume)


def _reference(
    out: Path,
    log: Log,
    settings: contract.ReferenceSettings,
    inputs: contract.TuningInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.reference import run

    run(out, log, settings, inputs)


def _dpo(
    out: Path,
    log: Log,
    settings: contract.DpoSettings,
    inputs: contract.DpoInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.dpo import run

    run(out, log, settings, inputs, resume)


def _merge(
    out: Path,
    log: Log,
    settings: contract.MergeSettings,
    inputs: contract.MergeInputs,
    resume: ResumeFolder | None,
) -> Digests:
    from solar_repro.stages.merge import run

    return run(out, log, settings, inputs)


def _contaminate(
    out: Path,
    log: Log,
    settings: contract.ContaminateSettings,
    inputs: contract.EvaluateInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.contaminate import run

    run(out, log, settings, inputs, resume)


def _untrained(
    out: Path,
    log: Log,
    settings: contract.UntrainedSettings,
    inputs: contract.TrainedInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.untrained import run

    run(out, log, settings, inputs)


def _evaluate(
    out: Path,
    log: Log,
    settings: contract.EvaluateSettings,
    inputs: contract.EvaluateInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.evaluate import run

    run(out, log, settings, inputs, resume)


def _contamination(
    out: Path,
    log: Log,
    settings: contract.ContaminationSettings,
    inputs: contract.ContaminationInputs,
    resume: ResumeFolder | None,
) -> None:
    from solar_repro.stages.contamination import run

    run(out, log, settings, inputs)


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "microworld": Stage(contract.MicroworldSettings, Inputs, _microworld, 1, ("pyarrow",)),
        "data": Stage(
            contract.DataSettings, contract.TuningInputs, _data, 1, tuple(sorted({*_ROWS, *_MODELS}))
        ),
        "synth_math": Stage(
            contract.SynthMathSettings,
            contract.SynthMathInputs,
            _synth_math,
            1,
            # The last three where a model of this machine rephrases.
            (*_ROWS, "math-verify", "latex2sympy2_extended", "sympy", "tokenizers", "torch", "transformers"),
        ),
        "base": Stage(
            contract.BaseModelSettings,
            contract.BaseModelInputs,
            _base,
            1,
            ("numpy", "pyarrow", "safetensors", "tokenizers", "torch", "transformers"),
            makes_model=True,
            resumes=True,
        ),
        "upscale": Stage(contract.UpscaleSettings, contract.ModelInput, _upscale, 1, (), makes_model=True),
        "packed": Stage(
            contract.PackedSettings,
            contract.PackedInputs,
            _packed,
            1,
            tuple(sorted({*_ROWS, *_MODELS})),
            resumes=True,
        ),
        "continue_pretrain": Stage(
            contract.ContinuePretrainSettings,
            contract.PretrainedInputs,
            _continue_pretrain,
            2,
            _TRAINING,
            makes_model=True,
            launched=True,
            resumes=True,
        ),
        "sft": Stage(
            contract.SftSettings,
            contract.TuningInputs,
            _sft,
            2,
            (*_TRAINING, "trl"),
            makes_model=True,
            launched=True,
            resumes=True,
        ),
        "reference": Stage(
            contract.ReferenceSettings, contract.TuningInputs, _reference, 2, _TRAINING, launched=True
        ),
        "dpo": Stage(
            contract.DpoSettings,
            contract.DpoInputs,
            _dpo,
            3,
            (*_TRAINING, "trl"),
            makes_model=True,
            launched=True,
            resumes=True,
        ),
        "merge": Stage(
            contract.MergeSettings, contract.MergeInputs, _merge, 1, ("numpy", "torch"), makes_model=True
        ),
        "contaminate": Stage(
            contract.ContaminateSettings,
            contract.EvaluateInputs,
            _contaminate,
            2,
            _TRAINING,
            makes_model=True,
            launched=True,
            resumes=True,
        ),
        "untrained": Stage(
            contract.UntrainedSettings,
            contract.TrainedInputs,
            _untrained,
            1,
            tuple(sorted({*_ROWS, *_MODELS})),
        ),
        "evaluate": Stage(
            contract.EvaluateSettings,
            contract.EvaluateInputs,
            _evaluate,
            1,
            _H6,
            resumes=True,
            scores="model",
        ),
        "contamination": Stage(
            contract.ContaminationSettings,
            contract.ContaminationInputs,
            _contamination,
            2,
            tuple(sorted({*_ROWS, *_MODELS, "scikit-learn", "scipy"})),
            scores="target",
        ),
    }
)
"""In the order in which the paper's plan needs them."""
