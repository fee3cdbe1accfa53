"""Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3): rephrased MATH problems, never GSM8K."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from solar_repro.contract import SynthMathInputs, SynthMathSettings
from solar_repro.data.answer_file import AnswerFile
from solar_repro.data.decontamination import benchmark_index
from solar_repro.data.locate import locate
from solar_repro.data.report import RowReport
from solar_repro.data.synthetic_math import (
    math_problems,
    overlap_counts,
    sample,
    synthesise,
    write_math_sets,
)
from solar_repro.paper.benchmarks import h6_benchmark
from solar_repro.paper.data_sets import DATASETS, MATH_SEEDS
from solar_repro.store.result import NOTES, Log

METAMATH = DATASETS["synth_math_instruct"].hub_id
GSM8K = h6_benchmark("GSM8K").hub_id


def run(out: Path, log: Log, settings: SynthMathSettings, inputs: SynthMathInputs) -> None:
    """Write `instruct` and `alignment` in hub layout to `out`; seeds are problems of MATH.

    Method `generate` asks the server or the model of `inputs`. Its answers are kept beside `out`, so that a
    killed run, or one with other settings, pays for none of them again.
    """
    seeds: RowReport = {"split": settings.seed_split}
    problems = math_problems(locate(MATH_SEEDS, inputs.mirror), settings.seed_split, seeds)
    known = benchmark_index(inputs.mirror)
    sources: dict[str, Any] = {
        "gsm8k": locate(GSM8K, inputs.mirror),
        "known": known if settings.decontaminate else None,
    }
    asked = problems
    if settings.method == "metamath":
        sources["metamath"] = locate(METAMATH, inputs.mirror)
    elif (generation := settings.generation) is not None:
        asked = sample(problems, generation.problems, settings.seed)
        answers = AnswerFile(out.parent / ".answers" / "synth_math", generation.model, generation.max_tokens)
        sources["complete"] = _complete(answers, inputs)
        sources |= {"samples": generation.samples, "temperature": generation.temperature}
    rows, report = synthesise(settings.method, asked, seed=settings.seed, **sources)
    report["seeds"] = seeds | {"overlap": overlap_counts(problems, known)}
    if "complete" in sources:
        report["requests"] = asdict(sources["complete"].counts)
    write_math_sets(
        out,
        rows,
        problems,
        maximum_instruct=settings.maximum_instruct,
        maximum_alignment=settings.maximum_alignment,
        seed=settings.seed,
        known=known,
        report=report,
    )
    (out / NOTES).mkdir(exist_ok=True)
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
    (out / NOTES / "data.json").write_text(text + "\n", encoding="utf-8")
    log({f"data/{name}": value for name, value in _figures(report).items()})


def _complete(answers: AnswerFile, inputs: SynthMathInputs) -> Any:
    if inputs.server is not None:
        from solar_repro.data.chat_client import ChatClient

        return ChatClient(inputs.server, answers)
    from solar_repro.checkpoint.load import load_for_scoring
    from solar_repro.checkpoint.model_source import model_folder
    from solar_repro.data.local_model import LocalModel
    from solar_repro.device import device

    return LocalModel(*load_for_scoring(model_folder(inputs.model), device=device()), answers)


def _figures(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report, those of its parts under the part's name."""
    figures = {}
    for name, value in report.items():
        if isinstance(value, dict):
            figures |= {f"{name}/{part}": number for part, number in _figures(value).items()}
        elif isinstance(value, int | float):
            figures[name] = value
    return figures
