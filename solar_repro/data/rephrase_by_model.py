"""Synthetic mathematics by a language model, in MetaMath's way (Yu et al. 2023).

The model gets eight examples, rephrases a problem and answers its own rephrasing, which is kept only if the
final answer equals that of the original.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from solar_repro.data.answers import MARK, final_answer, same_answer
from solar_repro.data.report import RowReport, drop
from solar_repro.terminal.progress import Progress

WAVE = 128
"""Requests that are given to `Complete` at once."""

EXAMPLES = (
    (
        "What is the sum of all positive divisors of $18$?",
        "If all the positive divisors of $18$ are added together, what number is obtained?",
    ),
    (
        "How many three-digit numbers are divisible by $7$?",
        "Determine the count of numbers with exactly three digits that are multiples of $7$.",
    ),
    ("Solve for $x$: $3x - 5 = 16$.", "For which value of $x$ does the equation $3x - 5 = 16$ hold?"),
    (
        "A bag holds 4 red and 6 blue marbles. Two are drawn without replacement. "
        "What is the probability that both are red?",
        "From a bag with 4 red marbles and 6 blue ones, two are taken out one after the other and not put "
        "back. Find the probability that each of them is red.",
    ),
    (
        "Find the area of a triangle with sides of length $13$, $14$ and $15$.",
        "The side lengths of a triangle are $13$, $14$ and $15$. What is its area?",
    ),
    (
        "Let $f(x) = 2x^2 - 3x + 1$. What is $f(-2)$?",
        "The function $f$ is given by $f(x) = 2x^2 - 3x + 1$. Evaluate it at $x = -2$.",
    ),
    (
        "Simplify $\\sqrt{72} + \\sqrt{50}$.",
        "Write the sum $\\sqrt{72} + \\sqrt{50}$ in its simplest radical form.",
    ),
    (
        "What is the remainder when $2^{10}$ is divided by $11$?",
        "Dividing $2^{10}$ by $11$ leaves which remainder?",
    ),
)

REPHRASE = "You are an AI assistant to help me rephrase questions. Follow the given examples.\n\n" + "".join(
    f"Question: {question}\nRephrase the above question: {rephrased}\n\n" for question, rephrased in EXAMPLES
)
ANSWER = (
    "Below is a mathematics problem. Solve it step by step and end with a line of the form "
    f'"{MARK} …" that gives the final answer alone.\n\nProblem: '
)


@dataclass(frozen=True)
class Request:
    """What a model is asked. Equal requests have the same answer."""

    prompt: str
    sample: int
    """A number that tells several answers to one prompt apart."""
    seed: int
    temperature: float


Complete = Callable[[Sequence[Request]], Iterable[str | None]]
"""Yields the answers to requests, in order; None for a request that was not answered."""


def generate(
    problems: Iterable[dict[str, str]],
    complete: Complete,
    *,
    seed: int,
    samples: int,
    temperature: float,
    report: RowReport,
) -> Iterator[dict[str, str]]:
    """Yield up to `samples` rows in MetaMathQA's columns for each problem (`problem`, `solution`, `answer`).

    The report counts what was `asked`, `accepted` and, by reason, dropped.
    """
    report |= {"asked": 0, "accepted": 0}
    report.setdefault("dropped", {})
    tasks = [(row, sample) for row in problems for sample in range(samples)]
    ask = partial(Request, seed=seed, temperature=temperature)
    with Progress("synthetic mathematics", len(tasks), "rows") as progress:
        source = iter(tasks)
        while wave := list(islice(source, WAVE)):
            report["asked"] += len(wave)
            for row in _rephrased_rows(wave, complete, ask, report):
                report["accepted"] += 1
                yield row
            progress.advance(len(wave), f"{report['accepted']} accepted")


def _rephrased_rows(
    wave: list[tuple[dict[str, str], int]],
    complete: Complete,
    ask: Callable[[str, int], Request],
    report: RowReport,
) -> Iterator[dict[str, str]]:
    """The accepted rows of some problems: all are rephrased, then all rephrasings are answered."""
    solvable = []
    for row, sample in wave:
        # Normalisation often damages the column of answers, but not the box in the solution.
        gold = final_answer(row["solution"]) or row["answer"].strip()
        if gold:
            solvable.append((row["problem"], sample, gold))
        else:
            drop(report, "original without a final answer")
    prompts = [
        ask(f"{REPHRASE}Question: {problem}\nRephrase the above question:", sample)
        for problem, sample, _ in solvable
    ]
    rephrased = []
    for (problem, sample, gold), text in zip(solvable, complete(prompts), strict=True):
        query = _first_rephrasing(text)
        if text is None:
            drop(report, "no response")
        elif not query:
            drop(report, "empty rephrasing")
        elif query == problem.strip():
            drop(report, "rephrasing is the original")
        else:
            rephrased.append((problem, sample, gold, query))
    prompts = [ask(ANSWER + query, sample) for _, sample, _, query in rephrased]
    for (problem, _, gold, query), text in zip(rephrased, complete(prompts), strict=True):
        answer = final_answer(text) if text else None
        if text is None:
            drop(report, "no response")
        elif answer is None:
            drop(report, "response without a final answer")
        elif not same_answer(answer, gold):
            drop(report, "another final answer")
        else:
            yield {
                "query": query,
                "response": text.strip() if MARK in text else f"{text.strip()}\n{MARK} {answer}",
                "type": "MATH_Rephrased",
                "original_question": problem,
            }


def _first_rephrasing(text: str | None) -> str:
    """The rephrasing that a model wrote, without the further examples that models go on to write."""
    return (text or "").partition("\nQuestion:")[0].removeprefix("Rephrase the above question:").strip()
