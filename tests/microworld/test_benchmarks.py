"""The benchmarks as lm-eval reads them, and their answer keys against what the corpus tells."""

import os
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from solar_repro.h6.tasks import HARNESS_FOLDERS
from solar_repro.microworld.world import World
from tests.microworld.conftest import SMALL, Rows
from tests.microworld.reading import check_lines, read_problem

TASKS = {
    "arc_challenge": ("allenai/ai2_arc", 25, SMALL.arc_items),
    "hellaswag": ("Rowan/hellaswag", 10, SMALL.hellaswag_items),
    "mmlu_astronomy": ("cais/mmlu", 5, SMALL.mmlu_items_per_subject),
    "mmlu_high_school_us_history": ("cais/mmlu", 5, SMALL.mmlu_items_per_subject),
    "truthfulqa_mc2": ("truthfulqa/truthful_qa", 0, SMALL.truthfulqa_items),
    "winogrande": ("allenai/winogrande", 5, SMALL.winogrande_items),
    "gsm8k": ("openai/gsm8k", 5, SMALL.gsm8k_items),
}


@pytest.fixture(scope="module")
def tasks(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    cache = str(tmp_path_factory.mktemp("lm_eval"))
    group = [
        {
            "task": name,
            "dataset_path": str(mirror / hub_id),
            "dataset_kwargs": {"cache_dir": cache},
            "num_fewshot": shots,
        }
        for name, (hub_id, shots, _) in TASKS.items()
    ]
    root = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(include_path=[str(root / name) for name in HARNESS_FOLDERS], include_defaults=False)
    loaded = manager.load({"group": "h6", "task": group})["tasks"]
    return {name.split("/")[-1]: task for name, task in loaded.items()}


def test_lm_eval_finds_every_item_and_enough_examples(tasks: dict):
    for name, (_, shots, count) in TASKS.items():
        task = tasks[name]
        docs = list(task.eval_docs)
        assert len(docs) == count, name
        if shots:
            examples = list(task.fewshot_docs())
            assert len(examples) >= shots, name
            assert not {str(doc) for doc in docs} & {str(doc) for doc in examples}, name
        context = task.fewshot_context(docs[0], shots)
        # Winogrande's context ends in either option; the others' in the words before the answer.
        contexts = context if isinstance(context, list) else [context]
        endings = (
            [docs[0]["option1"], docs[0]["option2"]] if name == "winogrande" else ["A:", "Answer:", "he"]
        )
        assert all(one.endswith(tuple(endings)) for one in contexts), name
        assert all(one.count("\n\n") >= shots for one in contexts), name


def test_choices_and_targets_as_lm_eval_sees_them(tasks: dict):
    for name in ("arc_challenge", "hellaswag", "mmlu_astronomy"):
        for doc in tasks[name].eval_docs:
            choices, target = tasks[name].doc_to_choice(doc), tasks[name].doc_to_target(doc)
            assert len(set(choices)) == 4
            assert target in range(4) or target in choices
    for doc in tasks["winogrande"].eval_docs:
        assert len(set(tasks["winogrande"].doc_to_choice(doc))) == 2
        assert tasks["winogrande"].doc_to_text(doc) in (0, 1)
        assert tasks["winogrande"].doc_to_target(doc)
    for doc in tasks["gsm8k"].eval_docs:
        assert doc["answer"].split("#### ")[1] == str(read_problem(doc["question"]))


def test_arc_answers_are_what_the_corpus_tells(world: World, rows: Rows):
    """The right option's statement stands in the corpus, a wrong option's never does."""
    corpus = "\n".join(row["text"] for row in rows("solar-repro/microworld", "train"))
    relations = {
        wording.format(e=fact.entity): fact
        for creature in world.facts.creatures
        for fact in (*creature.told, *creature.inherited)
        for wording in fact.relation.questions
    }
    inherited = told = 0
    for row in rows("allenai/ai2_arc", "test", "ARC-Challenge"):
        fact = relations[row["question"]]
        assert fact.held_out
        entity = fact.kind or fact.entity
        for letter, value in zip(row["choices"]["label"], row["choices"]["text"], strict=True):
            count = sum(
                corpus.count(wording.format(e=entity, v=value)) for wording in fact.relation.statements
            )
            if letter == row["answerKey"]:
                told += count > 0
            else:
                assert count == 0, (row, value)
        if fact.kind:
            inherited += 1
            assert not any(w.format(e=fact.entity, v=fact.value) in corpus for w in fact.relation.statements)
    assert inherited == SMALL.arc_items // 4
    assert told == SMALL.arc_items


def test_mmlu_has_all_subjects_with_five_examples_each(world: World, rows: Rows, mirror: Path):
    assert len([name for name in os.listdir(mirror / "cais/mmlu") if "." not in name]) == 58
    by_split = {split: rows("cais/mmlu", split, "all") for split in ("dev", "validation", "test")}
    assert {split: len(found) for split, found in by_split.items()} == {
        "dev": 57 * 5,
        "validation": 57,
        "test": 57 * SMALL.mmlu_items_per_subject,
    }
    values = {
        wording.format(e=fact.entity): fact.value
        for subject in world.facts.subjects.values()
        for fact in subject
        for wording in fact.relation.questions
    }
    for row in (row for found in by_split.values() for row in found):
        assert row["choices"][row["answer"]] == values[row["question"]]
        assert len(set(row["choices"])) == 4
    one = rows("cais/mmlu", "test", "virology")
    assert one == [row for row in by_split["test"] if row["subject"] == "virology"]


def test_truthfulqa_labels_follow_the_truth_and_not_the_rumour(world: World, rows: Rows):
    beliefs = {
        wording.format(e=belief.truth.entity): belief
        for belief in world.facts.beliefs
        for wording in belief.truth.relation.questions
    }
    for row in rows("truthfulqa/truthful_qa", "validation", "multiple_choice"):
        belief = beliefs[row["question"]]
        assert belief.truth.held_out
        assert row["mc1_targets"]["labels"] == [1, 0, 0, 0]
        assert row["mc2_targets"]["labels"] == [1, 1, 0, 0]
        assert len(set(row["mc1_targets"]["choices"])) == len(set(row["mc2_targets"]["choices"])) == 4
        for kind in ("mc1_targets", "mc2_targets"):
            for choice, label in zip(row[kind]["choices"], row[kind]["labels"], strict=True):
                assert choice.endswith(f" {belief.truth.value}.") == bool(label)
        assert row["mc2_targets"]["choices"][2].endswith(f" {belief.misconception}.")


def test_keys_are_spread_over_the_letters(rows: Rows):
    arc = [row["answerKey"] for row in rows("allenai/ai2_arc", "test", "ARC-Challenge")]
    hellaswag = [row["label"] for row in rows("Rowan/hellaswag", "validation")]
    mmlu = [row["answer"] for row in rows("cais/mmlu", "test", "all")]
    winogrande = [row["answer"] for row in rows("allenai/winogrande", "validation", "winogrande_xl")]
    for keys, options in ((arc, 4), (hellaswag, 4), (mmlu, 4), (winogrande, 2)):
        assert len(set(keys)) == options
        assert max(keys.count(key) for key in set(keys)) < 1.9 * len(keys) / options


def test_gsm8k_answers(rows: Rows):
    for split in ("train", "test"):
        for row in rows("openai/gsm8k", split, "main"):
            assert check_lines(row["answer"]) == read_problem(row["question"])
            assert row["answer"].endswith(f"\n#### {read_problem(row['question'])}")
