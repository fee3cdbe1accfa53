import numpy as np
import pytest

from solar_repro.data.decontamination import benchmark_index, overlap
from solar_repro.data.locate import locate
from solar_repro.data.sources import load_instruction, load_preferences
from solar_repro.paper.benchmarks import H6_NAMES

ITEM = "A robe takes two bolts of blue fiber and half that much white fiber, says the tailor of the town."


@pytest.fixture
def index(write_set, mirror):
    write_set("openai/gsm8k", [{"question": ITEM}], split="test", config="main")
    write_set(
        "openai/gsm8k",
        [{"question": "one two three four five six seven eight nine ten 11 12 13"}],
        config="main",
    )
    write_set("cais/mmlu", [{"question": "What is the capital of France?"}], split="test", config="all")
    return benchmark_index(mirror, ("MMLU", "GSM8K"))


def test_hits_are_counted_for_their_benchmark_and_shown(index, write_set, mirror, cache):
    rows = [
        ("clean", "clean"),
        ("Q: " + ITEM, "x"),
        ("echo", "You asked: " + ITEM),
        ("what is the CAPITAL of france", "Paris"),
        # Neither half is long enough, and an n-gram does not reach from a question into its answer.
        ("A robe takes two bolts of blue fiber", "and half that much white fiber, says the tailor"),
        # Only what H6 scores counts, not the training split.
        ("one two three four five six seven eight nine ten 11 12 13", "x"),
    ]
    write_set("org/set", [{"instruction": q, "output": a} for q, a in rows])
    loaded = load_instruction("alpaca_gpt4", locate("org/set", mirror), cache_dir=cache)
    lines, hit = overlap(loaded, index)
    assert np.flatnonzero(hit).tolist() == [1, 2, 3]
    mmlu, gsm8k = lines
    assert (mmlu.set, mmlu.benchmark, mmlu.rows, mmlu.hit) == ("alpaca_gpt4", "MMLU", 6, 1)
    assert (gsm8k.benchmark, gsm8k.hit) == ("GSM8K", 2)
    assert gsm8k.examples == (("1", "Q: " + ITEM), ("2", "echo"))
    assert loaded.dataset.select(np.flatnonzero(~hit))["row_id"][:] == ["0", "4", "5"]


def test_either_answer_of_a_pair(index, write_set, mirror, cache):
    rows = [
        {"question": "q", "chosen": "a", "rejected": ITEM},
        {"question": "q", "chosen": "a", "rejected": "b"},
    ]
    write_set("org/set", rows)
    loaded = load_preferences("orca_dpo_pairs", locate("org/set", mirror), cache_dir=cache)
    _, hit = overlap(loaded, index)
    assert hit.tolist() == [True, False]


def test_many_batches_stay_in_order(index, write_set, mirror, cache):
    rows = [
        {"instruction": f"{n} {ITEM}" if n % 1000 == 7 else f"clean {n}", "output": "x"} for n in range(9000)
    ]
    write_set("org/set", rows)
    loaded = load_instruction("alpaca_gpt4", locate("org/set", mirror), cache_dir=cache)
    for num_proc in (1, 2):
        lines, hit = overlap(loaded, index, num_proc=num_proc)
        assert np.flatnonzero(hit).tolist() == list(range(7, 9000, 1000))
        assert [row_id for row_id, _ in lines[1].examples] == ["7", "1007", "2007"]


def test_real_benchmarks_find_their_own_items(shared, write_set, mirror, cache):
    index = benchmark_index(shared / "hub")
    assert index.names == H6_NAMES
    questions = [
        "An astronomer observes that a planet rotates faster after a meteorite impact. Which is the most "
        "likely effect of this increase in rotation?",
        "What happens if you eat a pomegranate?",
        "A lesion causing compression of the facial nerve at the stylomastoid foramen will cause ipsilateral",
        "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it "
        "take?",
    ]
    write_set("org/set", [{"instruction": question, "output": "x"} for question in questions])
    lines, _ = overlap(load_instruction("alpaca_gpt4", locate("org/set", mirror), cache_dir=cache), index)
    found = {line.benchmark: [row_id for row_id, _ in line.examples] for line in lines}
    assert found == {
        "ARC": ["0"],
        "HellaSwag": [],
        "MMLU": ["2"],
        "TruthfulQA": ["1"],
        "Winogrande": [],
        "GSM8K": ["3"],
    }
