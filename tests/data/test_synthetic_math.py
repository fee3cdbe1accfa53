import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solar_repro.data.answers import final_answer, same_answer
from solar_repro.data.locate import folder_location, locate
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.rephrase_by_rule import in_steps, rephrase
from solar_repro.data.sources import load_instruction, load_preferences
from solar_repro.data.synthetic_math import math_problems, synthesise, write_math_sets
from solar_repro.errors import UserError

PROBLEMS = [
    {
        "problem": f"Find the value of ${n} + 1$.",
        "solution": f"It is $\\boxed{{{n + 1}}}$.",
        "answer": str(n + 1),
    }
    for n in range(20)
]


NOTHING = NgramIndex({})


def metamath(question: str, kind: str = "MATH_Rephrased", **change: str | None) -> dict[str, str | None]:
    row = {"query": f"new {question}", "response": "So.\nThe answer is: 1", "type": kind}
    return row | {"original_question": question} | change


def test_problems_of_all_subjects(write_set, mirror):
    for subject in ("algebra", "geometry"):
        write_set("org/math", [{"problem": subject, "solution": "s", "level": "1"}], config=subject)
    assert math_problems(locate("org/math", mirror)) == [
        {"problem": subject, "solution": "s", "answer": ""} for subject in ("algebra", "geometry")
    ]


def test_damaged_problems_are_counted_and_named(write_set, mirror):
    lines = b'{"problem": "p", "solution": "s"}\n{"problem": null, "solution": "s"}\n{"problem": "\xff"}\n'
    write_set("org/math", lines, suffix="jsonl", config="algebra")
    report = {}
    assert len(math_problems(locate("org/math", mirror), report=report)) == 1
    assert report["dropped"] == {"no problem": 1, "broken UTF-8": 1}
    assert report["examples"]["broken UTF-8"] == ["algebra/train-00000-of-00001.jsonl row 2"]


