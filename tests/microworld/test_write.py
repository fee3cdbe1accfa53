"""The mirror as a whole: columns, bytes, and nothing of the test items in any training row."""

import re
from pathlib import Path

import pytest

from solar_repro.errors import UserError
from solar_repro.microworld.world import World
from solar_repro.microworld.write import write_mirror
from solar_repro.scales.microworld import WorldSettings
from tests.microworld.conftest import SMALL, Rows

TINY = WorldSettings(
    creatures=10, terms_per_subject=6, herbs=6, documents=30, validation_documents=5, alpaca_rows=5,
    orca_rows=20, math_problems=10, metamath_rows=10, ultrafeedback_rows=10, orca_dpo_rows=5, arc_items=5,
    hellaswag_items=5, mmlu_items_per_subject=1, truthfulqa_items=5, winogrande_items=5, gsm8k_items=5,
    fewshot_rows=30,
)  # fmt: skip

TESTS = (
    ("allenai/ai2_arc", "test", "ARC-Challenge", "question"),
    ("allenai/ai2_arc", "test", "ARC-Easy", "question"),
    ("Rowan/hellaswag", "validation", "default", "ctx"),
    ("cais/mmlu", "test", "all", "question"),
    ("truthfulqa/truthful_qa", "validation", "multiple_choice", "question"),
    ("allenai/winogrande", "validation", "winogrande_xl", "sentence"),
    ("openai/gsm8k", "test", "main", "question"),
)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
        if path.is_file()
    }


