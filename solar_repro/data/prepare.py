"""One set of Table 1 prepared and reported by itself, without training on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from solar_repro.data.card import write_card
from solar_repro.data.filters import table_8_filter
from solar_repro.data.locate import Location
from solar_repro.data.overlap import benchmark_index, overlap
from solar_repro.data.report import Report
from solar_repro.data.sources import load_instruction, load_preferences
from solar_repro.data.tokens import tokenise_instruction, tokenise_preferences
from solar_repro.variants import DATASETS, FILTERED_TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare(
    out: Path,
    name: str,
    location: Location,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_samples: int,
    max_length: int,
    seed: int,
    mirror: Path | None,
    flan: Location | None = None,
    long_answers: Literal["drop", "cut"] = "drop",
    cache_dir: Path | None = None,
) -> Report:
    """Load, filter (OpenOrca), tokenise and compare with the benchmarks; write the card into `out`.

    The tokenizer has its chat template set. Returns the counts worth a metric: `rows_in`, `kept`,
    `tokenised`, `tokens`, `answer_tokens` and `overlap/<benchmark>`.
    """
    if DATASETS[name].stage == "instruction":
        row_filter = None
        if name == "openorca":
            row_filter = table_8_filter(location, mirror, FILTERED_TASKS, flan=flan, cache_dir=cache_dir)
        rows = load_instruction(
            name, location, max_samples=max_samples, seed=seed, row_filter=row_filter, cache_dir=cache_dir
        )
        tokenise = tokenise_instruction
    else:
        rows = load_preferences(name, location, max_samples=max_samples, seed=seed, cache_dir=cache_dir)
        tokenise = tokenise_preferences
    tokenised, tokens = tokenise(rows, tokenizer, max_length, long_answers=long_answers, cache_dir=cache_dir)
    lines, _ = overlap(rows, benchmark_index(mirror))
    write_card(out, name, rows.report, tokens, tokenised, lines)
    return {
        "rows_in": rows.report["rows_in"],
        "kept": rows.report["kept"],
        "tokenised": tokens["kept"],
        "tokens": tokens["tokens"],
        "answer_tokens": tokens["answer_tokens"],
    } | {f"overlap/{line.benchmark}": line.hit for line in lines}