def test_metamath_joined_to_math(write_set, mirror, tmp_path, cache):
    questions = [row["problem"] for row in PROBLEMS]
    rows = [
        metamath(questions[0]),
        metamath(questions[1], "MATH_AnsAug"),
        metamath(questions[2], "GSM_Rephrased"),
        metamath(questions[3] + "\n"),
        metamath("not in MATH"),
        metamath(questions[4], response=None),
    ]
    write_set("meta-math/MetaMathQA", rows)
    found, report = synthesise("metamath", PROBLEMS, metamath=locate("meta-math/MetaMathQA", mirror))
    assert [row["query"] for row in found] == [rows[at]["query"] for at in (0, 1, 3, 4)]
    out = tmp_path / "out"
    limits = {"maximum_instruct": 3, "maximum_alignment": None, "seed": 0, "known": NOTHING, "report": report}
    write_math_sets(out, found, PROBLEMS, **limits)
    assert report["dropped"] == {
        "no MATH seed": 1,
        "null or empty value": 1,
        "alignment: not rephrased": 1,
        "alignment: original question not in MATH": 1,
    }
    assert (report["instruct"], report["alignment"]) == (3, 2)
    pairs = load_preferences("synth_math_alignment", folder_location(out / "alignment"), cache_dir=cache)
    assert [
        (row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in pairs.dataset
    ] == [(rows[at]["query"], rows[at]["response"], PROBLEMS[at]["solution"]) for at in (0, 3)]
    instruct = load_instruction("synth_math_instruct", folder_location(out / "instruct"), cache_dir=cache)
    assert {row["messages"][0]["content"] for row in instruct.dataset} < {row["query"] for row in rows}


def test_samples_are_seeded(tmp_path):
    rows, report = synthesise("rule", PROBLEMS)

    def queries(name, seed):
        write_math_sets(
            tmp_path / name,
            rows,
            PROBLEMS,
            maximum_instruct=5,
            maximum_alignment=5,
            seed=seed,
            known=NOTHING,
            report=report,
        )
        return pq.read_table(next((tmp_path / name / "instruct").glob("*.parquet")))["query"].to_pylist()

    assert queries("a", 1) == queries("b", 1) != queries("c", 2)


LEAK = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
KNOWN = NgramIndex({"ARC": [pa.array(["none of it"])], "MMLU": [pa.array([LEAK])]})


@pytest.mark.parametrize("method", ["rule", "metamath", "generate"])
def test_seeds_and_rows_of_benchmarks_go_where_that_is_asked(write_set, mirror, tmp_path, method):
    """A rephrased seed no longer shares an n-gram, so it has to go before."""
    problem = {"problem": LEAK, "solution": "\\boxed{1}", "answer": "1"}
    leaking_solution = {"problem": "How many?", "solution": LEAK + " \\boxed{1}", "answer": "1"}
    problems = [*PROBLEMS[:3], problem, leaking_solution]
    asked = [metamath(row["problem"]) for row in problems]
    asked.append(metamath(PROBLEMS[0]["problem"], response=LEAK + " The answer is: 1"))
    write_set("meta-math/MetaMathQA", asked)

    def complete(requests):
        for request in requests:
            assert "clips" not in request.prompt
            number = re.findall(r"\$(\d+) \+", request.prompt)[-1]
            rephrased = f"Add one to it: ${number} + 1$"
            yield f"The answer is: {int(number) + 1}" if "Below is" in request.prompt else rephrased

    sources = {"metamath": locate("meta-math/MetaMathQA", mirror), "complete": complete}
    rows, report = synthesise(method, problems, known=KNOWN, **sources)
    assert [row["original_question"] for row in rows] == [row["problem"] for row in PROBLEMS[:3]]
    assert report["dropped"]["seed: 13-gram of MMLU"] == 2
    assert report["dropped"].get("row: 13-gram of MMLU", 0) == (1 if method == "metamath" else 0)
    if method != "generate":
        rows, report = synthesise(method, problems, **sources)
        limits = {"maximum_instruct": None, "maximum_alignment": None, "seed": 0}
        write_math_sets(tmp_path / "out", rows, problems, **limits, known=KNOWN, report=report)
        assert report["overlap/instruct"] == {"ARC": 0, "MMLU": 2}
        # Of MetaMathQA's rows a third is hit in the original solution, which stands as `rejected`.
        assert report["overlap/alignment"] == {"ARC": 0, "MMLU": 3 if method == "metamath" else 2}


@pytest.mark.parametrize("method", ["rule", "metamath", "generate"])
def test_gsm8k_seeds_are_refused(write_set, mirror, method):
    write_set("openai/gsm8k", [{"question": "How many clips did Natalia sell?"}], config="main")
    write_set("openai/gsm8k", [{"question": "x"}], split="test", config="main")
    leak = "how many clips did natalia sell"
    write_set("meta-math/MetaMathQA", [metamath(leak)])
    with pytest.raises(UserError, match=r"1 seed\(s\) are GSM8K questions.*natalia"):
        synthesise(
            method,
            [{"problem": leak, "solution": "\\boxed{1}", "answer": "1"}],
            metamath=locate("meta-math/MetaMathQA", mirror),
            complete=lambda requests: pytest.fail("a GSM8K seed was sent to the model"),
            gsm8k=locate("openai/gsm8k", mirror),
        )


def test_nothing_to_work_with(write_set, mirror, tmp_path):
    unsolved = [row | {"solution": ""} for row in PROBLEMS]
    with pytest.raises(UserError, match=r"no solution.*math_seed_split"):
        synthesise("rule", unsolved)
    with pytest.raises(UserError, match="needs the set meta-math/MetaMathQA"):
        synthesise("metamath", PROBLEMS)
    with pytest.raises(UserError, match="needs a server or a model"):
        synthesise("generate", PROBLEMS)
    rows, report = synthesise("rule", PROBLEMS)
    with pytest.raises(UserError, match="no row could be joined"):
        write_math_sets(
            tmp_path / "out",
            rows,
            unsolved,
            maximum_instruct=1,
            maximum_alignment=1,
            seed=0,
            known=NOTHING,
            report=report,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("problem", "readings"),
    [
        ("Find the sum.", {"Determine the sum.", "Work out the sum."}),
        ("If $x=1$, what is the sum?", {"If $x=1$, which is the sum?", "If $x=1$, what would be the sum?"}),
        # What stands between dollars is not touched.
        (
            "How many? $\\text{Find the}$",
            {"What number of? $\\text{Find the}$", "Exactly how many? $\\text{Find the}$"},
        ),
    ],
)
def test_turns_of_phrase(problem, readings):
    assert {rephrase(problem, random.Random(seed)) for seed in range(30)} == readings


def test_a_problem_without_a_turn_of_phrase_gets_an_opening():
    rephrased = rephrase("Is $1 < 2$?", random.Random(0))
    assert rephrased.endswith(" Is $1 < 2$?")


def test_steps():
    solution = "First $a. B$ is $2$. Then \\[x = 1. Y\\] holds. So $\\boxed{3}$."
    assert in_steps(solution) == (
        "Step 1: First $a. B$ is $2$.\nStep 2: Then \\[x = 1. Y\\] holds.\nStep 3: So $\\boxed{3}$.\n"
        "The answer is: 3"
    )
    assert in_steps("No final answer.") is None


def test_real_problems_by_rule(shared):
    problems = math_problems(locate("EleutherAI/hendrycks_math", shared / "hub"), "test")[:600]
    rows, report = synthesise("rule", problems, seed=1)
    assert (len(rows), report["dropped"]) == (600, {})
    assert rows == synthesise("rule", problems, seed=1)[0] != synthesise("rule", problems, seed=2)[0]
    for row, problem in zip(rows, problems, strict=True):
        assert row["query"] != row["original_question"] == problem["problem"]
        assert sorted(re.findall(r"\d+", row["query"])) == sorted(re.findall(r"\d+", problem["problem"]))
        # Every word of the solution is there, in order, with a step's heading here and there.
        body = row["response"].rpartition("\nThe answer is:")[0]
        assert re.sub(r"(^|\n)Step \d+: ", " ", body).split() == problem["solution"].split()
        assert final_answer(row["response"]) == final_answer(problem["solution"])
    # One in thirty answers of that column is damaged ("\\iny", "461415" for "4,6,14,15").
    agree = [same_answer(final_answer(rows[at]["response"]), problems[at]["answer"]) for at in range(200)]
    assert sum(agree) >= 190
