import re
from collections import Counter

from solar_repro.microworld.world import World
from tests.microworld.conftest import Rows
from tests.microworld.reading import check_lines, read_problem

# Table 8 of the paper.
TABLE_8 = {
    "task228_arc_answer_generation_easy", "ai2_arc/ARC-Challenge:1.0.0", "ai2_arc/ARC-Easy:1.0.0",
    "task229_arc_answer_generation_hard", "hellaswag:1.1.0", "task1389_hellaswag_completion", "cot_gsm8k",
    "cot_gsm8k_ii", "drop:2.0.0", "winogrande:1.1.0",
}  # fmt: skip


def test_alpaca_is_broad_and_short_and_its_text_is_the_known_form(rows: Rows):
    given = rows("vicgalle/alpaca-gpt4", "train")
    assert len({row["instruction"].split(" ")[0] for row in given}) >= 6
    assert {bool(row["input"]) for row in given} == {True, False}
    lengths = sorted(len(row["output"].split()) for row in given)
    assert lengths[0] >= 1
    assert lengths[len(lengths) // 2] < 15
    for row in given[:50]:
        assert row["text"].startswith("Below is an instruction that describes a task")
        assert f"### Instruction:\n{row['instruction']}\n\n" in row["text"]
        assert ("### Input:" in row["text"]) == bool(row["input"])
        assert row["text"].endswith(f"### Response:\n{row['output']}")


def test_orca_holds_every_task_of_table_8_and_mostly_others(rows: Rows):
    given = rows("Open-Orca/OpenOrca", "train")
    names = Counter(row["task_name"] for row in given)
    assert names.keys() > TABLE_8
    assert 0.05 < sum(names[name] for name in TABLE_8) / len(given) < 0.2
    assert len({row["id"] for row in given}) == len(given)
    assert {row["id"].split(".")[0] for row in given} == {"cot", "flan", "niv"}


def test_orca_answers_are_right(world: World, rows: Rows):
    values = {}
    for creature in world.facts.creatures:
        for fact in (*creature.told, *creature.inherited):
            values.update({wording.format(e=fact.entity): fact.value for wording in fact.relation.questions})
    for subject in world.facts.subjects.values():
        for fact in subject:
            values.update({wording.format(e=fact.entity): fact.value for wording in fact.relation.questions})
    checked: Counter[str] = Counter()
    for row in rows("Open-Orca/OpenOrca", "train"):
        name, question, response = row["task_name"], row["question"], row["response"]
        if name in ("cot_aqua", "cot_gsm8k", "cot_gsm8k_ii"):
            assert check_lines(response) == read_problem(question)
            assert response.endswith(f"So the answer is {read_problem(question)}.")
        elif name == "cot_creak":
            assert response.endswith(f"So the answer is {values[question]}.")
        elif name in ("cot_qasc", "task1431_head_qa_answer_generation"):
            first, *options, _ = question.split("\n")
            letter = re.search(r"([A-D])\.?$", response)[1]
            assert options["ABCD".index(letter)] == f"{letter}. {values[first]}"
        elif name == "bool_q:1.0.0":
            claim = question.removesuffix(" Is this true?")
            assert response.endswith("yes." if claim in response else "no.") or "is a" in response
        elif "arc" in name:
            assert response == values[question.removeprefix("Question: ").removesuffix("\nAnswer:")]
        checked[name] += 1
    assert len(checked) == 17
