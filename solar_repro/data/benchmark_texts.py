"""The texts of the benchmarks that training rows are compared with."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from solar_repro.data.locate import Location
from solar_repro.data.row_batches import read_batches
from solar_repro.data.split_files import data_files
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import BENCHMARKS
from solar_repro.paper.data_sets import TEXT


def benchmark_texts(name: str, location: Location, *, test_only: bool) -> Iterator[pa.Array]:
    """The questions of a benchmark: of the split that H6 scores (`test_only`), or of all that the folder has.

    ARC's are those of Challenge and Easy. Winogrande's blank is filled with either option, so each of its
    items gives two texts.
    """
    benchmark = BENCHMARKS[name]
    for config in benchmark.configs:
        for split in [benchmark.scored_split] if test_only else benchmark.splits:
            try:
                files = data_files(location.folder, split, config)
            except UserError:
                if split == benchmark.scored_split:
                    raise
                continue
            for file in files:
                for batch in read_batches(file, dict.fromkeys(benchmark.asked, TEXT)):
                    if name == "Winogrande":
                        yield from _filled(batch.table)
                    else:
                        columns = [column.combine_chunks() for column in batch.table.columns]
                        yield pc.binary_join_element_wise(*columns, " ")


def _filled(items: pa.Table) -> Iterator[pa.Array]:
    rows = items.to_pylist()
    for option in ("option1", "option2"):
        texts = [(row["sentence"] or "").replace("_", row[option] or "_", 1) for row in rows]
        yield pa.array(texts, pa.string())
