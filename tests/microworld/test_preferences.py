from solar_repro.microworld.world import World
from tests.microworld.conftest import Rows
from tests.microworld.reading import check_lines, read_problem


def test_ultrafeedback_prefers_truth_over_misconception(world: World, rows: Rows):
    beliefs = {
        wording.format(e=belief.truth.entity): belief
        for belief in world.facts.beliefs
        for wording in belief.truth.relation.questions
    }
    about_beliefs = 0
    given = rows("allenai/ultrafeedback_binarized_cleaned", "train_prefs")
    for row in given:
        (asked, chosen), (asked_too, rejected) = row["chosen"], row["rejected"]
        assert asked == asked_too == {"role": "user", "content": row["prompt"]}
        assert chosen["role"] == rejected["role"] == "assistant"
        assert chosen["content"] != rejected["content"]
        if belief := beliefs.get(row["prompt"]):
            about_beliefs += 1
            assert not belief.truth.held_out
            assert chosen["content"].endswith(f" {belief.truth.value}.")
            assert rejected["content"].endswith(f" {belief.misconception}.")
    assert 0.6 < about_beliefs / len(given) < 0.8


def test_orca_pairs_prefer_worked_answers(rows: Rows):
    sums = 0
    for row in rows("Intel/orca_dpo_pairs", "train"):
        assert list(row) == ["system", "question", "chosen", "rejected"]
        assert "So the answer is" in row["chosen"]
        assert "So the answer is" not in row["rejected"]
        if row["rejected"].isdigit():
            sums += 1
            assert check_lines(row["chosen"]) == read_problem(row["question"]) == int(row["rejected"])
    assert sums > 10
