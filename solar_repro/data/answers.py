"""Final answers of worked mathematics problems, and whether two of them are equal."""

import re

from math_verify import parse, verify

MARK = "The answer is:"
"""The words before the final answer of a solution in MetaMathQA."""


def final_answer(text: str) -> str | None:
    """The answer that a solution ends with; None where it has none.

    It is what follows the last "The answer is:", or else the content of the last \\boxed{}.
    """
    before, mark, after = text.rpartition(MARK)
    if mark:
        return after.strip().removesuffix(".").strip() or None
    start = before.rfind("\\boxed") if before else text.rfind("\\boxed")
    return _in_braces(text[start + len("\\boxed") :]) if start >= 0 else None


def _in_braces(text: str) -> str | None:
    """The content of the braces that `text` begins with, or its first word, as in `\\boxed 5`."""
    if not text.startswith("{"):
        return next(iter(re.findall(r"\S+", text)), "").rstrip("$.,") or None
    depth = 0
    for place, sign in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        depth += 0 if escaped else (sign == "{") - (sign == "}")
        if depth == 0:
            return text[1:place].strip() or None
    return None


def same_answer(first: str, second: str) -> bool:
    """Whether math-verify finds two final answers equal as mathematics (LaTeX, fractions, units).

    It has to be called from the main thread, for the library stops endless comparisons by a signal.
    """
    if first.strip() == second.strip():
        return True
    return verify(parse(_as_latex(first)), parse(_as_latex(second)))


def _as_latex(answer: str) -> str:
    answer = answer.replace("\\$", "")  # the sign of an amount of money
    return answer if "$" in answer else f"${answer}$"
