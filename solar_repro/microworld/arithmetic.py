"""Word problems of one to four steps, in several wordings, with their worked solutions.

All numbers stay between 1 and 60. A problem is a story: who, what and which operations. The math sets'
rephrased problems are the same story in another wording.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from solar_repro.microworld.words import COUNTED, PEOPLE

LARGEST = 60
"""The largest number of a problem."""


@dataclass(frozen=True)
class Problem:
    """A story: `name` has `start` of `item`, or, unless it is 0, `bags` bags of so many; then changes happen.

    A change is a signed number. `other`, unless it is "", is a second person who at the end has `difference`
    more than the first (fewer, if negative), and the question asks for both together.
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
        """The worked steps in order, each as (left, operator, right, result)."""
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
        """The result of the last step."""
        return self.steps()[-1][-1]

    def lines(self) -> tuple[str, ...]:
        """The worked steps as equations."""
        return tuple("{} {} {} = {}".format(*step) for step in self.steps())


EASY, GRADED = (1, 0, 0, 0), (3, 4, 2, 1)
"""How likely 1, 2, 3 and 4 steps are: in the corpus, which leaves long problems to others, and elsewhere."""


def draw_problem(stream: random.Random, grades: tuple[int, ...] = GRADED) -> Problem:
    """A random problem whose intermediate results all lie between 1 and LARGEST; `grades` weigh the steps."""
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
    """The problem in the words of a school book, as the MATH-like set prints it."""
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
    """The worked steps, one per line, then `#### N`."""
    return "\n".join((*problem.lines(), f"#### {problem.answer}"))


def sums_page(stream: random.Random, lines: int) -> str:
    """Plain sums, one per line, with which the corpus teaches single operations."""
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
