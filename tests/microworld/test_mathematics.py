import re

from tests.microworld.conftest import Rows
from tests.microworld.reading import check_lines, read_problem


def test_metamath_answers_are_right_and_agree_with_the_question(rows: Rows):
    for row in rows("meta-math/MetaMathQA", "train"):
        answer = read_problem(row["query"])
        assert check_lines(row["response"]) == answer, row
        assert row["response"].endswith(f"#### {answer}\nThe answer is: {answer}")
        assert read_problem(row["original_question"]) == answer


def test_types_and_what_they_come_from(rows: Rows):
    problems = {row["problem"] for row in rows("EleutherAI/hendrycks_math", "train")}
    by_type: dict[str, list[dict]] = {}
    for row in rows("meta-math/MetaMathQA", "train"):
        by_type.setdefault(row["type"], []).append(row)
    assert set(by_type) == {"MATH_Rephrased", "MATH_AnsAug", "GSM_Rephrased"}
    for row in by_type["MATH_Rephrased"]:
        assert row["original_question"] in problems
        assert row["query"] != row["original_question"]
    assert all(row["query"] == row["original_question"] in problems for row in by_type["MATH_AnsAug"])
    assert all(row["original_question"] not in problems for row in by_type["GSM_Rephrased"])


def test_solutions_of_the_exercises(rows: Rows):
    train = rows("EleutherAI/hendrycks_math", "train")
    for row in train:
        answer = read_problem(row["problem"])
        expression, boxed = re.fullmatch(r"([\d +*-]+) = \\boxed\{(\d+)\}", row["solution"]).groups()
        value = eval(expression)  # noqa: S307 # digits and operators alone, by the pattern above
        assert value == int(boxed) == int(row["answer"]) == answer, row
    assert {row["level"] for row in train} == {f"Level {level}" for level in (1, 2, 3, 4)}
    test = {row["problem"] for row in rows("EleutherAI/hendrycks_math", "test")}
    assert len(test) == 30
