"""The two math sets: MATH-like problems with terse solutions, and MetaMathQA's rephrasings with steps."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from solar_repro.microworld.arithmetic import WORDINGS, Problem, tell, tell_as_exercise
from solar_repro.microworld.world import World


@dataclass(frozen=True)
class Exercise:
    """A problem of the MATH-like set, and its text there."""

    problem: Problem
    text: str


def exercises(world: World, split: str, count: int) -> list[Exercise]:
    """`count` different exercises of a split of the MATH-like set."""
    stream = world.stream(f"math/{split}")
    found: dict[str, Exercise] = {}
    while len(found) < count:
        problem, text = world.training_problem(stream, tell_as_exercise)
        found.setdefault(text, Exercise(problem, text))
    return list(found.values())


def hendrycks_rows(given: list[Exercise]) -> Iterator[dict[str, str]]:
    """Rows of EleutherAI/hendrycks_math. A solution is terse: one expression and the boxed answer."""
    for exercise in given:
        problem = exercise.problem
        yield {
            "problem": exercise.text,
            "level": f"Level {len(problem.steps())}",
            "type": "Counting & Probability" if problem.bags else "Prealgebra",
            "solution": f"{_expression(problem)} = \\boxed{{{problem.answer}}}",
            "answer": str(problem.answer),
        }


def metamath_rows(world: World, given: list[Exercise]) -> Iterator[dict[str, str]]:
    """Rows of meta-math/MetaMathQA: MATH_Rephrased and MATH_AnsAug of the exercises, and some GSM_Rephrased.

    Answers have one step per line and end as in the original set: `#### N`, then `The answer is: N`.
    """
    stream = world.stream("metamath")
    for number in range(world.settings.metamath_rows):
        kind = stream.choices(("MATH_Rephrased", "MATH_AnsAug", "GSM_Rephrased"), (7, 1, 2))[0]
        if kind == "GSM_Rephrased":
            problem, original = world.training_problem(stream, tell)
        else:
            exercise = given[number % len(given)]
            problem, original = exercise.problem, exercise.text
        query = original if kind == "MATH_AnsAug" else _rephrased(world, problem, original, stream)
        yield {"query": query, "response": response(problem), "type": kind, "original_question": original}


def response(problem: Problem) -> str:
    """A rephrasing model's answer: every step, the final number, and the sentence that MetaMath ends with."""
    return "\n".join((*problem.lines(), f"#### {problem.answer}", f"The answer is: {problem.answer}"))


def _rephrased(world: World, problem: Problem, original: str, stream: random.Random) -> str:
    """The problem in other words than the original's, and without 13 words in a row of a reserved one."""
    while True:
        text = stream.choice(WORDINGS)(problem, stream)
        if text != original and world.may_tell(text):
            return text


def _expression(problem: Problem) -> str:
    """The whole calculation as one expression, to be worked from the left."""
    steps = problem.steps()
    have = f"{problem.bags} * {problem.start}" if problem.bags else str(problem.start)
    for change in problem.changes:
        have += f" {'+' if change > 0 else '-'} {abs(change)}"
    if not problem.other:
        return have
    mine, theirs = steps[-1][0], steps[-1][2]
    return f"{mine} + {theirs}"
