"""Synthetic mathematics by rule: a problem in other words, with its solution set out in steps.

This serves where neither MetaMathQA nor a language model is at hand. The wording of the question changes; the
mathematics between `$` signs, every number and the final answer stay.
"""

import random
import re
from collections import Counter

from solar_repro.data.answers import MARK, final_answer

OTHER_WORDINGS = (
    (r"\bFind the value of\b", ("Determine the value of", "Work out the value of")),
    (r"\bFind the\b", ("Determine the", "Work out the")),
    (r"\bFind all\b", ("Determine all", "List all")),
    (r"\bFind\b", ("Determine", "Work out")),
    (r"\b(Compute|Evaluate|Calculate) the\b", ("Work out the", "Determine the")),
    (r"\b(Compute|Evaluate|Calculate)\b(?!:)", ("Work out the value of", "Determine the value of")),
    (r"\bWhat is the value of\b", ("What value has", "How much is")),
    (r"\bWhat is the\b", ("Which is the", "What would be the")),
    (r"\bwhat is the\b", ("which is the", "what would be the")),
    (r"\bHow many\b", ("What number of", "Exactly how many")),
    (r"\bhow many\b", ("what number of", "exactly how many")),
    (r"\bSuppose that\b", ("Assume that", "Let us suppose that")),
    (r"\bGiven that\b", ("Knowing that", "Assuming that")),
    (r"\bDetermine\b", ("Find", "Work out")),
    (r"\bSolve for\b", ("Find the solution for", "Solve the following for")),
    (r"\bSimplify\b", ("Write in its simplest form", "Bring to its simplest form")),
    (r"\bExpress your answer\b", ("Give your answer", "Write your answer")),
)
OPENINGS = (
    "Consider the following problem. ",
    "Here is a question to work through. ",
    "Think about this problem. ",
    "Answer the following question. ",
)
_MATH = re.compile(r"\$\$.*?\$\$|\$.*?\$|\\\[.*?\\\]|\[asy\].*?\[/asy\]", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def rephrase(problem: str, rng: random.Random) -> str:
    """Word a problem differently: with other phrases of `OTHER_WORDINGS`, or with an opening before it."""
    pieces, maths = _MATH.split(problem), _MATH.findall(problem)
    changed = [_reworded(piece, rng) for piece in pieces]
    if changed == pieces:
        changed[0] = rng.choice(OPENINGS) + changed[0]
    text = "".join(words + formula for words, formula in zip(changed, [*maths, ""], strict=True))
    if Counter(re.findall(r"\d+", text)) != Counter(re.findall(r"\d+", problem)):
        raise AssertionError(f"a rule changed a number of {problem!r}")
    return text


def _reworded(words: str, rng: random.Random) -> str:
    for pattern, wordings in OTHER_WORDINGS:
        found = re.search(pattern, words)
        if found:
            before, after = words[: found.start()], words[found.end() :]
            return _reworded(before, rng) + rng.choice(wordings) + _reworded(after, rng)
    return words


def in_steps(solution: str) -> str | None:
    """The solution with one step per line, ending "The answer is: …"; None if it has no final answer."""
    answer = final_answer(solution)
    if answer is None:
        return None
    steps, waiting = [], ""
    for sentence in _SENTENCE_END.split(solution.strip()):
        waiting = f"{waiting} {sentence}".strip()
        if not _open_formula(waiting):
            steps.append(f"Step {len(steps) + 1}: {waiting}")
            waiting = ""
    if waiting:
        steps.append(f"Step {len(steps) + 1}: {waiting}")
    return "\n".join([*steps, f"{MARK} {answer}"])


def _open_formula(text: str) -> bool:
    """Whether a text ends inside a formula or an environment."""
    plain = text.replace("\\$", "")
    pairs = (("\\[", "\\]"), ("\\begin{", "\\end{"), ("[asy]", "[/asy]"), ("{", "}"))
    return plain.count("$") % 2 == 1 or any(plain.count(first) > plain.count(last) for first, last in pairs)
