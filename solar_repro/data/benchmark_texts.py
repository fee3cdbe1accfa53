"""The texts of the benchmarks that training rows are compared with."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.data.files import TEXT, data_files, read_batches
from solar_repro.data.locate import Location, locate
from solar_repro.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class BenchmarkTexts:
    hub_id: str
    configs: tuple[str, ...]
    test_split: str
    """The split that H6 scores."""
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    """What an item asks; its joined text is compared."""


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
"""H6's six, and DROP, which Table 8 filters too."""


def benchmark_location(name: str, mirror: Path | None) -> Location:
    return locate(BENCHMARKS[name].hub_id, mirror)


def benchmark_texts(name: str, location: Location, *, test_only: bool) -> Iterator["pa.Array"]:
    """Texts of a benchmark's items: those that H6 scores, or of all splits that the folder has.

    ARC's are those of Challenge and Easy. Winogrande's blank is filled with either option.
    """
    import pyarrow.compute as pc

    benchmark = BENCHMARKS[name]
    for config in benchmark.configs:
        for split in [benchmark.test_split] if test_only else benchmark.splits:
            try:
                files = data_files(location.folder, split, config)
            except UserError:
                if split == benchmark.test_split:
                    raise
                continue
            for file in files:
                for batch in read_batches(file, dict.fromkeys(benchmark.columns, TEXT)):
                    if name == "Winogrande":
                        yield from _filled(batch.table)
                    else:
                        columns = [column.combine_chunks() for column in batch.table.columns]
                        yield pc.binary_join_element_wise(*columns, " ")


def _filled(items: "pa.Table") -> Iterator["pa.Array"]:
    import pyarrow as pa

    rows = items.to_pylist()
    for option in ("option1", "option2"):
        texts = [(row["sentence"] or "").replace("_", row[option] or "_", 1) for row in rows]
        yield pa.array(texts, pa.string())
