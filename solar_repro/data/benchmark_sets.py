"""The benchmarks that training rows are compared with: where they are, which columns hold questions."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from solar_repro.data.locate import Location, fingerprint, locate
from solar_repro.errors import UserError


@dataclass(frozen=True)
class BenchmarkTexts:
    """The questions of one benchmark."""

    hub_id: str
    configs: tuple[str, ...]
    test_split: str
    """The split that H6 scores."""
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    """The columns that make up an item's question; their joined text is compared."""


BENCHMARKS = {
    "ARC": BenchmarkTexts(
        "allenai/ai2_arc",
        ("ARC-Challenge", "ARC-Easy"),
        "test",
        ("train", "validation", "test"),
        ("question",),
    ),
    "HellaSwag": BenchmarkTexts(
        "Rowan/hellaswag", ("default",), "validation", ("train", "validation", "test"), ("ctx",)
    ),
    "MMLU": BenchmarkTexts("cais/mmlu", ("all",), "test", ("dev", "validation", "test"), ("question",)),
    "TruthfulQA": BenchmarkTexts(
        "truthfulqa/truthful_qa", ("multiple_choice",), "validation", ("validation",), ("question",)
    ),
    "Winogrande": BenchmarkTexts(
        "allenai/winogrande",
        ("winogrande_xl",),
        "validation",
        ("train", "validation", "test"),
        ("sentence", "option1", "option2"),
    ),
    "GSM8K": BenchmarkTexts("openai/gsm8k", ("main",), "test", ("train", "test"), ("question",)),
    "DROP": BenchmarkTexts(
        "ucinlp/drop", ("default",), "validation", ("train", "validation"), ("passage", "question")
    ),
}
"""The six of H6, and DROP, which Table 8 filters too."""
H6_BENCHMARKS = tuple(name for name in BENCHMARKS if name != "DROP")
TABLE_8_BENCHMARKS = ("ARC", "HellaSwag", "Winogrande", "GSM8K", "DROP")


def benchmark_location(name: str, mirror: Path | None) -> Location:
    """Where a benchmark of `BENCHMARKS` is found; UserError where neither mirror nor hub has it."""
    return locate(BENCHMARKS[name].hub_id, mirror)


def table_8_fingerprints(mirror: Path | None, cache_dir: Path | None = None) -> dict[str, str]:
    """Fingerprints by hub id of those benchmarks of Table 8 that the mirror or the hub has."""
    found = {}
    for name in TABLE_8_BENCHMARKS:
        with contextlib.suppress(UserError):
            location = benchmark_location(name, mirror)
            found[location.hub_id] = fingerprint(location, cache_dir)
    return found