def test_two_writes_are_equal_to_the_byte_and_another_seed_is_not(tmp_path: Path):
    counts = write_mirror(tmp_path / "a", TINY)
    assert write_mirror(tmp_path / "b", TINY) == counts
    write_mirror(tmp_path / "c", TINY.model_copy(update={"seed": 8}))
    first, second, other = (content(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == sum(len(splits) for splits in counts.values()) + len(counts)
    parquet = {name for name in first if name.endswith(".parquet")}
    assert not parquet & other.keys()


def test_two_mirrors_are_not_mixed_up_in_one_cache(tmp_path: Path):
    """`datasets` names its cache by a folder's README alone; equal names would bring the first one's rows."""
    import datasets

    questions = []
    for seed in (1, 2):
        write_mirror(tmp_path / str(seed), TINY.model_copy(update={"seed": seed}))
        path = str(tmp_path / str(seed) / "openai/gsm8k")
        questions.append(
            datasets.load_dataset(path, "main", split="test", cache_dir=str(tmp_path / "cache"))["question"][
                :
            ]
        )
    assert questions[0] != questions[1]


def test_a_set_that_is_there_is_left_alone(tmp_path: Path):
    (tmp_path / "openai/gsm8k").mkdir(parents=True)
    with pytest.raises(UserError, match="openai/gsm8k exists already"):
        write_mirror(tmp_path, TINY)


def test_counts_are_the_rows_that_are_read(mirror: Path, rows: Rows, tmp_path: Path):
    counts = write_mirror(tmp_path / "again", SMALL)
    assert (
        counts["Open-Orca/OpenOrca"]
        == {"default/train": SMALL.orca_rows}
        == {"default/train": len(rows("Open-Orca/OpenOrca", "train"))}
    )
    assert counts["allenai/winogrande"]["winogrande_xl/validation"] == SMALL.winogrande_items
    assert len(counts["cais/mmlu"]) == 58 * 3
    assert content(mirror) == content(tmp_path / "again")


COLUMNS = {
    "solar-repro/microworld": ["text"],
    "vicgalle/alpaca-gpt4": ["instruction", "input", "output", "text"],
    "Open-Orca/OpenOrca": ["id", "system_prompt", "question", "response", "task_name"],
    "meta-math/MetaMathQA": ["query", "response", "type", "original_question"],
    "Intel/orca_dpo_pairs": ["system", "question", "chosen", "rejected"],
}


@pytest.mark.parametrize("hub_id", COLUMNS)
def test_columns_of_sets_that_no_mirror_of_real_data_has(hub_id: str, rows: Rows):
    assert list(rows(hub_id, "train")[0]) == COLUMNS[hub_id]


@pytest.mark.parametrize(
    ("hub_id", "config"),
    [
        ("EleutherAI/hendrycks_math", "default"),
        ("allenai/ultrafeedback_binarized_cleaned", "default"),
        ("allenai/ai2_arc", "ARC-Challenge"),
        ("allenai/ai2_arc", "ARC-Easy"),
        ("Rowan/hellaswag", "default"),
        ("cais/mmlu", "astronomy"),
        ("cais/mmlu", "all"),
        ("truthfulqa/truthful_qa", "multiple_choice"),
        ("allenai/winogrande", "winogrande_xl"),
        ("openai/gsm8k", "main"),
    ],
)
def test_splits_and_types_are_those_of_the_real_set(
    hub_id: str, config: str, mirror: Path, shared: Path, tmp_path: Path
):
    import datasets

    ours, real = (
        datasets.load_dataset(str(folder / hub_id), config, cache_dir=str(tmp_path / name))
        for name, folder in (("ours", mirror), ("real", shared / "hub"))
    )
    assert sorted(ours) == sorted(real)
    for split in real:
        assert ours[split].features == real[split].features


def runs(text: str, length: int = 13) -> set[str]:
    words = re.sub(r"[^a-z0-9 ]", " ", text.lower().replace("_", " ")).split()
    return {" ".join(words[place : place + length]) for place in range(len(words) - length + 1)}


def test_no_training_row_shares_thirteen_words_with_a_test_item(rows: Rows, training_texts: list[str]):
    items = [row[column] for hub_id, split, config, column in TESTS for row in rows(hub_id, split, config)]
    seen = set().union(*(runs(text) for text in training_texts))
    long_items = [item for item in items if len(item.split()) > 13]
    assert len(long_items) > 60
    for item in items:
        assert not runs(item) & seen, item


def test_no_training_row_asks_a_test_question(world: World, rows: Rows, training_texts: list[str]):
    """In none of its wordings, whatever surrounds it."""
    asked = set(re.findall(r"[A-Z][^.?!\n]*\?", "\n".join(training_texts)))
    facts = [fact for creature in world.facts.creatures for fact in (*creature.told, *creature.inherited)]
    facts += [fact for subject in world.facts.subjects.values() for fact in subject]
    facts += [belief.truth for belief in world.facts.beliefs]
    wordings = {w.format(e=fact.entity): fact for fact in facts for w in fact.relation.questions}
    assert not [question for question in asked if question in wordings and wordings[question].held_out]
    assert len([question for question in asked if question in wordings]) > 300
    for hub_id, split, config, column in TESTS:
        if column == "question":
            tested = {row[column] for row in rows(hub_id, split, config)}
            assert not tested & asked, hub_id
            assert all(wordings[question].held_out for question in tested if question in wordings)


def test_few_shot_rows_are_no_test_items(rows: Rows):
    for hub_id, split, config, column in TESTS[:4] + TESTS[5:]:
        few = "dev" if hub_id == "cais/mmlu" else "train"
        shown = {row[column] for row in rows(hub_id, few, config)}
        assert not shown & {row[column] for row in rows(hub_id, split, config)}, hub_id


def test_the_projects_own_decontamination_finds_nothing(mirror: Path, tmp_path: Path):
    from solar_repro.data.decontamination import benchmark_index, overlap
    from solar_repro.data.locate import locate
    from solar_repro.data.sources import load_instruction, load_preferences

    index = benchmark_index(mirror)
    for load, name, hub_id in (
        (load_instruction, "alpaca_gpt4", "vicgalle/alpaca-gpt4"),
        (load_instruction, "openorca", "Open-Orca/OpenOrca"),
        (load_instruction, "synth_math_instruct", "meta-math/MetaMathQA"),
        (load_preferences, "ultrafeedback", "allenai/ultrafeedback_binarized_cleaned"),
        (load_preferences, "orca_dpo_pairs", "Intel/orca_dpo_pairs"),
    ):
        given = load(name, locate(hub_id, mirror), cache_dir=tmp_path)
        lines, hit = overlap(given, index)
        assert {line.benchmark for line in lines} == set(index.names)
        assert len(hit) == len(given.dataset) > 90
        assert not hit.any(), [line for line in lines if line.hit]
