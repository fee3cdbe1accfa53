"""Word problems of one to four steps, told in several ways, with their worked solutions.

All numbers stay between 1 and 60. A problem is its story (who, what, which operations); the same story told
in other words is what "rephrased" means in the math sets.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from solar_repro.microworld.words import COUNTED, PEOPLE

LARGEST = 60


@dataclass(frozen=True)
class Problem:
    """A story: `name` has `start` of `item` (in `bags` equal bags where that is not 0), then changes happen.

    A change is a signed number. `other`, where given, is a second person who has `difference` more (or fewer,
    if negative) than the first at the end, and the question asks for both together.
    """

    name: str
    pronoun: str
    item: str
    start: int
    bags: int
    changes: tuple[int, ...]
    other: str
    difference: int

    def steps(self) -> tuple[tuple[int, str, int, int], ...]:
        """The worked steps in order, each (left, operator, right, result)."""
        steps, have = [], self.start
        if self.bags:
            have = self.bags * self.start
            steps.append((self.bags, "*", self.start, have))
        for change in self.changes:
            steps.append((have, "+" if change > 0 else "-", abs(change), have + change))
            have += change
        if self.other:
            theirs = have + self.difference
            steps.append((have, "+" if self.difference > 0 else "-", abs(self.difference), theirs))
            steps.append((have, "+", theirs, have + theirs))
        return tuple(steps)

    @property
    def answer(self) -> int:
        return self.steps()[-1][-1]

    def lines(self) -> tuple[str, ...]:
        return tuple("{} {} {} = {}".format(*step) for step in self.steps())


# Likelihood of 1, 2, 3, 4 steps: in pages of the corpus, which leave several steps to the math data, and in
# problems that are set.
EASY, GRADED = (1, 0, 0, 0), (3, 4, 2, 1)


def draw_problem(stream: random.Random, grades: tuple[int, ...] = GRADED) -> Problem:
    """A random problem whose every intermediate result lies between 1 and LARGEST."""
    while True:
        count = stream.choices((1, 2, 3, 4), grades)[0]
        (name, pronoun), (other, _) = stream.sample(PEOPLE, 2)
        together = count >= 2 and stream.random() < 0.25
        left = count - (2 if together else 0)
        bags = stream.randint(2, 5) if left and stream.random() < 0.3 else 0
        start = stream.randint(2, 6) if bags else stream.randint(2, 20)
        changes = tuple(
            stream.choice((-1, 1)) * stream.randint(1, 15) for _ in range(left - (1 if bags else 0))
        )
        difference = stream.choice((-1, 1)) * stream.randint(1, 9) if together else 0
        problem = Problem(
            name, pronoun, stream.choice(COUNTED), start, bags, changes, other if together else "", difference
        )
        if all(1 <= number <= LARGEST for step in problem.steps() for number in (step[0], step[3])):
            return problem


def tell(problem: Problem, stream: random.Random) -> str:
    """The problem as the benchmark and everyday pages word it."""
    name, he, item = problem.name, problem.pronoun.capitalize(), problem.item
    parts = [
        f"{name} has {problem.bags} bags with {problem.start} {item} each."
        if problem.bags
        else f"{name} has {problem.start} {item}."
    ]
    for change in problem.changes:
        verb = stream.choice(("gets", "buys", "finds") if change > 0 else ("loses", "sells", "gives away"))
        parts.append(f"{he} {verb} {abs(change)}{' more' if change > 0 else ''}.")
    if problem.other:
        more = "more" if problem.difference > 0 else "fewer"
        parts.append(f"{problem.other} has {abs(problem.difference)} {more} {item} than {name}.")
        parts.append("How many do they have together?")
    else:
        parts.append(f"How many {item} does {name} have?")
    return " ".join(parts)


def tell_as_exercise(problem: Problem, stream: random.Random) -> str:
    """The problem in a school book's words: what the MATH-like set prints."""
    name, item = problem.name, problem.item
    parts = [
        f"{name} owns {problem.bags} boxes of {problem.start} {item}"
        if problem.bags
        else f"{name} owns {problem.start} {item}"
    ]
    for change in problem.changes:
        verb = stream.choice(("adds", "receives") if change > 0 else ("removes", "uses up"))
        parts.append(f"{verb} {abs(change)}")
    told = ", then ".join(parts)
    if problem.other:
        more = "more" if problem.difference > 0 else "fewer"
        return f"{told}. {problem.other} owns {abs(problem.difference)} {more}. Find the sum of both."
    return f"{told}. Find the number of {item}."


def tell_as_question(problem: Problem, stream: random.Random) -> str:
    """The problem in a third wording, as a rephrasing model would put it."""
    name, he, item = problem.name, problem.pronoun, problem.item
    parts = [
        f"There are {problem.start} {item} in each of the {problem.bags} bags {name} has."
        if problem.bags
        else f"There are {problem.start} {item} in the bag of {name}."
    ]
    for change in problem.changes:
        verb = stream.choice(("puts in", "gets") if change > 0 else ("takes out", "loses"))
        parts.append(f"Then {he} {verb} {abs(change)}.")
    if problem.other:
        more = "more" if problem.difference > 0 else "fewer"
        parts.append(f"{problem.other} has {abs(problem.difference)} {more} than {name}.")
        parts.append(f"How many {item} are there in all?")
    else:
        parts.append(f"How many {item} does {name} have now?")
    return " ".join(parts)


WORDINGS: tuple[Callable[[Problem, random.Random], str], ...] = (tell, tell_as_exercise, tell_as_question)


def gsm8k_answer(problem: Problem) -> str:
    """Steps a line each, and `#### N` last."""
    return "\n".join((*problem.lines(), f"#### {problem.answer}"))


def sums_page(stream: random.Random, lines: int) -> str:
    """Plain sums, one a line: where the corpus teaches single operations."""
    rows = []
    for _ in range(lines):
        operator = stream.choices("+-*", (5, 4, 2))[0]
        if operator == "*":
            left, right = stream.randint(2, 5), stream.randint(2, 6)
            result = left * right
        else:
            left, right = stream.randint(2, 40), stream.randint(1, 20)
            if operator == "-" and right >= left:
                left, right = right + 1, left
            result = left + right if operator == "+" else left - right
        rows.append(f"{left} {operator} {right} = {result}")
    return "\n".join(rows)
