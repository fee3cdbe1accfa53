"""The texts on which contamination is tested (Table 9): questions and right answers of benchmark items."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from solar_repro.data.benchmark_sources import benchmark_source, mirror_configs
from solar_repro.data.locate import mirror_folder
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import H6_NAMES, H6Benchmark, h6_benchmark


def contamination_texts(column: str, mirror: Path | None, *, reference: bool = False) -> tuple[str, ...]:
    """All texts of a column's split that H6 scores, or of its `reference` split, in the file's order.

    A column without a reference split has no such texts. Raises UserError for an unknown column and for a
    benchmark that neither mirror nor hub has.
    """
    if column not in H6_NAMES:
        raise UserError(f"benchmark {column!r}: is not a column of H6; use one of {', '.join(H6_NAMES)}")
    benchmark = h6_benchmark(column)
    split = benchmark.unseen_split if reference else benchmark.scored_split
    if split is None:
        return ()
    return tuple(map(benchmark.answered, _rows(benchmark, mirror, split)))


def _rows(benchmark: H6Benchmark, mirror: Path | None, split: str) -> Iterator[Mapping[str, Any]]:
    hub_id = benchmark.hub_id
    try:
        configs = [benchmark.config]
        if benchmark.name == "MMLU":
            folder = mirror_folder(hub_id, mirror)
            names = mirror_configs(folder) if folder else ["all"]
            configs = ["all"] if "all" in names else sorted(names)
        for config in configs:
            yield from datasets.load_dataset(**benchmark_source(hub_id, config, mirror), split=split)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"benchmark {hub_id} ({benchmark.name}), split {split}: can be read neither from the mirror "
            f"nor from the hub ({reason})"
        ) from error
