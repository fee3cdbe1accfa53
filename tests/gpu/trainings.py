"""Trainings of random Llamas of any shape, with rows about as long as a sequence may be."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.performance import gpu_training
from benchmarks.performance.training import tuning_set
from solar_repro.contract import (
    ContinuePretrainSettings,
    DpoInputs,
    DpoSettings,
    FrozenModel,
    PackedInputs,
    PackedSettings,
    PretrainedInputs,
    ReferenceSettings,
    SftSettings,
    TuningInputs,
)
from solar_repro.microworld.write import write_mirror
from solar_repro.scales.load import load_scale
from solar_repro.scales.training import Training
from solar_repro.stages import continue_pretrain, dpo, packed, reference, sft
from solar_repro.store.result import Log


def write_inputs(folder: Path, shape: Mapping[str, Any], rows: int, length: int) -> dict[str, Path]:
    """Write a model of this shape, a mirror of long rows, and one of the embedded world."""
    found = {name: folder / name for name in ("model", "rows", "world")}
    gpu_training.write_random_llama(shape, found["model"])
    gpu_training.write_long_rows(found["rows"], rows, length, length)
    write_mirror(found["world"], load_scale("check").world)
    return found


def prepared(
    stage: str, tuning: Training, folders: Mapping[str, Path], work: Path, log: Log
) -> Callable[[], None]:
    """A call without arguments that runs the stage; of DPO the reference is computed now."""
    out = work / "out"
    out.mkdir()
    if stage == "continue_pretrain":
        corpus = load_scale("check").data.corpus
        settings = ContinuePretrainSettings(seed=0, corpus=corpus, continue_pretrain=tuning)
        text = work / "packed"
        text.mkdir()
        where = PackedInputs(
            model=folders["model"], mirror=folders["world"], held_out_split=corpus.held_out_split
        )
        packed.run(text, lambda metrics, step=0: None, PackedSettings.before(corpus, tuning, 0), where)
        inputs = PretrainedInputs(model=folders["model"], packed=text, mirror=folders["world"])
        return lambda: continue_pretrain.run(out, log, settings, inputs)
    inputs = TuningInputs(model=folders["model"], mirror=folders["rows"])
    common = {"seed": 0, "datasets": (tuning_set(gpu_training.SETS[stage]),), "template": "solar"}
    if stage == "sft":
        return lambda: sft.run(out, log, SftSettings(**common, sft=tuning), inputs)
    scored = work / "reference"
    scored.mkdir()
    how = FrozenModel.before(tuning)
    asked = ReferenceSettings(**common, max_length=tuning.max_length, reference=how)
    reference.run(scored, lambda metrics, step=0: None, asked, inputs)
    of_dpo = DpoInputs(**dict(inputs), reference=scored)
    return lambda: dpo.run(out, log, DpoSettings(**common, dpo=tuning), of_dpo)
