"""The fast evaluation beside lm-eval's stock adapter, on items of the embedded world."""

import functools

import pytest

from benchmarks.performance.evaluation import How, compare
from benchmarks.performance.evaluation_results import table, totals
from benchmarks.performance.gpu_training import SHAPES, write_random_llama
from solar_repro.h6.tasks import build_tasks
from solar_repro.microworld.write import write_mirror
from solar_repro.paper.benchmarks import H6_BENCHMARKS
from solar_repro.scales.load import load_scale

COLUMNS = [column.name for column in H6_BENCHMARKS if not column.generates]
TOLERANCES = {
    # On a GPU float32 is multiplied as TF32, whose numbers have 11 bits: each is rounded by up to 2**-11, and
    # other kernels round other sums. On a CPU it is the order of sums alone.
    "float32": 2**-10,
    # A log-probability in bfloat16 has 8 bits: two neighbours differ by up to 2**-7 of it. Two orders of the
    # arithmetic of 22 layers may be some of these steps apart.
    "bfloat16": 2**-5,
}
"""By how much a log-likelihood of ours may differ from the stock adapter's, as a share of it."""
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "cuda": SHAPES["1B"],
    "cpu": {**SHAPES["1B"], **TINY, "num_key_value_heads": 2, "vocab_size": 1024},
}
ITEMS = {"cuda": 12, "cpu": 2}
"""Of each benchmark; scale `check` has 12, and 2 of each subject of MMLU."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_mirror(folder, load_scale("check").world)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes a place's model once."""

    @functools.cache
    def write(place):
        folder = tmp_path_factory.mktemp(place)
        write_random_llama(MODELS[place], folder)
        return folder

    return write


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_log_likelihoods_are_those_of_the_stock_adapter(place, mirror, written, tmp_path, dtype):
    """How fast both are, a table says; `benchmarks/performance/evaluation.py` is what measures that."""
    model = written(place)
    scale = load_scale("check")
    limits = dict.fromkeys(COLUMNS, ITEMS[place]) | {"MMLU": 2, "TruthfulQA": min(8, ITEMS[place])}
    rows = []
    for name in COLUMNS:
        tasks = build_tasks(
            mirror, columns=[name], limits={name: limits[name]}, subjects=scale.evaluate.subjects
        )
        how = How(place, dtype, batch_size=8, max_length=2048)
        rows.append(compare(model, tasks, tmp_path / dtype, 1, how))
    print(f"\n{dtype}\n{table([*rows, totals(rows)])}")
    for row in rows:
        assert row.largest_relative_difference < TOLERANCES[dtype], row.column
